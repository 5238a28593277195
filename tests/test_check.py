"""Keyframes compared with their captions: what is found missing, how often they are made, and what is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.media.image import read_image
from anchorshot.models.studio import load_studio
from anchorshot.pipelines.film import make_film
from anchorshot.pipelines.job import FilmSettings
from anchorshot.pipelines.stages.keyframes import ATTEMPTS
from anchorshot.pocket.checking import CaptionCheck
from anchorshot.pocket.recogniser import Reading, Recogniser, load_recogniser
from anchorshot.pocket.render import render
from anchorshot.pocket.world import ACCESSORIES, COLOURS, SHAPES, Actor, Layout, Look, ShotSpec
from anchorshot.sampling.keyframes import sample_keyframes
from anchorshot.story.stages import attempt_seed, stage_seed
from anchorshot.story.storyboard import Storyboard

WEIGHTS = Path(__file__).resolve().parent.parent / "pocket" / "weights"
CAST = {"Mira": "a yellow square with a crown", "Bo": "a red circle with a hat"}
STORY = {
    "size": [64, 32],
    "characters": CAST,
    "places": {"dunes": "the desert", "town": "the town"},
    "shots": [
        {"id": "s01", "place": "dunes", "action": "<Mira> waves on the left.", "frames": 5},
        {"id": "s02", "place": "town", "action": "<Bo> jumps on the right.", "frames": 5},
    ],
}


def story(**changes: Any) -> Storyboard:
    return Storyboard.parse(STORY | changes)


# --- what a picture lacks --------------------------------------------------------------------------------------------

MIRA, BO = Look(2, 0, 0), Look(0, 1, 1)


def picture(*actors: Actor, place: int = 0) -> torch.Tensor:
    """What the pocket world shows, `[3, 80, 160]`."""
    frame, _ = render(ShotSpec(Layout(place, 1, 0, 2), actors, 0, 0))
    return torch.tensor(frame).permute(2, 0, 1).float() / 255


@pytest.fixture(scope="module")
def check() -> CaptionCheck:
    """With the recogniser that comes along."""
    return CaptionCheck(load_recogniser(WEIGHTS / "recogniser.safetensors").read, CAST, "pocket")


HEAD = "wide shot, static, in the desert. "
BOTH = Actor("Mira", MIRA, 0, 0), Actor("Bo", BO, 1, 1)


@pytest.mark.parametrize(
    ("caption", "missing"),
    [
        ("<Mira> stands on the left. <Bo> waves on the right.", []),
        ("<Mira>, a yellow square with a crown, stands on the left. <Bo> waves on the right.", []),
        ("<Mira> and <Bo> stand.", []),
        ("<Bo> and <Mira> wave.", []),  # nobody's side is told
        ("<Bo> waves.", []),
        ("The crimson ball <Bo> stands on the right.", []),
        ("<Mira> stands on the right. <Bo> waves on the left.",
         ["<Mira>: yellow", "<Mira>: square", "<Mira>: crown", "<Bo>: red", "<Bo>: circle", "<Bo>: hat"]),
        ("<Bo>, a blue circle with a scarf, waves on the right.", ["<Bo>: blue", "<Bo>: scarf"]),
        ("<Zoe> is somebody. <Bo> waves on the right.", []),  # of whom nothing is told
    ],
)  # fmt: skip
def test_what_a_caption_tells_is_looked_for(check: CaptionCheck, caption: str, missing: list[str]) -> None:
    """On the side that it tells; looks are the film's, or the caption's own."""
    assert check.missing(picture(*BOTH), HEAD + caption) == missing


def test_who_is_not_there_misses_all_and_so_does_the_place(check: CaptionCheck) -> None:
    alone = picture(BOTH[0], place=1)
    told = "<Mira> stands on the left. <Bo> waves on the right."
    lacks = ["<Bo> on the right", "<Bo>: red", "<Bo>: circle", "<Bo>: hat", "place: desert"]
    assert check.missing(alone, HEAD + told) == lacks
    assert check.missing(alone, "wide shot, static. <Mira> stands.") == []  # no place told
    three = CaptionCheck(check._read, CAST | {"Zoe": "a blue star with a bow"}, "pocket")
    assert three.missing(picture(*BOTH), HEAD + "<Zoe>, <Bo> and <Mira> stand.") == []  # two are all that fit


# --- films -----------------------------------------------------------------------------------------------------------


def write_recogniser(path: Path, seed: int, nobody: bool = False) -> Path:
    """A recogniser of random weights; one that sees `nobody` anywhere."""
    torch.manual_seed(seed)
    model = Recogniser(width=8)
    if nobody:
        with torch.no_grad():
            model.side[-1].bias[:2] = torch.tensor([50.0, -50.0])
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(state, path, metadata={"config": json.dumps(model.config)})
    return path


def with_recogniser(studio: Path, recogniser: Path) -> Path:
    """A studio that reads its pictures by `recogniser`."""
    config = yaml.safe_load(studio.read_text())
    models = studio.parent / config["models_dir"]
    config |= {"models_dir": str(models), "recogniser": {"file": str(recogniser)}}
    path = recogniser.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def blind(tiny_studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny studio with a recogniser that finds nobody."""
    folder = tmp_path_factory.mktemp("blind")
    return with_recogniser(tiny_studio, write_recogniser(folder / "blind.safetensors", 0, nobody=True))


@pytest.fixture(scope="module")
def unsure(tiny_studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny studio with a random recogniser, to which attempts differ."""
    folder = tmp_path_factory.mktemp("unsure")
    return with_recogniser(tiny_studio, write_recogniser(folder / "unsure.safetensors", 3))


def shown(folder: Path) -> dict[str, bytes]:
    files = [*folder.glob("keyframes/*"), *folder.glob("clips/*"), folder / "film.mp4"]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def keys(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [key for shot in summary["shots"] for key in shot["keyframes"]]


def test_what_is_never_right_is_made_three_times_and_the_first_kept(blind: Path, tmp_path: Path) -> None:
    """And an unchecked film goes on as a checked one, and back, with the same frames."""
    studio, lines = load_studio(blind), list[str]()
    plain = make_film(story(), studio, tmp_path / "plain")
    assert plain["check"] is None and not any("attempts" in key or "missing" in key for key in keys(plain))
    summary = make_film(story(), studio, tmp_path / "film", check=True, say=lines.append)
    assert [key["attempts"] for key in keys(summary)] == [ATTEMPTS, ATTEMPTS] == [3, 3]
    assert all(len(key["missing"]) >= 4 for key in keys(summary))
    assert keys(summary)[0]["missing"][:2] == ["<Mira> on the left", "<Mira>: yellow"]
    assert summary["check"] == {"keyframes": 2, "attempts": 6, "missing": sum(len(k["missing"]) for k in keys(summary))}
    assert "s01, keyframe 1 of 1, attempt 2: missing <Mira> on the left; <Mira>: yellow" in lines[1]
    assert shown(tmp_path / "film") == shown(tmp_path / "plain")
    lines.clear()
    again = make_film(story(), studio, tmp_path / "plain", check=True, resume=True, say=lines.append)
    assert set(again["timings"]["made"]) == {"s01/keyframe-0", "s02/keyframe-0"}  # their clips are as they were
    assert lines[0] == "s01/keyframe-0 again: check changed" and shown(tmp_path / "film") == shown(tmp_path / "plain")


def test_the_best_attempt_is_kept(unsure: Path, tmp_path: Path) -> None:
    """Each from a seed of its own, which only the keyframe's seed and the attempt decide."""
    studio = load_studio(unsure)
    summary = make_film(story(), studio, tmp_path / "film", check=True)
    checking, film = studio.keyframe_check(CAST), story()
    prompt = film.captions()[0].prompt
    text = studio.keyframe_text.encode(studio.keyframe_text.alias([c.prompt for c in film.captions()])[:1]).rows()
    settings, tried = FilmSettings.of(studio, (32, 64)), []
    for attempt in range(1, ATTEMPTS + 1):
        seed = attempt_seed(stage_seed(film.shots[0], 1, "keyframe-0"), attempt)
        noise = torch.Generator().manual_seed(seed)
        latent = sample_keyframes(studio.keyframe, text, (16, 4, 8), (), settings.keyframe, noise)[0]
        made = studio.image_vae.decode_image(latent)[0]
        tried.append((checking.missing(made, prompt), seed, made))
    counts = [len(lacks) for lacks, _, _ in tried]
    best = counts.index(min(counts))
    assert best > 0 and counts[0] > min(counts) > 0, counts  # else the recogniser above tells nothing
    first = keys(summary)[0]
    assert (first["missing"], first["seed"], first["attempts"]) == (tried[best][0], tried[best][1], 3)
    kept = read_image(tmp_path / "film" / "keyframes" / "s01_00.png")
    assert (kept - tried[best][2]).abs().max() <= 1.01 / 255
    assert (kept - tried[0][2]).abs().max() > 2 / 255


def test_a_checked_film_is_gone_on_with(unsure: Path, tmp_path: Path) -> None:
    """The same frames after a loss as without; a new take is checked, too."""
    studio = load_studio(unsure)
    whole = make_film(story(), studio, tmp_path / "film", check=True)
    before = shown(tmp_path / "film")
    assert make_film(story(), studio, tmp_path / "film", check=True, resume=True)["timings"]["made"] == []
    (tmp_path / "film" / "keyframes" / "s01_00.png").unlink()
    again = make_film(story(), studio, tmp_path / "film", check=True, resume=True)
    assert again["timings"]["made"] == ["s01/keyframe-0"] and shown(tmp_path / "film") == before
    assert keys(again) == keys(whole) and again["check"] == whole["check"]
    taken = make_film(story(), studio, tmp_path / "film", check=True, redo="s02")
    assert keys(taken)[1]["attempts"] >= 1 and keys(taken)[1]["seed"] != keys(whole)[1]["seed"]
    assert keys(taken)[0] == keys(whole)[0]


def test_another_recogniser_checks_anew(blind: Path, unsure: Path, tmp_path: Path) -> None:
    config = yaml.safe_load(blind.read_text())
    other = tmp_path / "other.yaml"
    config["recogniser"]["file"] = str(unsure.with_suffix(".safetensors"))
    other.write_text(yaml.safe_dump(config))
    lines: list[str] = []
    make_film(story(), load_studio(blind), tmp_path / "film", check=True)
    make_film(story(), load_studio(other), tmp_path / "film", check=True, resume=True, say=lines.append)
    assert "s01/keyframe-0 again: check (recogniser) changed" in lines


def test_a_window_is_made_again_as_one_and_given_pictures_stay(blind: Path, tmp_path: Path) -> None:
    source = make_film(story(), load_studio(blind), tmp_path / "source")
    assert source["check"] is None
    shutil.copy(tmp_path / "source" / "keyframes" / "s01_00.png", tmp_path / "own.png")
    shots = [*STORY["shots"], STORY["shots"][0] | {"id": "s03", "keyframes": [{"at": 0, "image": "own.png"}]}]
    film = Storyboard.parse(STORY | {"shots": shots}, folder=tmp_path)
    joint = {"window": 2, "mode": "full"}
    summary = make_film(film, load_studio(blind), tmp_path / "film", check=True, keyframe=joint)
    first, second, own = keys(summary)
    assert first["attempts"] == second["attempts"] == 3 and first["together"] == second["together"]
    assert "attempts" not in own and "missing" not in own and own["source"] == "image"
    assert summary["check"]["keyframes"] == 2


def test_studios_without_a_recogniser_say_so_before_anything_is_made(tiny_studio: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tiny\.yaml, recogniser: must be set for keyframes to be checked.*--check"):
        make_film(story(), load_studio(tiny_studio), tmp_path / "film", check=True)
    assert not (tmp_path / "film").exists()


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path: Path) -> None:
    save_file({"a": torch.zeros(2)}, path)


def infinite(path: Path) -> None:
    model = Recogniser(width=8)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["frame.0.bias"][0] = torch.inf
    save_file(state, path, metadata={"config": '{"width": 8}'})


def wider(path: Path) -> None:
    state = {name: value.clone() for name, value in Recogniser(width=8).state_dict().items()}
    save_file(state, path, metadata={"config": '{"width": 80000}'})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Path.unlink, "recogniser.file: file must exist"),
        (broken, "recogniser: safetensors file must be whole"),
        (foreign, "must hold a recogniser"),
        (infinite, "weights must be finite"),
        (wider, "config.width: must be the width of the file's first layer"),
    ],
)
def test_recognisers_that_cannot_be_used_are_named_and_only_where_they_are_needed(
    spoil: Any, said: str, tiny_studio: Path, tmp_path: Path
) -> None:
    path = with_recogniser(tiny_studio, write_recogniser(tmp_path / "r.safetensors", 0))
    studio = load_studio(path)
    studio.check("recogniser")
    assert isinstance(studio.recogniser, Recogniser)
    spoil(tmp_path / "r.safetensors")
    with pytest.raises(InputError) as error:
        make_film(story(), load_studio(path), tmp_path / "film", check=True)
    assert said in str(error.value) and "r.yaml" in str(error.value) and not (tmp_path / "film").exists()
    load_studio(path).check()  # what films without a check need


@pytest.fixture(scope="module")
def pocket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in studio, its clips made in two steps: they are not what is looked at."""
    config = load_studio("pocket").config.model_dump(mode="json", exclude_unset=True)
    config["models_dir"] = str(WEIGHTS)
    config["defaults"]["video"] |= {"steps": 2}
    path = tmp_path_factory.mktemp("pocket") / "pocket.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_a_real_film_is_checked_from_the_command(pocket: Path, tmp_path: Path, capfd) -> None:
    """The trained models and the trained recogniser: what is kept is what the recogniser says it is."""
    film = {key: value for key, value in STORY.items() if key != "size"}
    (tmp_path / "story.yaml").write_text(yaml.safe_dump(film))
    command = ["film", str(tmp_path / "story.yaml"), "--studio", str(pocket), "--device", "cpu"]
    out = ["--out", str(tmp_path / "film"), "--json", str(tmp_path / "film.json")]
    assert main([*command, *out, "--check"]) == 0
    printed = capfd.readouterr().out
    summary = json.loads((tmp_path / "film.json").read_text())
    studio = load_studio(pocket)
    checking = studio.keyframe_check(CAST)
    for shot, key, caption in zip(("s01", "s02"), keys(summary), story().captions(), strict=True):
        kept = read_image(tmp_path / "film" / "keyframes" / f"{shot}_00.png")
        assert checking.missing(kept, caption.prompt) == key["missing"]
        assert 1 <= key["attempts"] <= 3 and (key["attempts"] == 3 or not key["missing"])
        assert (f"{shot}, keyframe 1 of 1: after 3 attempts still missing:" in printed) == bool(key["missing"])
    assert "attempts" in printed and summary["check"]["missing"] <= 2, printed
    manifest = json.loads((tmp_path / "film" / "manifest.json").read_text())
    assert manifest["stages"]["s01/keyframe-0"]["info"]["attempts"] == keys(summary)[0]["attempts"]


def test_the_same_frames_with_and_without_where_the_first_attempt_is_right(pocket: Path, tmp_path: Path) -> None:
    studio = load_studio(pocket)
    film = Storyboard.parse({"shots": [{"id": "s01", "scene": "<A> stands on the left.", "frames": 5}],
                             "characters": {"A": "somebody"}})  # fmt: skip
    summary = make_film(film, studio, tmp_path / "checked", check=True)
    assert keys(summary)[0]["attempts"] == 1 and keys(summary)[0]["missing"] == []
    make_film(film, studio, tmp_path / "plain")
    assert shown(tmp_path / "checked") == shown(tmp_path / "plain")


def test_a_prop_s_colour_is_not_a_character_s() -> None:
    """What a caption says behind a name does not overrule the description, which may have several sentences."""
    story = {"Ana": "a yellow star with a crown", "Bo": "A friend. Navy ball. Wears a scarf."}
    seen = Reading(
        {
            "present": torch.tensor([[1, 1]]),
            "colour": torch.tensor([[COLOURS.index("yellow"), COLOURS.index("blue")]]),
            "shape": torch.tensor([[SHAPES.index("star"), SHAPES.index("circle")]]),
            "accessory": torch.tensor([[ACCESSORIES.index("crown"), ACCESSORIES.index("hat")]]),
            "place": torch.tensor([0]),
        }
    )
    check = CaptionCheck(lambda pictures: seen, story, "")
    caption = "wide shot, static, in the desert. <Ana> jumps onto the green box on the left. <Bo> waves on the right."
    assert check.missing(torch.zeros(3, 80, 160), caption) == ["<Bo>: scarf"]
