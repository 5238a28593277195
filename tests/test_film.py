"""Films of tiny random models: whole runs, resumed runs, new takes, subsets, own pictures, joins, memory."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_film import STORY, changed, frames, made, story

from anchorshot.core.errors import InputError
from anchorshot.media.image import read_image
from anchorshot.media.video import VideoReader
from anchorshot.memory.golden_mem import GoldenMem
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.film import make_film
from anchorshot.pipelines.job import FilmJob, FilmSettings
from anchorshot.pipelines.keyframe_sampling import KeyframeSampler
from anchorshot.sampling.keyframes import sample_keyframes
from anchorshot.story.stages import stage_seed, window_seed
from anchorshot.story.storyboard import Storyboard


@pytest.fixture
def studio(tiny_studio: Path) -> Studio:
    return load_studio(tiny_studio)


@pytest.fixture(scope="module")
def whole(tiny_studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run; tests copy it."""
    folder = tmp_path_factory.mktemp("film") / "whole"
    make_film(story(), load_studio(tiny_studio), folder)
    return folder


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    """A finished film that a test may change."""
    return Path(shutil.copytree(whole, tmp_path / "done"))


@pytest.mark.parametrize("part", ["keyframe", "video"])
def test_a_model_that_breaks_down_is_named_and_the_film_stays(done: Path, studio: Studio, part: str) -> None:
    """Its weights are finite; what it makes is not."""
    with torch.no_grad():
        next(getattr(studio, part).parameters()).fill_(3e38)
    before = (done / "film.mp4").read_bytes()
    with pytest.raises(InputError, match=rf"^\w+/s01\S*, {part}: must make finite"):
        make_film(story(), studio, done)
    assert (done / "film.mp4").read_bytes() == before


def test_a_film_is_whole(whole: Path) -> None:
    """All files, right lengths and times, keyframes on their snapped frames, and a summary that says so."""
    summary = json.loads((whole / "summary.json").read_text())
    film = VideoReader(whole / "film.mp4")
    clips = [VideoReader(whole / "clips" / f"s0{i}.mkv").frames for i in (1, 2, 3)]
    assert clips == [5, 5, 10]
    assert (film.fps, film.size, film.frames) == (8, (32, 64), 5 + 5 - 2 + 10)
    assert summary["frames"] == film.frames and summary["seconds"] == film.frames / 8
    assert [shot["start"] for shot in summary["shots"]] == [0, 3 / 8, 1.0]
    keys = summary["shots"][2]["keyframes"]
    assert [(k["requested"], k["snapped"], k["frame"]) for k in keys] == [(0.0, 0.0, 0), (0.7, 0.625, 5)]
    assert [k["remembers"] for k in summary["shots"][0]["keyframes"]] == [[]]
    assert set(keys[0]["remembers"]) == {"keyframes/s01_00.png", "keyframes/s02_00.png"}
    assert len(keys[1]["remembers"]) == 2  # GoldenMem of 2 groups × 1 image drops the third
    assert all(0 < k["tokens"] <= k["tokens_uncompressed"] for shot in summary["shots"] for k in shot["keyframes"])
    assert all(0 < k["psnr_db"] < 100 for shot in summary["shots"] for k in shot["keyframes"])
    seeds = [k["seed"] for shot in summary["shots"] for k in shot["keyframes"]]
    assert len(set(seeds)) == 4
    assert Image.open(whole / "contact_sheet.png").size[0] > 500
    assert not list(whole.rglob(".tmp-*"))


@pytest.fixture(scope="module")
def joint(tiny_studio: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film whose keyframes are made in windows of up to three, all seeing all."""
    folder = tmp_path_factory.mktemp("film") / "joint"
    make_film(story(), load_studio(tiny_studio), folder, keyframe=JOINT)
    return folder


JOINT = {"window": 3, "mode": "full"}


def test_a_window_of_keyframes_is_made_together(joint: Path, whole: Path, studio: Studio) -> None:
    """What was made together says so, what came before is remembered, and only those that share a window differ."""
    keys = [k for shot in json.loads((joint / "summary.json").read_text())["shots"] for k in shot["keyframes"]]
    names = [f"keyframes/{name}.png" for name in ("s01_00", "s02_00", "s03_00", "s03_01")]
    assert [k.get("together") for k in keys] == [names[:3]] * 3 + [None]
    assert [k["remembers"] for k in keys[:3]] == [[]] * 3 and set(keys[3]["remembers"]) <= set(names[:3])
    before, after = frames(whole), frames(joint)
    assert all(before[name] != after[name] for name in names)
    texts = studio.keyframe_text.alias([caption.prompt for caption in story().captions()])
    window = studio.keyframe_text.encode(texts).rows()
    seed = window_seed([stage_seed(shot, 1, "keyframe-0") for shot in story().shots])
    settings = replace(FilmSettings.of(studio, (32, 64)).keyframe, mode="full")
    latents = sample_keyframes(studio.keyframe, window, (16, 4, 8), (), settings, torch.Generator().manual_seed(seed))
    for name, latent in zip(names, latents, strict=False):
        made_alone, shown = studio.image_vae.decode_image(latent)[0], read_image(joint / name)
        assert (made_alone - shown).abs().max() <= 1.01 / 255


def test_a_window_is_gone_on_with_and_made_again_as_one(joint: Path, studio: Studio, tmp_path: Path) -> None:
    done = Path(shutil.copytree(joint, tmp_path / "done"))
    before, first = frames(done), {"s01/keyframe-0", "s02/keyframe-0", "s03/keyframe-0"}
    assert made(make_film(story(), studio, done, resume=True, keyframe=JOINT)) == set()
    (done / "keyframes" / "s02_00.png").unlink()
    summary = make_film(story(), studio, done, resume=True, keyframe=JOINT)
    assert made(summary) == first and frames(done) == before
    summary = make_film(story(), studio, done, redo="s02", keyframe=JOINT)
    clips = {"s01/clip", "s02/clip", "s03/clip"}
    assert made(summary) == first | clips | {"film"}  # the last keyframe only remembers them: see --dependents
    assert {"keyframes/s01_00.png", "keyframes/s03_00.png"} <= changed(before, frames(done))
    summary = make_film(story(), studio, tmp_path / "one", shots="s01", keyframe=JOINT)
    assert first <= made(summary) and "s03/keyframe-1" not in made(summary)
    assert (tmp_path / "one" / "keyframes" / "s01_00.png").read_bytes() == before["keyframes/s01_00.png"]


def test_settings_of_one_s_own_are_used_and_enter_the_manifest(done: Path, studio: Studio, whole: Path) -> None:
    """And a film made before there were such settings is not made again where they are left alone."""
    plain = json.loads((whole / "manifest.json").read_text())["stages"]["s01/keyframe-0"]["inputs"]["settings"]
    assert set(plain) == {"steps", "shift", "context_noise", "mode", "guidance", "cache", "groups", "images",
                          "first_tier", "retrieval"}  # fmt: skip
    lines: list[str] = []
    change = {"cfg": 2.0, "negative": "a forest", "sampler": "heun", "sigmas": [1, 0.5, 0], "level": "latent",
              "context_noise": [0.05, 0.2]}  # fmt: skip
    make_film(story(), studio, done, resume=True, keyframe=change, say=lines.append)
    used = json.loads((done / "manifest.json").read_text())["stages"]["s03/keyframe-1"]["inputs"]["settings"]
    assert used == plain | change | {"steps": 2} and "settings (" in lines[0] and "cfg" in lines[0]
    assert changed(frames(whole), frames(done)) >= {f"keyframes/s0{i}_00.png" for i in (1, 2, 3)}
    for wrong, said in (({"window": 0}, "window: must be at least 1"), ({"widow": 2}, "did you mean `window`"),
                        ({"sigmas": [1, 0.2, 0.4, 0]}, "sigmas: must fall from 1 to 0")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            make_film(story(), studio, done, resume=True, keyframe=wrong)


def test_keyframes_of_a_clip_are_the_vae_s_picture_of_them(whole: Path, studio: Studio) -> None:
    """A keyframe is pinned: the clip shows it on the snapped frame as the VAE reconstructs it, to the last bit."""
    clip = list(VideoReader(whole / "clips" / "s03.mkv"))
    for index, frame in enumerate((0, 5)):
        picture = read_image(whole / "keyframes" / f"s03_{index:02d}.png")
        latent = studio.video_vae.encode_image(picture[None])
        expected = studio.video_vae.decode_image(latent)[0]
        assert (clip[frame] - expected).abs().max() <= 1.01 / 255


def test_the_same_story_gives_the_same_film(whole: Path, studio: Studio, tmp_path: Path) -> None:
    again = make_film(story(), studio, tmp_path)
    assert frames(tmp_path) == frames(whole)
    assert len(made(again)) == 4 + 3 + 1


def test_resume_of_a_finished_film_makes_nothing(done: Path, studio: Studio) -> None:
    before = frames(done)
    summary = make_film(story(), studio, done, resume=True)
    assert made(summary) == set() and all(shot["kept"] for shot in summary["shots"])
    assert frames(done) == before


def test_only_what_changed_is_made_again(done: Path, studio: Studio) -> None:
    """An edited shot alone; a damaged clip alone; and each time the film."""
    before = frames(done)
    lines: list[str] = []
    edit = story(s02={"action": "<Pip> dances on the right."})
    summary = make_film(edit, studio, done, resume=True, say=lines.append)
    assert made(summary) == {"s02/keyframe-0", "s02/clip", "film"}
    assert any("s02/keyframe-0 again: prompt, query changed" in line for line in lines)
    files = {"keyframes/s02_00.png", "clips/s02.mkv", "film.mp4", "contact_sheet.png"}
    assert changed(before, frames(done)) == files
    assert made(make_film(story(), studio, done, resume=True)) == made(summary)
    assert frames(done) == before
    (done / "clips" / "s01.mkv").write_bytes(b"damaged")
    (done / "keyframes" / "s03_01.png").unlink()
    summary = make_film(story(), studio, done, resume=True)
    assert made(summary) == {"s01/clip", "s03/keyframe-1"}
    assert frames(done) == before


def test_other_weights_make_everything_again(done: Path, tiny_studio: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_studio.parent, tmp_path / "studio"))
    state = load_file(folder / "video.safetensors")
    state["head.head.bias"] = state["head.head.bias"] + 1
    with safe_open(folder / "video.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(state, folder / "video.safetensors", metadata=metadata)
    summary = make_film(story(), load_studio(folder / "tiny.yaml"), done, resume=True)
    assert len(made(summary)) == 4 + 3 + 1


def test_a_new_take_leaves_the_others_unless_asked(done: Path, studio: Studio) -> None:
    before = frames(done)
    summary = make_film(story(), studio, done, redo="s02")
    assert made(summary) == {"s02/keyframe-0", "s02/clip", "film"}
    assert [shot["take"] for shot in summary["shots"]] == [1, 2, 1]
    after = frames(done)
    assert {"keyframes/s02_00.png", "clips/s02.mkv", "film.mp4"} <= changed(before, after)
    assert made(make_film(story(), studio, done, resume=True)) == set()
    summary = make_film(story(), studio, done, redo="s01", dependents=True)
    assert [shot["take"] for shot in summary["shots"]] == [2, 2, 1]
    # s02 remembers s01, and s03 remembers both
    assert {"s01/clip", "s02/clip", "s03/clip"} <= made(summary)
    assert changed(after, frames(done)) >= {"clips/s01.mkv", "clips/s03.mkv"}
    with pytest.raises(InputError, match="--redo: names a shot"):
        make_film(story(), studio, done, redo="s09")


def test_a_shot_alone_looks_as_in_the_whole_film(whole: Path, studio: Studio, tmp_path: Path) -> None:
    summary = make_film(story(), studio, tmp_path, shots="s02")
    assert [shot["id"] for shot in summary["shots"]] == ["s02"]
    part = frames(tmp_path)
    assert set(part) == {
        "keyframes/s01_00.png", "keyframes/s02_00.png", "clips/s02.mkv", "film.mp4", "contact_sheet.png",
    }  # fmt: skip
    expected = frames(whole)
    assert all(part[name] == expected[name] for name in part if name[0] in "k" or name.startswith("clips"))
    assert VideoReader(tmp_path / "film.mp4").frames == 5  # nothing to dissolve with
    summary = make_film(story(), studio, tmp_path, resume=True)
    assert made(summary) == {"s03/keyframe-0", "s03/keyframe-1", "s01/clip", "s03/clip", "film"}
    assert frames(tmp_path) == expected


def test_without_resume_the_film_starts_over(done: Path, studio: Studio) -> None:
    before = frames(done)
    make_film(story(), studio, done, redo="s01")
    summary = make_film(story(), studio, done)
    assert len(made(summary)) == 4 + 3 + 1 and frames(done) == before


def test_seeds_do_not_depend_on_other_shots(studio: Studio) -> None:
    shots = story().shots
    seeds = {stage_seed(shot, take, stage) for shot in shots for take in (1, 2) for stage in ("keyframe-0", "clip")}
    assert len(seeds) == 12
    alone = Storyboard.parse(STORY | {"shots": STORY["shots"][2:]}).shots[0]
    assert stage_seed(alone, 1, "clip") == stage_seed(shots[2], 1, "clip")
    assert stage_seed(story(s03={"seed": 4}).shots[2], 1, "clip") != stage_seed(shots[2], 1, "clip")


class Stop(BaseException):
    """Stands for Ctrl-C at a chosen moment."""


def test_interrupted_in_any_stage_it_resumes_to_the_same_film(whole: Path, studio: Studio, tmp_path: Path) -> None:
    """Stop at reports of progress spread over both stages, between and in the middle of solver steps; resume each."""
    reports = 0

    def count(stage: str, done: float, total: float, note: str = "") -> None:
        nonlocal reports
        reports += 1
        if reports == limit:
            raise Stop

    limit = -1
    make_film(story(), studio, tmp_path / "count", progress=count)
    total = reports
    for limit in range(2, total + 1, 7):
        folder, reports = tmp_path / str(limit), 0
        with pytest.raises(Stop):
            make_film(story(), studio, folder, progress=count)
        began = (folder / "manifest.json").exists()  # not before the first keyframe is made
        finished = set(json.loads((folder / "manifest.json").read_text())["stages"]) if began else set()
        limit = -1
        summary = make_film(story(), studio, folder, resume=True)
        assert not finished & made(summary), "a finished stage was made twice"
        assert frames(folder) == frames(whole)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no kill -9 on this system")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("stage", ["keyframes", "video", "film"])
def test_kill_9_in_each_stage(stage: str, whole: Path, studio: Studio, tmp_path: Path) -> None:
    """Killed in the second keyframe, the second clip, and while the film is joined: the resumed film is the same."""

    def progress(name: str, done: float, total: float, note: str = "") -> None:
        if name == stage and done >= 3:
            os.kill(os.getpid(), signal.SIGKILL)

    def say(line: str) -> None:
        if stage == "film" and "joining" in line:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            make_film(story(), studio, tmp_path, progress=progress, say=say)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    finished = set(json.loads((tmp_path / "manifest.json").read_text())["stages"])
    assert finished
    summary = make_film(story(), studio, tmp_path, resume=True)
    assert not finished & made(summary)
    assert frames(tmp_path) == frames(whole)


def test_own_pictures_are_keyframes_and_are_remembered(studio: Studio, tmp_path: Path) -> None:
    """The picture is cropped to the frame, shown in the clip, remembered later; an edited one is noticed."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (300, 100), (200, 30, 30)).save(tmp_path / "images" / "mira.png")
    shots = [dict(shot) for shot in STORY["shots"]]
    shots[0]["keyframes"] = [{"at": 0, "image": "images/mira.png"}]
    board = Storyboard.parse(STORY | {"shots": shots}, folder=tmp_path)
    out = tmp_path / "out"
    summary = make_film(board, studio, out)
    picture = read_image(out / "keyframes" / "s01_00.png")
    assert picture.shape == (3, 32, 64) and torch.allclose(picture.mean((1, 2)) * 255, torch.tensor([200.0, 30, 30]))
    first, second = summary["shots"][0]["keyframes"][0], summary["shots"][1]["keyframes"][0]
    assert first["source"] == "image" and second["remembers"] == ["keyframes/s01_00.png"]
    before = frames(out)
    Image.new("RGB", (300, 100), (30, 200, 30)).save(tmp_path / "images" / "mira.png")
    summary = make_film(board, studio, out, resume=True)
    assert made(summary) == {"s01/keyframe-0", "s01/clip", "film"}
    assert "keyframes/s02_00.png" not in changed(before, frames(out))


def test_what_cannot_work_is_refused_before_anything_is_rendered(studio: Studio, tmp_path: Path) -> None:
    def refused(board: Storyboard, match: str, folder: str = "out") -> None:
        with pytest.raises(InputError, match=match) as caught:
            make_film(board, studio, tmp_path / folder)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / folder / "manifest.json").exists()

    floats = np.zeros((40, 40), np.float32)
    floats[0, 0] = np.nan
    Image.fromarray(floats).save(tmp_path / "nan.tiff")
    (tmp_path / "nan.tiff").rename(tmp_path / "nan.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 50)
    for name, match in (("nan.png", r"shots\[2\].keyframes\[1\].image: must be a picture"), ("broken.png", "picture")):
        shots = [dict(shot) for shot in STORY["shots"]]
        shots[2]["keyframes"] = [{"at": 0}, {"at": 0.7, "image": name}]
        refused(Storyboard.parse(STORY | {"shots": shots}, folder=tmp_path), match)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "film.mp4").write_text("holiday")
    refused(story(), "no film of ours", "taken")
    (studio.file.parent / "gone.yaml").write_text(studio.file.read_text().replace("video.safetensors", "gone"))
    lost = load_studio(studio.file.parent / "gone.yaml")
    with pytest.raises(InputError, match="video"):
        make_film(story(), lost, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_size_that_the_studio_cannot_make_is_refused(tiny_studio: Path, tmp_path: Path) -> None:
    """Every side must be a whole number of tokens of the larger cell (here a VAE of 16 px cells, so 32)."""
    studio = load_studio(tiny_studio)
    studio.image_vae.spatial_compression = 16
    board = Storyboard.parse(STORY | {"size": [64, 48]})
    with pytest.raises(InputError, match=r"size: must be multiples of 32 for the studio tiny .*use \[64, 64\]"):
        make_film(board, studio, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def live_bytes() -> int:
    """Bytes in all tensors that Python tracks (those before `gc.freeze` aside), shared storage counted once."""
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_memory_does_not_grow_with_the_number_of_shots(studio: Studio, tmp_path: Path) -> None:
    """The most that tensors hold at any report of progress is the same for 4 shots and for 8 (embeddings aside)."""

    def peak(count: int) -> int:
        shots = [STORY["shots"][i % 2] | {"id": f"s{i}"} for i in range(count)]
        most = 0

        def look(stage: str, done: float, total: float, note: str = "") -> None:
            nonlocal most
            gc.collect()  # not to count what is garbage already
            most = max(most, live_bytes())

        make_film(Storyboard.parse(STORY | {"shots": shots}), studio, tmp_path / str(count), progress=look)
        return most

    gc.collect()
    gc.freeze()  # what is there already need not be looked through at every report
    try:
        short = peak(4)
        assert short > 100_000
        assert peak(8) <= short + 4 * 64 * 4 + 4096
    finally:
        gc.unfreeze()


def test_a_refused_run_leaves_the_finished_film(done: Path, tiny_studio: Path, tmp_path: Path) -> None:
    """Bad weights of any part: every file stays, byte for byte, and the film is gone on with."""
    folder = Path(shutil.copytree(tiny_studio.parent, tmp_path / "studio"))
    good = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    before = {path: path.read_bytes() for path in done.rglob("*") if path.is_file()}
    for name in good:
        state = load_file(folder / name)
        with safe_open(folder / name, "pt") as file:
            metadata = file.metadata()
        state.pop(max(state, key=lambda key: state[key].numel()))
        broken = tmp_path / "broken.safetensors"
        save_file(state, broken, metadata=metadata)
        for spoilt in (broken.read_bytes(), b"", good[name][: len(good[name]) // 2]):
            (folder / name).write_bytes(spoilt)
            with pytest.raises(InputError):
                make_film(story(), load_studio(folder / "tiny.yaml"), done)
        (folder / name).write_bytes(good[name])
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before
    assert made(make_film(story(), load_studio(tiny_studio), done, resume=True)) == set()


def test_a_run_that_fails_on_the_way_has_replaced_no_more_than_it_made(
    done: Path, studio: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be found out before, such as a full disk in the first clip of a film made anew.

    A shot that nobody changed remembers another in the two films, so its keyframe is of one of them only.
    """

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    before, other = frames(done), story(s02={"seed": 5})
    make_film(other, studio, tmp_path / "other")
    for go_on, expected, kept in (
        (other, frames(tmp_path / "other"), {"s03/keyframe-0"}),
        (story(), before, {"s01/clip"}),
    ):
        folder = Path(shutil.copytree(done, tmp_path / str(len(kept & {"s01/clip"}))))
        with monkeypatch.context() as patched:
            patched.setattr("anchorshot.pipelines.clip_sampling.sample_with_defaults", full)
            with pytest.raises(OSError, match="No space"):
                make_film(other, studio, folder)
        assert changed(before, frames(folder)) <= {f"keyframes/s0{i}.png" for i in ("2_00", "3_00", "3_01")}
        summary = make_film(go_on, studio, folder, resume=True)  # the one that was begun, and the one that was there
        assert frames(folder) == expected and kept.isdisjoint(made(summary))


def test_a_keyframe_sees_those_before_it_only_in_whichever_order_they_are_made(studio: Studio) -> None:
    """A worker may be given an earlier keyframe again, after later ones."""
    board = story()
    settings = replace(FilmSettings.of(studio, board.frame_size), retrieval="recency", memory=GoldenMem.full(4))
    places = [(position, index) for position, shot in enumerate(board.shots) for index in range(len(shot.keyframes))]
    sampler = KeyframeSampler(FilmJob(board, [0, 1, 2], studio, settings), places)
    for place in (places[3], places[1], places[2], places[0]):
        remembered = [rank.frame.text for rank in sampler._recall([place])]
        assert remembered == places[: places.index(place)][::-1]
