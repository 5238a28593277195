"""Upscaling by a (tiny, random) model: in films as a stage, and shot by shot of a video with cuts."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_upscale_video import frames, windows
from tiny_film import STORY, made

from anchorshot.core.errors import InputError
from anchorshot.media.image import read_image, write_image
from anchorshot.media.lossless import pixels_of, read_lossless
from anchorshot.media.source_video import SourceVideo
from anchorshot.media.video import open_writer
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pipelines.film import make_film
from anchorshot.pipelines.stages.upscale import clip_frames
from anchorshot.pipelines.upscale.film_job import FilmUpscale
from anchorshot.pipelines.upscale.job import UpscaleClip, UpscaleJob, UpscaleOptions
from anchorshot.pipelines.upscale_video import upscale_video
from anchorshot.story.storyboard import Storyboard


@pytest.fixture(scope="module")
def studio(tiny_studio: Path) -> Studio:
    """The tiny studio, whose video model upscales, too."""
    data = yaml.safe_load(tiny_studio.read_text())
    data["made_for"] = {"size": [64, 32]}
    data["upscale"] = {"file": "video.safetensors", "scale": 2}
    data["defaults"]["upscale"] = {"steps": 1, "window": 9, "overlap": 2}
    path = tiny_studio.parent / "tiny_upscale_film.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_studio(path, device="cpu")


def test_a_film_ends_in_larger_clips_with_the_users_sharp_pictures(studio: Studio, tmp_path: Path) -> None:
    write_image(tmp_path / "sharp.png", torch.rand(3, 64, 128))
    first = STORY["shots"][0] | {"keyframes": [{"at": 0.0, "image": "sharp.png"}]}
    tale = Storyboard.parse(STORY | {"shots": [first, *STORY["shots"][1:]]}, folder=tmp_path)
    upscale = FilmUpscale(2, UpscaleOptions.of(studio))
    lines: list[str] = []
    summary = make_film(tale, studio, tmp_path / "film", shots="s01", upscale=upscale, say=lines.append)
    assert "upscaled film, 64×32 → 128×64: 1 window of at most 5 frames" in lines
    assert {"s01/window-0", "upscaled"} <= made(summary)
    assert summary["upscaled"]["size"] == [128, 64] and summary["upscaled"]["keyframes"] == 1
    large = SourceVideo(tmp_path / "film" / "upscaled.mp4")
    assert large.size == (64, 128) and len(large.times) == 5
    again = make_film(tale, studio, tmp_path / "film", shots="s01", upscale=upscale, resume=True)
    plain = make_film(tale, studio, tmp_path / "film", shots="s01", resume=True)
    assert not made(again) and not made(plain) and "upscaled" not in plain
    with pytest.raises(InputError, match="--scale"):
        make_film(tale, studio, tmp_path / "other", shots="s01", upscale=FilmUpscale(1.01, upscale.options))
    tiled = FilmUpscale(2, UpscaleOptions.of(studio, tile=32, tile_overlap=16))
    with pytest.raises(InputError, match=r"defaults\.upscale\.tile: must be larger than 32 pixels of the source"):
        make_film(tale, studio, tmp_path / "other", shots="s01", upscale=tiled)
    assert not (tmp_path / "other").exists()


def test_keyframes_are_made_sharp_for_the_upscaled_film(studio: Studio, tmp_path: Path) -> None:
    """The clip gets them smaller; the large film, and the film's folder taken as a video later, as they are."""
    upscale = FilmUpscale(2, UpscaleOptions.of(studio), sharp=True)
    told: list[str] = []
    tale = Storyboard.parse(STORY)
    summary = make_film(tale, studio, tmp_path / "film", shots="s01", upscale=upscale, say=told.append)
    assert any("keyframes are made at 128×64, and the studio tiny was made for 64×32" in line for line in told)
    assert summary["upscaled"]["keyframes"] == 1
    assert read_image(tmp_path / "film" / "keyframes" / "s01_00.png").shape == (3, 64, 128)
    again = upscale_video(tmp_path / "film", studio, tmp_path / "again")
    assert again["keyframes"] == 1
    assert (tmp_path / "film" / "upscaled.mp4").read_bytes() == (tmp_path / "again" / "upscaled.mp4").read_bytes()


def test_a_model_sees_nothing_beyond_a_cut(studio: Studio, tmp_path: Path) -> None:
    """Both sides equal those of the shots alone, bit for bit, and have the colours of their source."""
    source = frames(17, 6)
    keyframes = {2: torch.rand(3, 64, 96), 13: torch.rand(3, 64, 96)}
    parts = {"whole": (0, 17), "first": (0, 6), "second": (6, 17)}
    for name, (start, stop) in parts.items():
        with open_writer(tmp_path / f"{name}.mkv", 24, lossless=True) as writer:
            for frame in source[start:stop]:
                writer.write(frame)
        for key, picture in keyframes.items():
            if start <= key < stop:
                write_image(tmp_path / f"{name}_keys" / f"{key - start}.png", picture)
        upscale_video(
            tmp_path / f"{name}.mkv",
            studio,
            tmp_path / name,
            cuts=[6] if name == "whole" else "none",
            keyframes=tmp_path / f"{name}_keys",
            keep_windows=True,
        )
    together = windows(tmp_path / "whole")
    alone = [*windows(tmp_path / "first"), *windows(tmp_path / "second")]
    assert len(alone) == 3
    assert all(np.array_equal(a, b) for a, b in zip(together, alone, strict=True))
    first = torch.stack([pixels_of(frame) for frame in together[0]])
    assert (first.mean((0, 2, 3)) - source[:6].mean((0, 2, 3))).abs().max() < 2 / 255


def test_a_still_clip_comes_out_still_in_all_windows(studio: Studio, tmp_path: Path) -> None:
    """Also where windows overlap, and when the run is stopped and goes on; a cut begins anew."""
    still = frames(2, 1).repeat_interleave(12, 0)
    with open_writer(tmp_path / "still.mkv", 24, lossless=True) as writer:
        for frame in still:
            writer.write(frame)
    made: list[str] = []

    def stop(name: str, seconds: float) -> None:
        made.append(name)
        if len(made) in (3, 5):
            raise KeyboardInterrupt

    def upscale(out: str, **more: Any) -> list[Any]:
        arguments: dict[str, Any] = {"keyframes": "none", "cuts": [12]} | more
        upscale_video(tmp_path / "still.mkv", studio, tmp_path / out, **arguments)
        return [frame.pixels for frame in SourceVideo(tmp_path / out / "upscaled.mp4").frames()]

    options = UpscaleOptions.of(studio)
    job = UpscaleJob([], [], (64, 96), Fraction(24), studio, options)
    assert job.held == {"hold": 2.0} and not replace(job, options=replace(options, method="bicubic")).held
    whole = upscale("whole", keep_windows=True)
    folder = tmp_path / "whole"
    codes = [np.stack(list(read_lossless(path))) for path in sorted((folder / "windows").iterdir())]
    assert len(codes) == 4 and not np.array_equal(codes[0][0], codes[0][1])
    clip = UpscaleClip("video", 24, (32, 48), path=tmp_path / "still.mkv", cuts=(12,))
    joined = list(clip_frames(replace(job, clips=[clip]), clip, lambda file: folder / file))
    for shot, window in ((joined[:12], codes[0]), (joined[12:], codes[2])):
        assert all(np.array_equal(frame, shot[0]) for frame in shot)
        assert np.abs(shot[0] - window[:7].mean(0)).mean() < np.abs(window[0] - window[:7].mean(0)).mean()
    for run in range(2):
        with pytest.raises(KeyboardInterrupt):
            upscale("stopped", on_finish=stop, resume=run > 0)
    assert len(upscale("stopped", resume=True)) == len(whole) == 24
    assert (tmp_path / "stopped" / "upscaled.mp4").read_bytes() == (folder / "upscaled.mp4").read_bytes()
    again = upscale_video(
        tmp_path / "still.mkv", studio, folder, keyframes="none", cuts=[12], keep_windows=True, resume=True,
        options=replace(options, hold=0),
    )  # fmt: skip
    assert again["timings"]["made"] == ["upscaled"]  # and no window


def test_what_a_studio_lacks_is_said_before_anything_is_made(tiny_studio: Path, tmp_path: Path) -> None:
    with open_writer(tmp_path / "a.mkv", 24, lossless=True) as writer:
        writer.write(torch.zeros(3, 32, 48))
    plain = load_studio(tiny_studio, device="cpu")
    with pytest.raises(InputError, match="upscale"):
        upscale_video(tmp_path / "a.mkv", plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()
