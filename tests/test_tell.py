"""Stories told from texts alone: whole runs, resumed runs, the backward pass, and the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from close import TOLERANCE
from PIL import Image
from safetensors.torch import load_file

from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.media.curve import draw_curves
from anchorshot.media.video import VideoReader
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.story_stage import settings_inputs, story_model
from anchorshot.pipelines.text_film import make_text_film, prompt_pairs
from anchorshot.sampling.text2story.action_similarity import SAR
from anchorshot.sampling.text2story.prompt_mixing import DIPW
from anchorshot.sampling.text2story.segments import StorySettings
from anchorshot.story.storyboard import Storyboard

STORY = {
    "title": "Tiny",
    "size": [64, 32],
    "characters": {"Mira": "a yellow square with a crown", "Pip": "a pink circle with a bow"},
    "places": {"dunes": "the desert"},
    "shots": [
        {"id": "s01", "place": "dunes", "action": "<Mira> waves on the left.", "seconds": 0.625},
        {"id": "s02", "place": "dunes", "action": "<Pip> jumps on the right.", "seconds": 1.125},
        {"id": "s03", "place": "dunes", "scene": "<Pip> stands on the right.", "seconds": 0.625},
    ],
}


def story(**shots: dict) -> Storyboard:
    return Storyboard.parse(STORY | {"shots": [shot | shots.get(shot["id"], {}) for shot in STORY["shots"]]})


@pytest.fixture(scope="module")
def studio(tiny_studio: Path) -> Studio:
    return load_studio(tiny_studio)


@pytest.fixture(scope="module")
def whole(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tell") / "whole"
    make_text_film(story(), studio, folder)
    return folder


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Stories of other lengths encode other texts together, and matrix kernels round by the size of their batch."""
    return torch.allclose(a, b, atol=TOLERANCE)


def latents(folder: Path, shot: str, stage: str = "segment") -> torch.Tensor:
    return load_file(folder / "latents" / f"{shot}_{stage}.safetensors")["latents"]


def test_every_prompt_stands_alone() -> None:
    """Looks are told in each prompt of each shot, because nothing else tells them."""
    first, second, third = prompt_pairs(story())
    told = ["wide shot, static, in the desert. <Mira>, a yellow square with a crown, waves on the left."]
    assert first.scene == first.whole == told  # no scene text: who is there is told by the action
    assert first.action == ["<Mira>, a yellow square with a crown, waves on the left."]
    assert second.action == ["<Pip>, a pink circle with a bow, jumps on the right."]
    assert second.action_query == ["a pink circle with a bow jumps on the right."]
    both = story(s02={"scene": "<Mira> stands on the left."})  # the scene decides who is there, so it names everybody
    assert prompt_pairs(both)[1].scene == prompt_pairs(both)[1].whole and "<Pip>" in prompt_pairs(both)[1].scene[0]
    alone = story(s02={"scene": "<Pip> stands on the right. <Mira> waves on the left."})
    assert "jumps" not in prompt_pairs(alone)[1].scene[0] and "jumps" in prompt_pairs(alone)[1].action[0]
    stands = "wide shot, static, in the desert. <Pip>, a pink circle with a bow, stands on the right."
    assert third.scene == third.action == third.whole == [stands]  # no action: nothing to mix


def test_a_told_film_is_whole(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    film = VideoReader(whole / "film.mp4")
    assert film.frames == summary["frames"] == 5 + 9 + 5
    assert [shot["frames"] for shot in summary["shots"]] == [5, 9, 5]
    assert summary["shots"][0]["gamma"] == 0 and all(0 < shot["gamma"] <= 0.25 for shot in summary["shots"][1:])
    assert all(len(shot["scene_weights"]) == len(summary["shots"][0]["scene_weights"]) > 1 for shot in summary["shots"])
    assert all(Image.open(whole / name).size[0] > 300 for name in ("contact_sheet.png", "weights.png"))
    assert len(list((whole / "stills").glob("*.png"))) == 9
    assert not list(whole.rglob(".tmp-*"))


def test_a_broken_off_run_goes_on(whole: Path, studio: Studio, tmp_path: Path) -> None:
    """Only the segment that is gone, and the film of the same frames; a changed one takes those after it along."""
    folder = Path(shutil.copytree(whole, tmp_path / "film"))
    shutil.rmtree(folder / "clips")
    (folder / "latents" / "s03_segment.safetensors").unlink()
    before = (whole / "film.mp4").read_bytes()
    summary = make_text_film(story(), studio, folder, resume=True)
    assert summary["timings"]["made"] == ["s01/clip", "s02/clip", "s03/clip", "s03/segment"]
    assert (folder / "film.mp4").read_bytes() == before
    assert same(latents(folder, "s03"), latents(whole, "s03"))
    lines: list[str] = []
    edit = story(s02={"action": "<Pip> waves on the right."})
    made = make_text_film(edit, studio, folder, resume=True, say=lines.append)["timings"]["made"]
    assert {"s02/segment", "s03/segment", "film"} < set(made) and "s01/segment" not in made
    assert any("s02/segment again: prompts changed" in line for line in lines)


def test_without_blending_segments_are_independent(studio: Studio, tmp_path: Path) -> None:
    settings = StorySettings(gamma=0.0)
    first = make_text_film(story(), studio, tmp_path / "a", settings)
    make_text_film(story(s01={"action": "<Mira> dances on the left."}), studio, tmp_path / "b", settings)
    assert same(latents(tmp_path / "a", "s02"), latents(tmp_path / "b", "s02"))
    assert not torch.equal(latents(tmp_path / "a", "s01"), latents(tmp_path / "b", "s01"))
    assert [shot["gamma"] for shot in first["shots"]] == [0, 0, 0]


def test_the_backward_pass_draws_ends_to_what_follows(whole: Path, studio: Studio, tmp_path: Path) -> None:
    told: dict[str, list[float]] = {}

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        told.setdefault(stage, []).append(done / total)

    make_text_film(story(), studio, tmp_path / "film", StorySettings(backward=0.4), progress=progress)
    assert list(told) == ["segment", "backward", "clip"]
    assert all(shares == sorted(shares) and shares[0] <= 0.5 and shares[-1] == 1 for shares in told.values())
    last, after = latents(tmp_path / "film", "s02"), latents(tmp_path / "film", "s03")
    drawn = latents(tmp_path / "film", "s02", "backward")

    def gap(z: torch.Tensor) -> float:
        return float((z[:, :, -1] - after[:, :, 0]).abs().mean())

    assert same(last, latents(whole, "s02"))
    assert gap(drawn) < 0.8 * gap(last)
    assert not (tmp_path / "film" / "latents" / "s03_backward.safetensors").exists()


def test_a_cut_where_the_place_changes(whole: Path, studio: Studio, tmp_path: Path) -> None:
    """Shots of one place blend as ever; those after a cut know nothing of what was before."""
    town, folder = {"places": {"dunes": "the desert", "town": "the town"}}, tmp_path / "film"

    def moved(**shots: dict) -> dict[str, Any]:
        changed = {"s03": {"place": "town"}} | shots
        return STORY | town | {"shots": [shot | changed.get(shot["id"], {}) for shot in STORY["shots"]]}

    told: dict[str, list[float]] = {}

    def progress(stage: str, done: float, total: float, note: str = "") -> None:
        told.setdefault(stage, []).append(done / total)

    both = StorySettings(backward=0.4)
    summary = make_text_film(Storyboard.parse(moved()), studio, folder, both, cut=True, progress=progress)
    assert summary["settings"]["cut"] and summary["shots"][1]["gamma"] > 0 == summary["shots"][2]["gamma"]
    assert same(latents(folder, "s02"), latents(whole, "s02"))
    assert told["backward"][-1] == 1 and not (folder / "latents" / "s02_backward.safetensors").exists()
    alone = moved() | {"shots": moved()["shots"][2:]}
    make_text_film(Storyboard.parse(alone), studio, tmp_path / "alone")
    assert same(latents(folder, "s03"), latents(tmp_path / "alone", "s03"))
    unnamed = Storyboard.parse(moved(s02={"place": None}))  # where the shot before was
    gammas = [shot["gamma"] for shot in make_text_film(unnamed, studio, tmp_path / "unnamed", cut=True)["shots"]]
    assert gammas[1] > 0 == gammas[2]
    edit = Storyboard.parse(moved(s01={"action": "<Mira> dances on the left."}))
    made = make_text_film(edit, studio, folder, both, cut=True, resume=True)["timings"]["made"]
    assert not any(name.startswith("s03/") for name in made) and "s02/segment" in made


def test_only_the_parts_that_tell_are_needed_and_count(tiny_studio: Path, tmp_path: Path) -> None:
    """No keyframe model, image VAE or text encoder of theirs: neither their files nor their settings matter."""
    gone = {"keyframe": {"file": "no"}, "image_vae": {"kind": "flux_vae", "file": "no"}}
    gone["keyframe_text"] = {"kind": "t5", "file": "no"}
    config = yaml.safe_load(tiny_studio.read_text()) | gone | {"video_text": {"kind": "t5", "file": "t5.safetensors"}}
    one = Storyboard.parse(STORY | {"shots": STORY["shots"][:1]})
    out = tmp_path / "film"

    def told(settings: StorySettings | None = None, **changes: dict) -> list[str]:
        file = tmp_path / "studio.yaml"
        file.write_text(yaml.safe_dump(config | {"models_dir": str(tiny_studio.parent)} | changes))
        return make_text_film(one, load_studio(file), out, settings, resume=True)["timings"]["made"]

    assert told() == ["film", "s01/clip", "s01/segment"] and (out / "weights.png").exists()
    other = {
        "keyframe": {"file": "other"},
        "defaults": {"keyframe": {"steps": 9}, "video": config["defaults"]["video"]},
    }
    assert told(**other) == []
    assert "s01/segment" in told(clip=config["clip"] | {"dtype": "float16"})
    assert "s01/segment" in told(StorySettings(dipw=None))
    assert not (out / "weights.png").exists()


OLDER = StorySettings(DIPW(prior_clock="steps", prior_shift=1.0), "alone", sar=SAR(bounded=True))
"""All that could be chosen once."""


def test_a_folder_of_once_resumes_with_the_choices_of_once(studio: Studio, tmp_path: Path) -> None:
    """Its manifest names none of today's choices; with today's the folder is told anew, and a line says how not to."""
    inputs = settings_inputs(OLDER)
    assert set(inputs) == {"dipw", "gamma", "at", "until", "semantic", "backward", "backward_from"}
    assert set(inputs["dipw"]) == {"lambdas", "tau", "every", "start", "end"}
    today = settings_inputs(StorySettings())
    assert {"action_prompt", "sar"} < set(today) and {"prior_clock", "prior_shift"} < set(today["dipw"])
    bare = settings_inputs(StorySettings(dipw=None, gamma=0.0))  # what changes nothing is not named
    assert not {"action_prompt", "sar"} & set(bare)
    one = Storyboard.parse(STORY | {"shots": STORY["shots"][:1]})
    make_text_film(one, studio, tmp_path / "film", OLDER)
    lines: list[str] = []
    again = make_text_film(one, studio, tmp_path / "film", OLDER, resume=True, say=lines.append)
    assert again["timings"]["made"] == [] and not lines
    again = make_text_film(one, studio, tmp_path / "film", resume=True, say=lines.append)
    assert "s01/segment" in again["timings"]["made"] and "--prior-clock steps --action-prompt alone" in lines[0]


def test_a_centred_story_remakes_only_what_blends_otherwise(studio: Studio, tmp_path: Path) -> None:
    """The mean follows from all texts: a new last one changes γ' of those before it, and their segments with it."""
    settings = StorySettings(dipw=None, sar=SAR(centred=True))
    first = make_text_film(story(), studio, tmp_path / "film", settings)
    gammas = [shot["gamma"] for shot in first["shots"]]
    assert gammas[0] == 0 and all(0 < gamma <= 0.5 for gamma in gammas[1:])
    edit = story(s03={"action": "<Mira> dances on the left."})
    again = make_text_film(edit, studio, tmp_path / "film", settings, resume=True)
    assert again["shots"][1]["gamma"] != gammas[1] and again["shots"][0]["kept"] and not again["shots"][1]["kept"]
    within = StorySettings(dipw=None, sar=SAR("clip", "within"))
    make_text_film(story(), studio, tmp_path / "within", within)
    again = make_text_film(edit, studio, tmp_path / "within", within, resume=True)
    assert [shot["kept"] for shot in again["shots"]] == [True, True, False]


def test_what_was_told_when_the_whole_studio_counted_stays(whole: Path, studio: Studio, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "film"))
    manifest = json.loads((folder / "manifest.json").read_text())
    own = manifest["stages"]["s01/segment"]["inputs"]["studio"]
    for name, entry in manifest["stages"].items():
        if "studio" in entry["inputs"]:
            assert entry["inputs"]["studio"] == own != studio.fingerprint()
            entry["inputs"]["studio"] = "another" if name == "s03/clip" else studio.fingerprint()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert make_text_film(story(), studio, folder, resume=True)["timings"]["made"] == ["s03/clip"]
    stages = json.loads((folder / "manifest.json").read_text())["stages"].values()
    assert {entry["inputs"].get("studio", own) for entry in stages} == {own}


def test_a_length_off_the_grid_is_refused_before_anything_loads(tiny_studio: Path) -> None:
    studio = load_studio(tiny_studio)
    with pytest.raises(InputError, match=r"frames: a chunk has 4n\+1 frames.*got 6"):
        story_model(studio, 6, (32, 64))
    assert not {"video", "video_vae", "video_text", "keyframe_text", "clip"} & vars(studio).keys()


def test_the_command(tiny_studio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tiny.json"
    file.write_text(json.dumps(STORY))
    arguments = ["tell", str(file), "--studio", str(tiny_studio), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*arguments, "--without", "dipw,sar", "--gamma", "0.1", "--json", str(tmp_path / "s.json")]) == 0
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["settings"]["dipw"] is None and not (tmp_path / "out" / "weights.png").exists()
    assert [shot["gamma"] for shot in summary["shots"]] == [0, 0.1, 0.1]
    assert str(tmp_path / "out" / "film.mp4") in capsys.readouterr().out
    for wrong in (
        ["--gamma", "0.7"],
        ["--without", "colour"],
        ["--every", "0"],
        ["--prior-shift", "0"],
        ["--prior-clock", "time"],
        ["--action-prompt", "both"],
        ["--sar-pair", "scenes"],
        ["--preview", "sketch"],
    ):
        assert main([*arguments, *wrong]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert wrong[0] in line


def test_the_command_s_choices_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its defaults are those of the settings; with the clock of steps the prior is the paper's."""
    file, told = tmp_path / "tiny.json", list[StorySettings]()
    file.write_text(json.dumps(STORY))

    def tell(story: object, studio: object, out: object, settings: StorySettings, **more: object) -> None:
        told.append(settings)
        raise InputError("told", "is enough", None, "stop")

    monkeypatch.setattr("anchorshot.pipelines.text_film.make_text_film", tell)
    for options in (
        [],
        ["--prior-clock", "steps", "--action-prompt", "alone", "--sar-bounded"],
        ["--prior-shift", "3", "--sar-encoder", "clip", "--sar-pair", "adjacent", "--sar-centred"],
    ):
        assert main(["tell", str(file), "--out", str(tmp_path / "out"), "--device", "cpu", *options]) == 2
    clip = SAR("clip", "adjacent", centred=True)
    assert told == [StorySettings(), OLDER, StorySettings(DIPW(prior_shift=3.0), sar=clip)]


def test_curves_show_where_values_are() -> None:
    """Brightness along a rising curve rises: ink is low at the left and high at the right."""
    page = draw_curves("w", {"a": [0.0, 0.5, 1.0]})
    assert page.size == (640, 320)
    ink = [[y for y in range(320) if page.getpixel((x, y)) == (86, 180, 233)] for x in (53, 622)]
    assert ink[0] and ink[1] and min(ink[0]) > 200 and max(ink[1]) < 100
    with pytest.raises(InputError, match="curves"):
        draw_curves("w", {})
