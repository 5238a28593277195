"""Videos that go on, made by tiny random models: what is made, resumed and redone, and what is left untouched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from anchorshot.cli import main
from anchorshot.core.errors import InputError
from anchorshot.execution.stage import Task
from anchorshot.media.image import write_image
from anchorshot.media.joins import matched
from anchorshot.media.source_video import SourceVideo
from anchorshot.media.video import VideoReader, open_writer
from anchorshot.models.backbones.spec import Native
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.extend import ExtendJob, make_extension
from anchorshot.pipelines.extend_plan import Grid, NewShot, context_length, plan_grid, plan_parts
from anchorshot.pipelines.extend_sampling import look_back
from anchorshot.pipelines.stages.extension import CONTEXT, Given

POCKET, WAN_5B = Native((80, 160), 17, 8), Native((704, 1280), 121, 24)
GRID: dict[str, Any] = {"context": 0.6, "size": (32, 64)}


def shots(folder: Path, **changed: str) -> list[NewShot]:
    """One that goes on through a picture, and one that cuts to a picture."""
    picture = folder / "picture.png"
    pictures = [((0.6, picture),), ((0.0, picture),)]
    names = ("s01", "s02")
    return [
        NewShot(name, changed.get(name, f"{name} in the desert"), 1.125, given, seed=4)
        for name, given in zip(names, pictures, strict=True)
    ]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video and a picture."""
    folder = tmp_path_factory.mktemp("given")
    with open_writer(folder / "video.mp4", 8) as writer:
        for n in range(14):
            writer.write(torch.rand(3, 4, 8, generator=torch.Generator().manual_seed(n)).repeat_interleave(8, 1)
                         .repeat_interleave(8, 2))  # fmt: skip
    write_image(folder / "picture.png", torch.rand(3, 40, 64, generator=torch.Generator().manual_seed(99)))
    return folder


@pytest.fixture(scope="module")
def studio(tiny_studio: Path) -> Studio:
    return load_studio(tiny_studio)


@pytest.fixture(scope="module")
def whole(given: Path, studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run."""
    folder = tmp_path_factory.mktemp("extension") / "whole"
    make_extension(given / "video.mp4", shots(given), studio, folder, **GRID)
    return folder


@pytest.fixture
def done(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "done"))


def again(given: Path, studio: Studio, folder: Path, *, redo: tuple[str, ...] = (), **changed: str) -> list[str]:
    """What a resumed run makes."""
    summary = make_extension(
        given / "video.mp4", shots(given, **changed), studio, folder, resume=True, redo=redo, **GRID
    )
    return list(summary["timings"]["made"])


def test_the_video_is_untouched_and_what_is_new_follows_it(given: Path, whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["copied"] and summary["context_frames"] == 5
    old, new = SourceVideo(given / "video.mp4"), SourceVideo(whole / "extended.mp4")
    pairs = list(zip(old.frames(), new.frames(), strict=False))
    assert len(pairs) == 14 and all(torch.equal(a.pixels, b.pixels) for a, b in pairs)
    assert new.times == [Fraction(n, 8) for n in range(14 + summary["new_frames"])]
    goes_on, cuts = (part for shot in summary["shots"] for part in shot["parts"])
    assert not goes_on["cuts"] and [key["frame"] for key in goes_on["keyframes"]] == [4]
    assert cuts["cuts"] and [key["frame"] for key in cuts["keyframes"]] == [0]
    assert summary["new_frames"] == goes_on["frames"] + cuts["frames"] and (whole / "joins.png").exists()
    clip = torch.stack(list(VideoReader(whole / "clips" / "s01_00.mkv")))
    shown = torch.stack([frame.pixels for frame in new.frames(14, 14 + len(clip))])
    assert (avg_pool2d(shown, 16) - avg_pool2d(clip, 16)).abs().max() < 0.04  # noise, of whose colours 4:2:0 keeps half
    context = torch.stack(list(VideoReader(whole / CONTEXT)))
    assert torch.allclose(context, torch.stack([frame.pixels for frame, _ in pairs[-5:]]), atol=0.5 / 255 + 1e-6)


def test_what_is_there_is_kept_and_what_is_missing_is_made_the_same(
    given: Path, studio: Studio, whole: Path, done: Path
) -> None:
    assert again(given, studio, done) == []
    for name in ("clips/s02_00.mkv", "extended.mp4"):
        (done / name).unlink()
    assert again(given, studio, done) == ["extended", "s02/extension-0"]
    for name in ("clips/s01_00.mkv", "clips/s02_00.mkv", "extended.mp4", "joins.png"):
        assert (done / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_new_take_and_another_text_remake_what_comes_after(given: Path, studio: Studio, done: Path) -> None:
    assert again(given, studio, done, s02="a town") == ["extended", "s02/extension-0"]
    made = ["extended", "s01/extension-0", "s01/keyframe-0", "s02/extension-0"]
    assert again(given, studio, done, redo=("s01",), s02="a town") == made
    with pytest.raises(InputError, match=r"--redo: must be among s01, s02 \(got \"s07\"\)"):
        again(given, studio, done, redo=("s07",))


def test_a_shot_that_begins_with_a_picture_can_dissolve(given: Path, studio: Studio, done: Path) -> None:
    """The dissolve lies among the new frames; nothing but the joined video is made again."""
    first, second = shots(given)
    told = {"resume": True, **GRID}
    video = given / "video.mp4"
    summary = make_extension(video, [first, replace(second, dissolves=True)], studio, done, **told)
    assert summary["timings"]["made"] == ["extended"]
    one, two = (torch.stack(list(VideoReader(done / f"clips/{name}_00.mkv"))) for name in ("s01", "s02"))
    shared = summary["shots"][1]["parts"][0]["dissolves"]
    assert shared == 4 and summary["new_frames"] == len(one) + len(two) - shared
    new = torch.stack([frame.pixels for frame in SourceVideo(done / "extended.mp4").frames(14)])
    weights = (torch.arange(1, shared + 1) / (shared + 1))[:, None, None, None]
    mixed = torch.lerp(one[-shared:], two[:shared], weights)
    wanted = torch.cat([one[:-shared], mixed, two[shared:]])
    assert len(new) == len(wanted) and (avg_pool2d(new, 16) - avg_pool2d(wanted, 16)).abs().max() < 0.04
    with pytest.raises(InputError, match=r"s01\.transition: blend needs a new shot before this one"):
        make_extension(video, [replace(first, dissolves=True), second], studio, done, **told)
    with pytest.raises(InputError, match=r"s02\.transition: blend needs a picture that the shot begins with"):
        make_extension(video, [first, replace(second, pictures=(), dissolves=True)], studio, done, **told)


def test_the_context_is_what_was_on_the_screen_at_the_models_rate(tmp_path: Path, studio: Studio) -> None:
    """Every third frame of 24 per second, counted from the last; no more than those are kept."""
    with open_writer(tmp_path / "video.mp4", 24) as writer:
        for n in range(20):
            writer.write(torch.full((3, 32, 64), n / 20))
    grid = Grid((16, 32), (32, 64), Fraction(24), 3)
    job = ExtendJob(tmp_path / "video.mp4", [], studio, grid, 5, [], "extended.mp4")

    class Here:
        def target(self, name: str) -> Path:
            return tmp_path / name

        def report(self, done: float, note: str = "") -> None:
            pass

    for context, wanted in ((5, [7, 10, 13, 16, 19]), (9, [1, 4, 7, 10, 13, 16, 19])):
        job.context = context
        Given(job).make(Task("context", "context", {"context": (CONTEXT,)}), Here())  # type: ignore[arg-type]
        frames = torch.stack(list(VideoReader(tmp_path / CONTEXT)))
        assert frames.shape[1:] == (3, 16, 32)
        assert (20 * frames.mean((1, 2, 3))).round().int().tolist() == wanted


def test_the_last_frames_of_clips_that_follow_each_other(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.mkv" for k in range(3)]
    for k, path in enumerate(paths):
        with open_writer(path, 8, lossless=True) as writer:
            for n in range(3):
                writer.write(torch.full((3, 16, 16), (3 * k + n) / 10))
    for count, wanted in ((2, [7, 8]), (4, [5, 6, 7, 8]), (20, list(range(9)))):
        assert (10 * look_back(paths, count).mean((1, 2, 3))).round().int().tolist() == wanted


def test_colours_begin_where_those_before_the_join_ended() -> None:
    wanted, shown = torch.full((3, 4, 4), 0.5), torch.tensor([0.45, 0.5, 0.52])[:, None, None].expand(3, 4, 4)

    def new() -> Iterator[Tensor]:
        return iter([shown.clone() for _ in range(40)])

    means = torch.stack([frame.mean((1, 2)) for frame in matched(new(), wanted, shown, rate=8.0)])
    off = (means - 0.5).abs()
    assert (off[0] < 0.13 * (shown[:, 0, 0] - 0.5).abs() + 1e-6).all()
    assert torch.allclose(means[-1], shown[:, 0, 0], atol=1e-3)
    assert (off.diff(dim=0) >= -1e-6).all()


@pytest.mark.parametrize(
    "size, aspect, rate, native, multiple, wanted, held",
    [
        ((80, 160), Fraction(1), 8, POCKET, 16, (80, 160), 1),
        ((360, 640), Fraction(1), 30, POCKET, 16, (80, 144), 4),
        ((720, 1280), Fraction(1), 24, WAN_5B, 32, (704, 1280), 1),
        ((1080, 1920), Fraction(1), 30, WAN_5B, 32, (704, 1280), 1),
        ((1920, 1080), Fraction(1), 60, WAN_5B, 32, (1248, 704), 2),
        ((576, 720), Fraction(16, 11), 25, WAN_5B, 32, (704, 1280), 1),
    ],
)
def test_the_size_and_rate_that_a_model_works_at(
    size: tuple[int, int],
    aspect: Fraction,
    rate: int,
    native: Native,
    multiple: int,
    wanted: tuple[int, int],
    held: int,
) -> None:
    grid = plan_grid(size, aspect, Fraction(rate), native, multiple)
    assert (grid.size, grid.held) == (wanted, held)
    assert bool(grid.notes) == (grid.size != size or held > 1)


def test_long_shots_are_made_in_parts_that_the_model_can_make() -> None:
    rate = Fraction(8)
    context = context_length(POCKET, rate, None)
    assert context == 9 and context_length(POCKET, rate, 2.0) == 17 and context_length(POCKET, rate, 0.01) == 1
    for seconds in (0.1, 1.0, 2.3, 7.0):
        parts = plan_parts([NewShot("s01", "x", seconds)], rate, context, POCKET)
        assert all(part.frames in (4, 8) and part.timeline.frames == part.frames + 1 for part in parts)
        assert abs(sum(part.frames for part in parts) - max(4, 8 * seconds)) <= 2
    for at in (0.0, 0.4, 0.9, 1.0, 1.9, 2.45):
        parts = plan_parts([NewShot("s01", "x", 2.5, ((at, Path("a")),))], rate, context, POCKET)
        (part,) = (part for part in parts if part.pictures)
        before = sum(other.frames for other in parts[: part.index])
        frame = before + part.timeline.keyframe_frames[0] - (not part.cuts)
        assert abs(frame - 8 * at) <= 3 and part.picture_files == ["keyframes/s01_00.png"]
    with pytest.raises(InputError, match=r"keyframe: must lie inside the 1 s of s01 \(got 1.5\)"):
        plan_parts([NewShot("s01", "x", 1.0, ((1.5, Path("a")),))], rate, context, POCKET)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "--prompt: or --story must say what follows"),
        (["--prompt", "x"], "--seconds: goes with --prompt"),
        (["--prompt", "x", "--seconds", "-1"], "--seconds: must be a number above 0"),
        (["--prompt", "x", "--seconds", "1e9"], "--seconds: must be at most 12500 s at 8 frames per second"),
        (["--prompt", "x", "--seconds", "1", "--keyframes", "1.png"], "--keyframes: must be SECONDS=PICTURE"),
        (["--prompt", "x", "--seconds", "1", "--size", "64"], "--size: must be WIDTHxHEIGHT"),
        (["--prompt", "x", "--seconds", "1", "--size", "72x32"], "--size: must be multiples of 16"),
        (["--prompt", "x", "--seconds", "1", "--context", "0"], "--context: must be a number of seconds above 0"),
        (["--prompt", "x", "--seconds", "1", "--size", "99984x99984"], "--size: must be at most 8192 pixels a side"),
        (["--prompt", "x", "--seconds", "1", "--context", "1e9"], "--context: must be at most 600 s at 8 frames"),
        (["--prompt", "x", "--seconds", "1", "--fps", "0.2"], "--fps: must be worked on at 1 to 120 frames per second"),
        (["--prompt", "x", "--seconds", "1", "--keyframes", "nan=PICTURE"], "keyframe: must lie inside the 1 s of s01"),
        (["--prompt", "x", "--seconds", "1", "--keyframes", "inf=PICTURE"], "keyframe: must lie inside the 1 s of s01"),
        (
            ["--prompt", "x", "--seconds", "1", "--keyframes", "0.2=PICTURE", "0.25=PICTURE"],
            "keyframe: must come at least a frame after the one before it in s01, 0.125 s",
        ),
        (["--prompt", "x", "--seconds", "1", "--redo", "s02"], "--redo: needs an extension in the folder"),
        (["--story", "STORY", "--seconds", "1"], "--seconds: goes with --prompt"),
    ],
)
def test_what_cannot_be_extended_is_told_in_a_line(
    arguments: list[str],
    said: str,
    given: Path,
    tiny_studio: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    arguments = [argument.replace("PICTURE", str(given / "picture.png")) for argument in arguments]
    code = main(["extend", str(given / "video.mp4"), "--studio", str(tiny_studio), "--out", str(out), *arguments])
    assert code == 2 and said in capsys.readouterr().err and not out.exists()


def test_a_storyboard_tells_what_follows(given: Path, tiny_studio: Path, tmp_path: Path,
                                         capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    shutil.copy(given / "picture.png", tmp_path / "end.png")
    story = tmp_path / "story.yaml"
    story.write_text(
        "shots:\n"
        "  - {id: a, scene: It goes on., seconds: 0.5}\n"
        "  - {id: b, scene: Still., seconds: 1, keyframes: [{at: 0}, {at: 0.7, image: end.png}, {at: 0.9}]}\n"
    )
    where = ["--studio", str(tiny_studio), "--out", str(tmp_path / "out"), "--context", "0.6", "--size", "64x32"]
    report = tmp_path / "report.json"
    assert main(["extend", str(given / "video.mp4"), "--story", str(story), *where, "--json", str(report)]) == 0
    summary = json.loads(report.read_text())
    assert [shot["id"] for shot in summary["shots"]] == ["a", "b"] and summary["new_frames"] == 4 + 9
    assert summary["shots"][1]["parts"][0]["keyframes"] == [{"requested": 0.7, "frame": 4}]
    said = capsys.readouterr().out
    assert "keyframes without a picture are left out" in said and "the video's own frames: its packets copied" in said
