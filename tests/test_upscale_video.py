"""`anchorshot upscale`: windows, cuts, keyframes and colours through files; stopped at any point, the same bytes."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anchorshot.core.errors import InputError
from anchorshot.media.image import write_image
from anchorshot.media.lossless import read_lossless
from anchorshot.media.source_video import SourceVideo
from anchorshot.media.video import VideoReader, open_writer
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.upscale.job import UpscaleOptions
from anchorshot.pipelines.upscale.keyframes import find_keyframes
from anchorshot.pipelines.upscale.target import target_size
from anchorshot.pipelines.upscale_video import upscale_video

FILM = Path(__file__).parent / "run_folders" / "film"
LANCZOS = UpscaleOptions("lanczos", 8, 2)
SIZE = (32, 48)


def frames(count: int = 20, cut: int = 11) -> Tensor:
    """Two shots: something that moves over a gradient, then something else."""
    generator = torch.Generator().manual_seed(7)
    grounds = functional.interpolate(torch.rand(2, 3, 4, 6, generator=generator), SIZE, mode="bilinear")
    made = []
    for n in range(count):
        frame = grounds[int(n >= cut)].clone()
        frame[:, 8:16, n : n + 10] = torch.tensor([0.9, 0.8, 0.1])[:, None, None]
        made.append(frame)
    return torch.stack(made)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "clip.mkv"
    with open_writer(path, Fraction(24000, 1001), lossless=True) as writer:
        for frame in frames():
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def studio() -> Studio:
    """Interpolation loads none of its models."""
    return load_studio("pocket", device="cpu")


def windows(folder: Path) -> list[np.ndarray]:
    return [np.stack(list(read_lossless(path))) for path in sorted((folder / "windows").iterdir())]


@pytest.fixture(scope="module")
def whole(clip: Path, studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The clip, upscaled in one go, with its windows."""
    folder = tmp_path_factory.mktemp("whole")
    told: list[str] = []
    arguments = {"cuts": [11], "keyframes": "none", "options": LANCZOS, "keep_windows": True, "say": told.append}
    made = upscale_video(clip, studio, folder, **arguments)
    assert told == ["48×32 → 96×64: 4 windows of at most 7 frames"]
    return folder, made


def test_a_video_comes_out_larger_with_its_times(clip: Path, whole: tuple[Path, dict]) -> None:
    folder, summary = whole
    large, small = SourceVideo(folder / "upscaled.mp4"), SourceVideo(clip)
    assert large.size == (64, 96) and list(large.times) == list(small.times)
    assert (summary["shots"], summary["frames"], summary["windows"]) == (2, 20, 4)
    shown = torch.stack([frame.pixels for frame in large.frames()])
    assert (functional.avg_pool2d(shown, 2) - frames()).abs().mean() < 3 / 255


def test_a_side_of_a_cut_is_that_of_the_shot_alone(whole: tuple[Path, dict], studio: Studio, tmp_path: Path) -> None:
    with open_writer(tmp_path / "second.mkv", 24, lossless=True) as writer:
        for frame in frames()[11:]:
            writer.write(frame)
    arguments = {"cuts": "none", "keyframes": "none", "options": LANCZOS, "keep_windows": True}
    upscale_video(tmp_path / "second.mkv", studio, tmp_path / "alone", **arguments)
    together, alone = windows(whole[0]), windows(tmp_path / "alone")
    assert len(alone) == 2
    assert all(np.array_equal(a, b) for a, b in zip(together[2:], alone, strict=True))


def test_stopped_anywhere_it_resumes_to_the_same_bytes(
    whole: tuple[Path, dict], clip: Path, studio: Studio, tmp_path: Path
) -> None:
    made: list[str] = []

    def stop(name: str, seconds: float) -> None:
        made.append(name)
        if len(made) in (2, 4, 5):
            raise KeyboardInterrupt

    arguments = {"cuts": [11], "keyframes": "none", "options": LANCZOS, "on_finish": stop}
    for run in range(3):
        with pytest.raises(KeyboardInterrupt):
            upscale_video(clip, studio, tmp_path, resume=run > 0, **arguments)
    upscale_video(clip, studio, tmp_path, resume=True, **arguments)
    assert len(made) == len(set(made)) == len(whole[1]["timings"]["made"]) == 6
    assert (tmp_path / "upscaled.mp4").read_bytes() == (whole[0] / "upscaled.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "manifest.json", "source.json", "summary.json", "upscaled.mp4",
    ]  # fmt: skip
    again = upscale_video(clip, studio, tmp_path, resume=True, **arguments)
    assert again["kept"] and not again["timings"]["made"]


def test_keyframes_are_found_by_frame_time_and_timecode(tmp_path: Path) -> None:
    times = [Fraction(n, 8) for n in range(24)]
    for name in ("0003.png", "shot_5.png", "1.5s.png", "00-00-02-01.png", "notes.txt"):
        write_image(tmp_path / name, torch.zeros(3, 64, 96))
    found = {frame: path.name for frame, path in find_keyframes(tmp_path, times, Fraction(8)).items()}
    assert found == {3: "0003.png", 5: "shot_5.png", 12: "1.5s.png", 17: "00-00-02-01.png"}
    listed = "- {image: notes.txt, frame: 2}\n- {image: 1.5s.png, at: 0.25}\n- {image: 0003.png, at: '00:00:01:00'}\n"
    (tmp_path / "keyframes.yaml").write_text(listed)
    with pytest.raises(InputError, match="one picture for frame 2"):
        find_keyframes(tmp_path, times, Fraction(8))
    (tmp_path / "keyframes.yaml").write_text(listed.replace("frame: 2", "frame: 1"))
    assert list(find_keyframes(tmp_path, times, Fraction(8))) == [1, 2, 8]


@pytest.mark.parametrize(
    ("names", "listed", "field", "rule"),
    [
        (["a.png"], None, "--keyframes", "must name its pictures by frame"),
        ([], None, "--keyframes", "must hold PNG"),
        (["24.png"], None, "--keyframes, 24.png", "must lie in the video"),
        (["9s.png"], None, "--keyframes, 9s.png", "must lie in the video"),
        (["1.png", "01.png"], None, "--keyframes", "one picture for frame 1"),
        (["1.png"], "- {image: 1.png}", "keyframes[0]", "must have an image and either"),
        (["1.png"], "- {image: 2.png, frame: 1}", "keyframes.yaml, image", "must be a picture"),
        (["1.png"], "- {image: 1.png, at: soon}", "keyframes[0].at", "must be seconds"),
        (["1.png"], "- {image: 1.png, frame: 1.5}", "keyframes[0].frame", "must be a whole number"),
        (["1.png"], "x: 1", "keyframes.yaml", "must be a list"),
    ],
)
def test_keyframes_that_cannot_be_placed_are_refused(
    names: list[str], listed: str | None, field: str, rule: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    if listed is not None:
        (tmp_path / "keyframes.yaml").write_text(listed)
    with pytest.raises(InputError) as caught:
        find_keyframes(tmp_path, [Fraction(n, 8) for n in range(24)], Fraction(8))
    assert caught.value.field == field and rule in caught.value.rule


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"scale": 9}, "--scale"),
        ({"scale": 0.5}, "--scale"),
        ({"scale": float("nan")}, "--scale"),
        ({"scale": float("inf")}, "--scale"),
        ({"scale": 1.3}, "--scale"),
        ({"size": (90, 64)}, "--size"),
        ({"size": (20, 10)}, "--size"),
        ({"size": (96, 64), "scale": 2}, "--size"),
        ({"size": (96, 80)}, "--size"),
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments: dict, field: str) -> None:
    with pytest.raises(InputError) as caught:
        target_size(SIZE, **arguments)
    assert caught.value.field == field
    assert target_size((80, 160)) == (160, 320) and target_size((720, 1280), 1.5) == (1080, 1920)


def test_what_is_in_the_way_is_refused_before_anything_is_made(clip: Path, studio: Studio, tmp_path: Path) -> None:
    (tmp_path / "upscaled.mp4").write_text("mine")
    with pytest.raises(InputError, match="holds files that no film of ours left there"):
        upscale_video(clip, studio, tmp_path, options=LANCZOS)
    assert [path.name for path in tmp_path.iterdir()] == ["upscaled.mp4"]
    with pytest.raises(InputError, match="--tile: must be larger"):
        upscale_video(clip, studio, tmp_path / "tiles", options=UpscaleOptions("lanczos", tile=20, tile_overlap=20))
    (tmp_path / "film").mkdir()
    with pytest.raises(InputError, match="folder of a finished film"):
        upscale_video(tmp_path / "film", studio, tmp_path / "out", options=LANCZOS)
    portrait = tmp_path / "keys"
    write_image(portrait / "3.png", torch.zeros(3, 96, 64))
    with pytest.raises(InputError, match="must have the shape of the video"):
        upscale_video(clip, studio, tmp_path / "shape", cuts="none", keyframes=portrait, options=LANCZOS)


def test_a_films_folder_is_upscaled_clip_by_clip(studio: Studio, tmp_path: Path) -> None:
    """A dissolve is made of upscaled clips, and lies where it lay."""
    said: list[str] = []
    options = UpscaleOptions("bicubic", 0, 0)
    summary = upscale_video(FILM, studio, tmp_path, options=options, say=said.append, keep_windows=True)
    small = VideoReader(FILM / "film.mp4")
    large = VideoReader(tmp_path / "upscaled.mp4")
    assert large.size == (2 * small.size[0], 2 * small.size[1]) and large.frames == small.frames == summary["frames"]
    assert (summary["shots"], summary["windows"]) == (3, 3)
    assert "not larger than the film" in said[0]
    for a, b in zip(small, large, strict=True):
        assert (functional.avg_pool2d(b, 2) - a).abs().mean() < 6 / 255


def test_a_clip_that_changed_since_is_refused(studio: Studio, tmp_path: Path) -> None:
    shutil.copytree(FILM, tmp_path / "film")
    (tmp_path / "film" / "clips" / "s02.mkv").write_bytes(b"another")
    with pytest.raises(InputError, match="must have the clips that its film was made of"):
        upscale_video(tmp_path / "film", studio, tmp_path / "out", options=UpscaleOptions("bicubic"))
