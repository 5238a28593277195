"""Folders of videos as pairs of clips: large frames, and the same degraded; drawn from (seed, step) alone."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...core.documents import as_integer, as_object, read_json
from ...core.errors import InputError
from ...core.files import write_atomic
from ...media.degradations import Degradations, degrade
from ...media.source_video import SourceVideo
from ...models.layouts.upscale import UpscalePlan, drawn_out, plan_canvas, plan_upscale
from .bridge import KeyframeChances, draw_times

__all__ = ["ClipBatch", "ClipDraws", "VideoFile", "find_videos"]

_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
_NO_CAPTION = ""


class VideoFile(NamedTuple):
    """A video of one shot.

    Attributes:
        path: the file.
        frames: how many it has.
        caption: what the text file of its name says; empty without one.
    """

    path: Path
    frames: int
    caption: str


def find_videos(folder: Path, least: int, hold_out: float = 0.0, index: Path | None = None) -> list[VideoFile]:
    """The videos under a folder that have at least so many frames, in order of their names.

    Frames are counted by reading each video once; the counts are kept in `index`. A video is held out by a hash of its
    name, so a growing folder keeps its split.

    Raises:
        InputError: no such folder, a video that cannot be read, or none that is long enough.
    """
    if not folder.is_dir():
        raise InputError("data.folder", "must be a folder", str(folder), "give the folder of your videos")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    known = as_object(read_json(index, index.name), index.name) if index is not None and index.exists() else {}
    counts: dict[str, int] = {}
    for path in paths:
        state = path.stat()
        name = f"{path.relative_to(folder).as_posix()} {state.st_size} {state.st_mtime_ns}"
        counts[name] = as_integer(known[name], name) if name in known else len(SourceVideo(path, "data.folder").times)
    if index is not None and counts != known:
        write_atomic(index, json.dumps(counts, indent=0, ensure_ascii=False) + "\n")
    found = []
    for path, frames in zip(paths, counts.values(), strict=True):
        name = path.relative_to(folder).as_posix()
        away = int.from_bytes(sha256(name.encode()).digest()[:6], "big") < hold_out * 2**48
        if frames >= least and not away:
            text = path.with_suffix(".txt")
            caption = text.read_text(encoding="utf-8").strip() if text.is_file() else _NO_CAPTION
            found.append(VideoFile(path, frames, caption))
    if not found:
        seen = f"{len(paths)} videos, the longest has {max(counts.values(), default=0)} frames"
        fix = "give longer videos, or lower data.frames"
        raise InputError("data.folder", f"must hold videos of {least} frames or more", seen, fix)
    return found


class ClipBatch(NamedTuple):
    """Clips of one layout.

    Attributes:
        high: uint8 [N, T, 3, H, W], large frames in the order in which the layout's chunks hold them.
        low: uint8 [N, T, 3, h, w], the same, degraded.
        captions: of each; empty where the model shall do without.
        plan: their layout.
        scale: (vertical, horizontal) factor between them.
        pinned: latent frames that are given at high resolution.
        times: [N].
    """

    high: Tensor
    low: Tensor
    captions: list[str]
    plan: UpscalePlan
    scale: tuple[float, float]
    pinned: list[int]
    times: Tensor


@dataclass(frozen=True)
class ClipDraws:
    """Clips of a folder's videos; what is random depends on the seed and the step alone.

    Attributes:
        videos: to draw from.
        size: (height, width) of large frames; videos are cut to its aspect in the middle.
        frames: of a clip.
        scales: factors, one of which a batch has.
        batch_size: clips of a step.
        seed: of everything.
        keyframes: at most so many in a clip, at random frames.
        chances: how many of them are given.
        at_start: share of clips at t = 1.
        captions: share of clips that have their caption.
        degradations: what happens to the small frames.
        compression: pixels of a latent pixel along a side.
        patch: latent pixels of a token; large sides are whole tokens.
    """

    videos: Sequence[VideoFile]
    size: tuple[int, int]
    frames: int
    scales: Sequence[float]
    batch_size: int
    seed: int
    keyframes: int = 3
    chances: KeyframeChances = KeyframeChances()  # noqa: RUF009
    at_start: float = 0.5
    captions: float = 0.5
    degradations: Degradations = Degradations()  # noqa: RUF009
    compression: int = 16
    patch: tuple[int, int] = (2, 2)

    def __len__(self) -> int:
        return len(self.videos)

    def draw(self, step: int) -> ClipBatch:
        """The clips of a step, read and degraded.

        Raises:
            InputError: a video that can no longer be read.
        """
        rng = random.Random(f"{self.seed}/{step}")
        places = sorted(rng.sample(range(self.frames), rng.randint(0, min(self.keyframes, self.frames))))
        plan = plan_upscale(self.frames, places)
        factor = rng.choice(list(self.scales))
        small_size = (round(self.size[0] / factor), round(self.size[1] / factor))
        canvas = plan_canvas(small_size, self.size, self.compression, self.patch)
        high, low, captions = [], [], []
        for _ in range(self.batch_size):
            video = rng.choice(self.videos)
            clip = _cut(video.path, rng.randint(0, video.frames - self.frames), self.frames, self.size)
            small = drawn_out(degrade(clip, factor, rng.getrandbits(60), self.degradations), canvas.low)
            high.append(clip[plan.source].mul(255).round().byte())
            low.append(small[plan.source].mul(255).round().byte())
            captions.append(video.caption if rng.random() < self.captions else _NO_CAPTION)
        pinned = self.chances.draw(plan.video.pinned, rng)
        times = torch.tensor(draw_times(self.batch_size, self.at_start, rng))
        return ClipBatch(torch.stack(high), torch.stack(low), captions, plan, canvas.scale, pinned, times)


def _cut(path: Path, start: int, frames: int, size: tuple[int, int]) -> Tensor:
    """Frames [T, 3, H, W] of a video in a size: scaled to cover it, then cut in the middle."""
    video = SourceVideo(path, "data.folder")
    clip = torch.stack([frame.pixels for frame in video.frames(start, start + frames)])
    if len(clip) != frames:
        raise InputError("data.folder", f"must have {start + frames} frames", str(path), "remove the index and restart")
    height, width = clip.shape[-2:]
    factor = max(size[0] / height, size[1] / width)
    scaled = (max(size[0], round(height * factor)), max(size[1], round(width * factor)))
    if scaled != (height, width):
        clip = F.interpolate(clip, scaled, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    return clip[..., top : top + size[0], left : left + size[1]]
