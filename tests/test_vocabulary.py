"""Words, sizes and rates that a studio was not taught: found in storyboards, told once, never about public encoders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.models.encoders.text import load_text, prove_text
from anchorshot.models.studio import load_studio
from anchorshot.pocket import configs
from anchorshot.pocket.lexicon import LEXICON, PLAIN, words_of
from anchorshot.pocket.recipes import export
from anchorshot.pocket.tokenizer import build_tokenizer
from anchorshot.story.storyboard import Storyboard, load_storyboard
from anchorshot.story.vocabulary import Vocabulary, made_for_note, unknown_words, words_in, words_note

ROOT = Path(__file__).resolve().parent.parent
KNOWN = export.taught_words()
STORY = {
    "characters": {"Bo": "a crimson robot with a top hat", "Mira": "a yellow square with a crown", "Nob": "a walrus"},
    "places": {"hall": "the library", "dunes": "the desert", "attic": "the attic"},
    "shots": [
        {"id": "s01", "place": "dunes", "action": "<Mira> jumped on the left, <Bo>'s 2 boxes shine.", "frames": 5},
        {"id": "s02", "place": "hall", "scene": "Bo’s box and a ROBOT.", "camera": {"movement": "tilt up"}, "frames": 5,
         "keyframes": [{"at": 0, "text": "<Mira> holds an umbrella."}]},
    ],
}  # fmt: skip


def board(**changes: object) -> Storyboard:
    return Storyboard.parse(STORY | changes)


def test_unknown_words_are_told_with_where_they_stand() -> None:
    """Tags, numbers, case and 's apart; camera terms, keyframes, places and looks, but only of what is shown."""
    found = unknown_words(board(), KNOWN)
    assert found["ROBOT"] == ["s02", "looks of Bo"] and found["library"] == ["place hall"] and found["tilt"] == ["s02"]
    assert found["umbrella"] == ["s02"] and not {"walrus", "attic", "crimson", "2", "Mira", "robot"} & found.keys()


def test_one_line_says_what_and_where_and_what_is_near() -> None:
    line = words_note(board(), KNOWN, "the studio “pocket”")
    assert line is not None and "\n" not in line
    assert line.startswith("words the studio “pocket” was not taught: jumped, boxes, shine, Bo, ")
    assert "(in s01, s02, looks of Bo, place hall)" in line and "jumped → jump" in line and "boxes → box" in line
    assert "Bo → <Bo>" in line  # a name without its tag
    assert "; it draws what it knows: colour red, orange," in line and "place desert, town," in line
    near = Storyboard.parse({"shots": [{"scene": "A yelow box in the dessert.", "frames": 5}]})
    line = words_note(near, KNOWN)
    assert line == (
        "words this text encoder was not taught: yelow, dessert (in s01); nearest: yelow → yellow, dessert → desert; "
        "it draws what it knows"
    )


def test_no_word_is_said_where_there_is_nothing_to_say() -> None:
    assert words_note(board(), Vocabulary()) is None and unknown_words(board(), Vocabulary()) == {}
    for path in sorted((ROOT / "stories").iterdir()):
        assert words_note(load_storyboard(path), KNOWN) is None, path.name


def test_long_films_stay_one_short_line() -> None:
    shots = [{"scene": f"Qu{'xyz' * i} zz{chr(97 + i % 26)}q{'j' * i}", "frames": 5} for i in range(200)]
    line = words_note(Storyboard.parse({"shots": shots}), KNOWN)
    assert line is not None and len(line) < 900 and "and 194 more" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<Mira>'s hat, 3 red_boxes & a B2 (don't!) 2nd", ["hat", "red", "boxes", "B2", "don't"]),
        ("top-hat — “Größe”; l’été, the friends'", ["top-hat", "Größe", "l’été", "the", "friends"]),
        ("米拉在 हिन्दी में 狗", ["米拉在", "हिन्दी", "में", "狗"]),
        ("<a b> . , 7", []),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert words_in(text) == words


@pytest.mark.parametrize("word", ["tree", "dog", "robot", "horse", "house", "car", "sun"])
def test_nothing_far_is_suggested(word: str) -> None:
    assert word not in KNOWN and KNOWN.nearest(word) is None


@pytest.mark.parametrize(
    ("word", "near"), [("yelow", "yellow"), ("Hats", "hat"), ("walked", "walk"), ("triangel", "triangle")]
)
def test_what_is_spelt_alike_is_suggested(word: str, near: str) -> None:
    assert KNOWN.nearest(word) == near


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A small T5 as the recipes write theirs."""
    torch.manual_seed(0)
    config = {**configs.T5, "vocab_size": build_tokenizer().get_vocab_size()}
    return export.export_t5(tmp_path, T5EncoderModel(T5Config(**config)).state_dict(), 0, {})


def test_exported_encoders_carry_the_words_that_they_were_taught(exported: Path) -> None:
    encoder = load_text("t5", exported)
    assert set(encoder.words) == {*words_of(), *PLAIN} and encoder.names
    assert encoder.words.kinds["colour"]["red"] == list(LEXICON["colour"]["red"])
    assert "Emerald's" in encoder.words and "robot" not in encoder.words
    public = load_text("t5", ROOT / "pocket" / "weights" / "t5_video.safetensors")
    with safe_open(ROOT / "pocket" / "weights" / "t5_video.safetensors", "pt") as file:
        assert bool(public.words) == ("words" in file.metadata())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"words": "red"}, "metadata.words: is not valid JSON"),
        ({"words": '{"red": 1}'}, "metadata.words: must be a JSON list"),
        ({"words": "[1]"}, "metadata.words: must be a text"),
        ({"kinds": '{"colour": ["red"]}'}, "metadata.kinds.colour: must be a JSON object"),
    ],
)
def test_broken_lists_of_words_are_named_before_anything_is_made(exported: Path, change: dict, said: str) -> None:
    with safe_open(exported, "pt") as file:
        metadata = file.metadata() | change
    save_file(load_file(exported), exported, metadata=metadata)
    for read in (load_text, prove_text):
        with pytest.raises(InputError) as error:
            read("t5", exported)
        assert said in str(error.value)


@pytest.fixture
def small_studio(tiny_studio: Path, exported: Path, tmp_path: Path) -> Path:
    """The tiny studio with an encoder that says its words, made for a size and a rate."""
    config = yaml.safe_load(tiny_studio.read_text())
    config |= {"models_dir": str(tiny_studio.parent), "made_for": {"size": [160, 80], "fps": 8}}
    config["keyframe_text"] = {"kind": "t5", "file": str(exported)}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_studio_s_words_are_read_without_its_weights(small_studio: Path, tiny_studio: Path) -> None:
    studio = load_studio(small_studio)
    assert set(studio.words()) == set(KNOWN) and studio.words("video_text") and "keyframe_text" not in vars(studio)
    assert not load_studio(tiny_studio).words()


def test_the_film_command_says_it_before_it_renders(small_studio: Path, tmp_path: Path, capfd) -> None:
    """One line of words, one of size and rate; and the film is made all the same."""
    story = tmp_path / "story.yaml"
    story.write_text(yaml.safe_dump({"size": [64, 32], "fps": 12, "shots": STORY["shots"][:1]} | {
        "characters": STORY["characters"], "places": STORY["places"]}))  # fmt: skip
    code = main(["film", str(story), "--studio", str(small_studio), "--out", str(tmp_path / "film"), "--device", "cpu"])
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert code == 0 and len([line for line in lines if "was not taught" in line]) == 1, err
    assert lines[0].startswith(
        "story.yaml: words the studio “tiny” was not taught: jumped, boxes, shine, robot (in s01"
    )
    assert lines[1] == (
        "story.yaml: the studio “tiny” was made for 160×80 pixels and 8 fps: "
        "pictures and motion suffer at 64×32 and 12 fps"
    )
    assert "was not taught" not in err and (tmp_path / "film" / "film.mp4").is_file()


def test_sizes_and_rates_are_told_only_where_a_studio_names_them() -> None:
    film = board(size=[320, 160], fps=24)
    assert made_for_note(film, None, None) is None and made_for_note(board(), (160, 80), 8) is None
    assert made_for_note(film, None, 8, "S") == "S was made for 8 fps: pictures and motion suffer at 24 fps"
    assert (
        made_for_note(film, [160, 80], 24, "S") == "S was made for 160×80 pixels: pictures and motion suffer at 320×160"
    )


def test_what_a_studio_is_made_for_does_not_change_its_films(small_studio: Path) -> None:
    """Nor does a recogniser: films made before a studio named them can be gone on with."""
    config = yaml.safe_load(small_studio.read_text())
    before = load_studio(small_studio).fingerprint()
    config["recogniser"] = {"file": str(ROOT / "pocket" / "weights" / "recogniser.safetensors")}
    del config["made_for"]
    small_studio.write_text(yaml.safe_dump(config))
    assert load_studio(small_studio).fingerprint() == before
    config["made_for"] = {"size": [160], "fps": 8}
    small_studio.write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"small.yaml line \d+, made_for.size"):
        load_studio(small_studio)


def test_metadata_is_read_back() -> None:
    again = Vocabulary.read(json.loads(json.dumps(KNOWN.metadata())))
    assert list(again) == list(KNOWN) and list(again.kinds) == ["colour", "shape", "accessory", "place", "action"]
