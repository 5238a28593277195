"""Films of start and end frames with tiny random models: pairs, memory, resume, given frames, matches, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from tiny_film import STORY, changed, frames, made, story

from anchorshot.agents.rules import RulesClient
from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.execution.local import WorkerExecutor
from anchorshot.media.image import read_image
from anchorshot.media.video import VideoReader
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.film import make_film
from anchorshot.pipelines.pair_job import PairJob, pair_story
from anchorshot.story.storyboard import Storyboard


@pytest.fixture
def studio(pair_studio: Path) -> Studio:
    return load_studio(pair_studio)


@pytest.fixture(scope="module")
def whole(pair_studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "whole"
    make_film(story(s03={"transition": "match"}), load_studio(pair_studio), folder, pairs=True)
    return folder


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "done"))


def figures(folder: Path, shot: str) -> list[dict]:
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    return [stages[f"{shot}/keyframe-{k}"]["info"] for k in (0, 1)]


def picture(folder: Path, name: str) -> torch.Tensor:
    return read_image(folder / "keyframes" / f"{name}.png")


def test_every_shot_has_a_start_and_an_end_frame_and_remembers_all_before(whole: Path) -> None:
    assert sorted(p.name for p in (whole / "keyframes").iterdir()) == [
        f"s0{i}_0{k}.png" for i in (1, 2, 3) for k in (0, 1)
    ]
    assert [VideoReader(whole / "clips" / f"s0{i}.mkv").frames for i in (1, 2, 3)] == [6, 6, 10]
    first, second, third = (figures(whole, f"s0{i}") for i in (1, 2, 3))
    assert first[0]["remembers"] == first[0]["sees"] == []
    assert set(second[0]["remembers"]) == {"keyframes/s01_00.png", "keyframes/s01_01.png"}
    assert second[1]["sees"] == ["keyframes/s01_01.png"]
    assert third[0]["source"] == "match" and third[1]["source"] == "generated"
    assert len(third[1]["remembers"]) == 3, "a canvas of 2×4 patches has room for three frames"
    assert all(0 < one["tokens"] <= one["tokens_uncompressed"] for one in (*first, *second, third[1]))
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["settings"]["pair"]["steps"] == 2 and summary["shots"][1]["keyframes"][1]["psnr_db"] > 0
    assert (whole / "contact_sheet.png").is_file()


def test_a_match_begins_with_the_very_frame_and_shows_it_once(whole: Path) -> None:
    assert torch.equal(picture(whole, "s03_00"), picture(whole, "s02_01"))
    film = VideoReader(whole / "film.mp4")
    assert film.frames == 6 + 6 - 3 + 10 - 1


def test_a_resumed_film_makes_nothing_and_a_shot_alone_is_the_same(whole: Path, done: Path, studio: Studio) -> None:
    board = story(s03={"transition": "match"})
    assert made(make_film(board, studio, done, pairs=True, resume=True)) == set()
    alone = done.parent / "alone"
    make_film(board, studio, alone, pairs=True, shots="s02")
    assert torch.equal(picture(alone, "s02_01"), picture(whole, "s02_01"))
    assert not (alone / "keyframes" / "s03_00.png").exists()
    shutil.rmtree(done / "clips")
    (done / "keyframes" / "s03_01.png").unlink()
    summary = make_film(board, studio, done, pairs=True, resume=True)
    assert made(summary) == {"s03/keyframe-0", "s03/keyframe-1", "s01/clip", "s02/clip", "s03/clip"}
    assert changed(frames(whole), frames(done)) <= {"film.mp4"}


def test_a_new_take_changes_a_shot_and_what_begins_with_its_end(done: Path, whole: Path, studio: Studio) -> None:
    summary = make_film(story(s03={"transition": "match"}), studio, done, pairs=True, redo="s01")
    assert {name for name in made(summary) if "keyframe" in name} == {"s01/keyframe-0", "s01/keyframe-1"}
    assert not torch.equal(picture(done, "s01_00"), picture(whole, "s01_00"))
    summary = make_film(story(s03={"transition": "match"}), studio, done, pairs=True, redo="s02")
    assert {name for name in made(summary) if "keyframe" in name} == {
        f"s0{i}/keyframe-{k}" for i in (2, 3) for k in (0, 1)
    }
    assert torch.equal(picture(done, "s03_00"), picture(done, "s02_01"))
    summary = make_film(story(s03={"transition": "match"}), studio, done, pairs=True, redo="s01", dependents=True)
    assert {f"s0{i}/keyframe-1" for i in (1, 2, 3)} <= made(summary)


def test_own_pictures_are_the_start_the_end_or_lie_between(studio: Studio, tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (64, 32), colour).save(tmp_path / f"{name}.png")
    shots = [shot for shot in STORY["shots"][:2]]
    shots[0] = shots[0] | {"keyframes": [{"at": 0.0}, {"at": 0.5, "image": "a.png"}]}
    shots[1] = shots[1] | {
        "seconds": 1.125,
        "keyframes": [{"at": 0.0, "image": "b.png"}, {"at": 0.5, "image": "a.png"}],
    }
    board = Storyboard.parse(STORY | {"shots": shots, "mode": "pairs"}, folder=tmp_path)
    out = tmp_path / "out"
    make_film(board, studio, out)
    red, blue = (torch.tensor(c)[:, None, None].expand(3, 32, 64) for c in ((1.0, 0, 0), (0, 0, 1.0)))
    assert torch.equal(picture(out, "s01_01"), red)
    assert torch.equal(picture(out, "s02_00"), blue) and torch.equal(picture(out, "s02_01"), red)
    assert (out / "keyframes" / "s02_02.png").is_file(), "the end frame is generated"
    assert figures(out, "s01")[0]["source"] == "generated"
    assert json.loads((out / "manifest.json").read_text())["task"] == "pairs"


def test_prompts_tell_every_characters_looks_and_the_length_where_asked(studio: Studio) -> None:
    board = story(s02={"action": "<Pip> jumps to <Mira>, and <Pip> laughs."})
    job = PairJob.of(pair_story(board), [0], studio, False)
    assert job.pair_prompts[1] == (
        "wide shot, static, in the town. <Pip>, a pink circle with a bow, jumps to <Mira>, a yellow square with a "
        "crown, and <Pip> laughs."
    )
    defaults = job.pair_settings.defaults.model_copy(update={"prompt": "Shot:\n{text}\n{seconds} s, {frames}"})
    assert defaults.told("x {frames}", 2.75275, 66) == "Shot:\nx {frames}\n2.75275 s, 66"


def test_what_cannot_be_made_is_refused(studio: Studio, tiny_studio: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pair: must be set for start and end frames"):
        make_film(story(), load_studio(tiny_studio), tmp_path / "a", pairs=True)
    with pytest.raises(InputError, match=r"shots\[0\].seconds: must have room for a start and an end frame"):
        make_film(story(s01={"seconds": 0.125}), studio, tmp_path / "b", pairs=True)
    with pytest.raises(InputError, match=r"shots\[0\].transition: match needs a shot before"):
        story(s01={"transition": "match"})
    with pytest.raises(InputError, match="keyframe: has no meaning"):
        make_film(story(), studio, tmp_path / "c", pairs=True, keyframe={"cfg": 2.0})


def test_a_film_of_another_kind_is_not_resumed(done: Path, studio: Studio) -> None:
    with pytest.raises(InputError, match="must hold a film with keyframes"):
        make_film(story(), studio, done, resume=True, pairs=False)


def test_the_command_makes_pairs_and_refuses_what_is_for_keyframes(
    pair_studio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "story.yaml"
    first, second, third = STORY["shots"]
    shots = [first | {"keyframes": [{"at": 0.0, "text": "<Mira> sits."}]}, second | {"transition": "match"}, third]
    file.write_text(json.dumps(STORY | {"mode": "pairs", "shots": shots}))
    command = ["film", str(file), "--studio", str(pair_studio), "--out", str(tmp_path / "out")]
    assert main([*command, "--cfg", "2"]) == 2
    assert "--cfg: is for films of keyframes" in capsys.readouterr().err
    assert main([*command, "--shots", "s01,s02"]) == 0
    assert "keyframes with a text of their own are left out with --pairs: s01" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["task"] == "pairs"
    assert main([*command, "--no-pairs", "--shots", "s01", "--out", str(tmp_path / "keyframes")]) == 0
    assert "a match is a cut without --pairs: s02" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [
        {"packing": "references", "pyramid": True, "rank_by": "image", "layout": "sequence", "last_level": 0.02},
        {"level": "pixel", "aspect": "fit", "rank_by": "recency", "joint": False, "guidance": 1.0, "shift": 2.2},
        {"packing": "references", "limit": 1, "area": 0.5, "drop_tokens": 3, "guidance_against": "memory"},
    ],
)
def test_every_setting_makes_other_pairs(pair_studio: Path, whole: Path, tmp_path: Path, settings: dict) -> None:
    data = yaml.safe_load(pair_studio.read_text())
    data["defaults"]["pair"] |= settings
    path = pair_studio.parent / f"pairs_{settings.get('rank_by', 'limit')}.yaml"
    path.write_text(yaml.safe_dump(data))
    studio = load_studio(path)
    make_film(story(), studio, tmp_path / "out", pairs=True, shots="s02")
    remembered = figures(tmp_path / "out", "s02")[0]["remembers"]
    grid = (2, 4)
    assert len(remembered) == len(studio.defaults.pair.pack.tiles(2, grid))
    if settings.get("rank_by") in ("image", "recency"):
        assert remembered[0] == "keyframes/s01_01.png"
    assert not torch.equal(picture(tmp_path / "out", "s02_01"), picture(whole, "s02_01"))
    kept = json.loads((tmp_path / "out" / "manifest.json").read_text())["stages"]["s02/keyframe-0"]["inputs"]
    assert all(kept["settings"][name] == value for name, value in settings.items())
    assert ("guidance_against" in kept["settings"]) == ("guidance_against" in settings), "older folders have none"


def test_a_refiner_writes_the_prompts_of_the_clips_also_for_two_workers(
    whole: Path, studio: Studio, tmp_path: Path
) -> None:
    board, out = story(s03={"transition": "match"}), tmp_path / "out"
    shutil.copytree(whole, out)
    summary = make_film(board, studio, out, pairs=True, resume=True, refiner=RulesClient())
    assert made(summary) == {f"s0{i}/{what}" for i in (1, 2, 3) for what in ("prompt", "clip")} | {"film"}
    told = (out / "prompts" / "s03.txt").read_text()
    assert told == "wide shot, static, in the desert. <Pip>, a pink circle with a bow, waves on the right.\n"
    assert made(make_film(board, studio, out, pairs=True, resume=True, refiner=RulesClient())) == set()
    two = WorkerExecutor([None, None], threads=1)
    make_film(board, studio, tmp_path / "workers", pairs=True, refiner=RulesClient(), executor=two)
    assert not changed(frames(out), frames(tmp_path / "workers")), "pairs and clips, all made anew"
    with pytest.raises(InputError, match="refiner: goes with start and end frames"):
        make_film(board, studio, tmp_path / "b", refiner=RulesClient())
