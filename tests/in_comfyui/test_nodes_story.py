"""Nodes around the samplers: story, timeline, film. What each gives for good and for bad inputs."""

from __future__ import annotations

import asyncio
import json
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from in_comfyui.node_inputs import STORY
from in_comfyui.server import ROOT
from torch import Tensor
from transformers import T5Config, T5EncoderModel

from anchorshot.comfyui import film as film_run
from anchorshot.comfyui import timeline as timeline_input
from anchorshot.core.errors import InputError
from anchorshot.media.contact_sheet import SHOTS_PER_PAGE
from anchorshot.nodes import film, story, timeline
from anchorshot.pocket import configs
from anchorshot.pocket.native import load_keyframe_clip
from anchorshot.pocket.recipes import export
from anchorshot.pocket.tokenizer import build_tokenizer
from anchorshot.story import stages
from anchorshot.story.formats import guess_kind
from anchorshot.story.storyboard import Storyboard, load_storyboard, parse_storyboard
from anchorshot.story.timeline import Timeline

pytestmark = pytest.mark.usefixtures("folders")


# --- story -----------------------------------------------------------------------------------------------------------


def valid(text: str | None) -> bool | str:
    return asyncio.run(story.Storyboard.validate_inputs(text))


def test_storyboard_gives_one_entry_for_each_shot(board: Storyboard) -> None:
    out = story.Storyboard.execute(STORY).args
    assert out[0].to_dict() == board.to_dict()
    prompts, queries, timelines, seeds, tiled, width, height, fps, count = out[1:10]
    assert prompts == [caption.prompt for caption in board.captions()]
    assert queries[1] == board.captions()[1].query and "<" not in queries[1]
    assert [t.frames for t in timelines] == [5, 10] and timelines[1].keyframe_frames == [0, 5]
    assert seeds == [stages.stage_seed(shot, 1, "clip") for shot in board.shots]
    assert tiled == f"{prompts[0]} {prompts[1]}" and (width, height, fps, count) == (160, 80, 8.0, 2)
    assert out[10] == [prompts[0], prompts[1], prompts[1]] and out[11] == [queries[0], queries[1], queries[1]]


def test_storyboard_gives_keyframes_their_own_texts(studio: dict[str, Any]) -> None:
    told = STORY.replace("{at: 0.5}", "{at: 0.5, text: <Grzegorz> stands on the left.}")
    told = told.replace("characters: {", "characters: {Grzegorz: a green triangle with a bow, ")
    out = story.Storyboard.execute(told, clip=studio["clip"]).args
    prompts, keyframes, queries = out[1], out[10], out[11]
    assert keyframes[:2] == prompts and "stands on the left" in keyframes[2] and "Grzegorz" not in keyframes[2]
    assert queries[2].endswith("a green triangle with a bow stands on the left.")


def test_storyboard_from_a_file_of_the_input_folder(folders: Path) -> None:
    (folders / "input" / "film").mkdir()
    (folders / "input" / "film" / "story.yaml").write_text(STORY)
    assert story.Storyboard.execute("film/story.yaml\n").args[9] == 2
    assert valid("film/story.yaml") is True
    before = story.Storyboard.fingerprint_inputs("film/story.yaml")
    (folders / "input" / "film" / "story.yaml").write_text(STORY.replace("waves", "jumps"))
    assert story.Storyboard.fingerprint_inputs("film/story.yaml") != before
    (folders / "secret.yaml").write_text(STORY)
    for outside in ("../secret.yaml", str(folders / "secret.yaml")):
        assert "must lie in ComfyUI's input folder" in str(valid(outside))
    missing = str(valid("film/other.yaml"))
    assert 'must be an existing storyboard file (got "film/other.yaml")' in missing and str(folders) not in missing


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shots: []", "shots: must hold at least 1"),
        (STORY.replace("<Pip> jumps", "<Pipp> jumps"), "did you mean <Pip>?"),
        ("shots: [", "is not valid YAML"),
        ("", "is empty"),
    ],
)
def test_bad_storyboards_are_refused_before_the_queue(text: str, said: str) -> None:
    answer = valid(text)
    assert isinstance(answer, str) and said in answer and "\n" not in answer
    assert valid(None) is True  # linked: known when the graph runs


def test_formats_are_told_apart() -> None:
    examples = ROOT / "stories"
    for path in sorted(examples.iterdir()):
        text = path.read_text("utf-8")
        assert guess_kind(text) == path.suffix[1:]
        assert story.Storyboard.execute(text).args[9] == 6, path.name
    assert {path.suffix for path in examples.iterdir()} == {".yaml", ".csv", ".txt"}
    plain = json.dumps(load_storyboard(examples / "two_friends.yaml").to_dict())
    assert guess_kind(plain) == "json" and guess_kind("{title: x, shots: []}") == "yaml"
    assert guess_kind("A cat sits, and waits.") == "txt"


def test_small_text_encoders_get_names_that_they_know(board: Storyboard, studio: dict[str, Any]) -> None:
    strange = STORY.replace("Mira", "Grzegorz")
    prompts = story.Storyboard.execute(strange, clip=studio["clip"]).args[1]
    assert "Grzegorz" not in " ".join(prompts) and "<Pip>" in prompts[1]
    names = studio["clip"].tokenizer.names
    captions = [caption.prompt for caption in parse_storyboard(strange).captions()]
    assert prompts == stages.alias_names(captions, names)
    assert story.Shot.execute(parse_storyboard(strange), "1", clip=studio["clip"]).args[0] == prompts[0]


def test_words_that_a_small_encoder_was_not_taught_are_named_under_the_node(
    studio: dict[str, Any], tmp_path: Path
) -> None:
    """And sizes and rates that its studio was not made for; encoders that say nothing of either leave all as it is."""

    def shown(text: str, clip: Any) -> list[str]:
        return list(story.Storyboard.execute(text, clip=clip).ui.as_dict()["text"][0].split("\n"))

    config = {**configs.T5, "vocab_size": build_tokenizer().get_vocab_size()}
    weights = T5EncoderModel(T5Config(**config)).state_dict()
    taught = load_keyframe_clip(export.export_t5(tmp_path, weights, 0, {}), ROOT / "pocket/weights/clip.safetensors")
    strange = STORY.replace("waves", "juggles")
    assert set(taught.tokenizer.words) == set(export.taught_words())
    assert shown(STORY, taught) == shown(STORY, None) == shown(strange, None)
    first, note = shown(strange, taught.clone())
    assert note.startswith(
        "words this text encoder was not taught: juggles (in s01); it draws what it knows: colour red"
    )
    large = STORY.replace("[160, 80]", "[320, 160]")
    assert large != STORY and shown(large, taught) == shown(large, None)
    assert "was made for 160×80 pixels" in shown(large, studio["clip"])[-1]
    assert not any("was made for" in line for line in shown(STORY, studio["clip"]))


def test_shot_by_number_and_by_id(board: Storyboard) -> None:
    by_id, by_number, by_int = (story.Shot.execute(board, name).args for name in ("s02", "2", 2))
    assert by_id == by_number == by_int
    prompt, query, planned, seconds, seed, count, name, number = by_id
    assert prompt == board.captions()[1].prompt and query == board.captions()[1].query
    assert (planned.frames, seconds, count, name, number) == (10, 1.25, 2, "s02", 2)
    assert seed == stages.stage_seed(board.shots[1], 1, "clip")
    with pytest.raises(InputError, match="did you mean s01"):
        story.Shot.execute(board, "s1")


# --- timeline --------------------------------------------------------------------------------------------------------


def test_timeline_from_widgets_json_and_storyboard(board: Storyboard, pictures: Tensor) -> None:
    node = timeline.KeyframeTimeline
    assert node.execute(8, 2.0, "").args[0] == Timeline.plan(8, 2.0, [0.0])
    assert node.execute(8, 2.0, "[0, 1.0]").args[0] == Timeline.plan(8, 2.0, [0.0, 1.0])
    planned = Timeline.plan(8, 2.0, [0.0, 0.7, 1.5])
    again = node.execute(8, 2.0, planned.to_json())
    assert again.args[0] == planned and json.loads(again.args[4]) == planned.to_dict()
    assert again.args[2:4] == (planned.frames, 8.0) and again.ui["timeline"] == [planned.to_json()]
    two = node.execute(8, 9.0, '{"durations": [1.0, 2.0]}').args[0]
    assert two == Timeline.plan(8, 3.0, [0.0, 1.0])
    assert node.execute(24, 9.0, "", board, "s02").args[0] == board.shots[1].timeline(8)
    assert node.execute(24, 9.0, "[0]", board, "2").args[0].keyframe_frames == [0]
    film_long = node.execute(24, 9.0, "", board).args[0]
    assert film_long.fps == 8 and [k.requested.seconds for k in film_long.keyframes] == [0.0, 0.625, 1.125]
    shown = node.execute(8, 2.0, "[0, 1.0]", keyframes=pictures[:2])
    assert torch.equal(shown.args[1], pictures[:2]) and len(shown.ui["thumbnails"]) == 2


def test_an_object_in_the_place_of_the_text_is_read_as_json() -> None:
    """As it comes along a link, and as ComfyUI writes down one that an API graph gives."""
    given = {"keyframes": [{"requested": 0, "why": 'it\'s "here"'}, {"requested": 1.0}], "durations": None}
    node = timeline.KeyframeTimeline
    for text in (given, str(given), json.dumps(given), [0, 1.0], str([0, 1.0])):
        assert node.execute(8, 2.0, text).args[0] == Timeline.plan(8, 2.0, [0.0, 1.0])
        assert node.validate_inputs(text) is True
    for text in ("{'keyframes': [{'requested': 0}", "{'a': __import__('os')}", "{'" * 5000):
        assert "timeline: " in str(node.validate_inputs(text))


def test_timeline_errors_say_what_to_do(pictures: Tensor, board: Storyboard) -> None:
    node = timeline.KeyframeTimeline
    for inputs, said in [
        ((8, 2.0, "[0, 5.0]"), r"keyframes\[1\].at: must not lie beyond the shot's last frame at 1.875 s"),
        ((8, 2.0, "[1.0, 0.0]"), "must be in order of time"),
        ((8, 2.0, '{"keyframes": ["x"]}'), r"keyframes\[0\]: must be a number of seconds"),
        ((8, 2.0, '{"durations": [1, 0]}'), r"durations\[1\]: must be greater than 0"),
        ((8, 2.0, "[0, 1.0]", None, "", pictures[:1]), "keyframes: must be 2 pictures.*Rebatch Images joins a list"),
        ((8, 2.0, "", board, "s9"), "shot: must be a number from 1 to 2, or the id of a shot"),
    ]:
        with pytest.raises(InputError, match=said):
            node.execute(*inputs)
    assert "is not valid JSON" in str(node.validate_inputs("[0, "))
    assert node.validate_inputs("[0]") is True and node.validate_inputs(None) is True


def test_a_timeline_without_pictures_says_who_needs_them(monkeypatch: pytest.MonkeyPatch, pictures: Tensor) -> None:
    """Core's nodes would go on with nothing, and fail on it without naming the input."""
    node = timeline.KeyframeTimeline
    graph = {
        "1": {"class_type": "AnchorshotKeyframeTimeline", "inputs": {"fps": 8.0}},
        "2": {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 1], "vae": ["9", 0]}},
        "3": {"class_type": "AnchorshotMultiChunkVideoSampler", "inputs": {"keyframes": ["1", 1]}},
    }
    monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id="1", prompt=graph, extra_pnginfo=None))
    with pytest.raises(InputError, match=r"keyframes: are needed, because VAE Encode \(node 2\) takes them"):
        node.execute(8, 2.0, "")
    assert node.execute(8, 2.0, "", keyframes=pictures[:1]).args[1] is not None
    del graph["2"]
    assert node.execute(8, 2.0, "").args[1] is None
    graph["4"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0]}}
    assert node.execute(8, 2.0, "").args[1] is None


# --- film ------------------------------------------------------------------------------------------------------------


def join(clips: Any, **inputs: Any) -> tuple[Any, Tensor, int]:
    given = {"fps": 8.0, "transition": "cut"} | inputs
    return film.Film.execute(clips=clips, **{name: [value] for name, value in given.items()}).args


def test_film_cuts_and_dissolves(board: Storyboard, folders: Path) -> None:
    first, second = torch.zeros(5, 16, 32, 3), torch.ones(10, 16, 32, 3)
    made, images, frames = join({"clip_0": [first, second]})
    assert frames == 15 and torch.equal(images, torch.cat([first, second]))
    _, images, frames = join({"clip_0": [first], "clip_1": [second]}, storyboard=board)
    assert frames == 13  # two frames of five dissolve
    assert torch.allclose(images[2:6, 0, 0, 0], torch.tensor([0.0, 1 / 3, 2 / 3, 1.0]))
    made.save_to(str(folders / "film.mp4"))
    assert made.get_components().frame_rate == Fraction(8) and (folders / "film.mp4").stat().st_size > 500


def test_a_long_film_lies_on_the_disk(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its frames are the same, the file is not left behind, and a disk without room leaves it in memory."""
    clips, cuts = [torch.rand(5, 3, 16, 32), torch.rand(9, 3, 16, 32)], ["cut", "blend"]
    held = film_run.join(clips, cuts, Fraction(8))
    monkeypatch.setattr(film_run, "IN_MEMORY", 1000)
    mapped = []
    from_file = torch.from_file
    monkeypatch.setattr(torch, "from_file", lambda *a, **k: mapped.append(a) or from_file(*a, **k))
    assert torch.equal(film_run.join(clips, cuts, Fraction(8)), held) and len(mapped) == 1
    assert not list((folders / "temp").iterdir())
    monkeypatch.setattr(film_run.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2000))
    assert torch.equal(film_run.join(clips, cuts, Fraction(8)), held) and len(mapped) == 1


def test_film_errors_say_what_to_do(board: Storyboard) -> None:
    one, other = torch.zeros(5, 16, 32, 3), torch.zeros(5, 32, 32, 3)
    with pytest.raises(InputError, match=r"clips: all pictures must have one size \(got \"32x16, 32x32\"\)"):
        join({"clip_0": [one], "clip_1": [other]})
    with pytest.raises(InputError, match="clips: must be 2, one for each shot"):
        join({"clip_0": [one]}, storyboard=board)
    with pytest.raises(InputError, match="clips: must hold at least one frame"):
        join({})


def test_contact_sheet_has_a_card_for_every_shot(board: Storyboard, pictures: Tensor) -> None:
    sheet = film.ContactSheet.execute([board], {"shot_0": [pictures[:1], pictures[1:3]]}).args[0]
    assert sheet.ndim == 4 and sheet.shape[0] == 1 and sheet.shape[2] > 1000
    with pytest.raises(InputError, match="keyframes: must be 3, the storyboard's keyframes"):
        film.ContactSheet.execute([board], {"shot_0": [pictures[:2]]})


def test_long_contact_sheets_are_a_batch_of_equal_pages(pictures: Tensor) -> None:
    shots = [{"id": f"s{i:02d}", "action": "It rains."} for i in range(SHOTS_PER_PAGE + 1)]
    long = Storyboard.parse({"title": "Long", "shots": shots})
    sheet = film_run.contact_sheet(long, [pictures[:1]] * len(shots))
    assert sheet.shape[0] == 2 and torch.isfinite(sheet).all()


@pytest.mark.parametrize("unit", [r"\'", r"\"", "'", '"', "x'", "'\\", "True "])
def test_a_timeline_s_text_is_read_in_linear_time(unit: str) -> None:
    """It is looked at while the server waits."""
    text = ("{'" + unit * timeline_input.MAX_TEXT)[: timeline_input.MAX_TEXT]
    start = time.process_time()
    with pytest.raises(InputError, match="^timeline: is not valid JSON"):
        timeline_input.read_edit(text)
    assert time.process_time() - start < 1.0
