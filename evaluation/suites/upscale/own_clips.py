"""Large clips of the user's own: what is upscaled is made of them, and they are the truth."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ....core.errors import InputError
from ....core.files import file_identity
from ....media.image import read_image
from ....media.source_video import SourceVideo
from .sources import SCALE, SourceClip, request, small_frames
from .suite import Source

if TYPE_CHECKING:
    from ....models.studio import Studio

__all__ = ["OwnClip", "find_clips", "own_source"]

_FIELD = "clips"
_VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".ts", ".gif")
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_RATE = Fraction(24)  # of pictures, which have none
_LEAST = 64  # pixels; LPIPS sees nothing smaller


@dataclass(frozen=True)
class OwnClip:
    """One clip.

    Attributes:
        name: of its file, or of the folder that its pictures are in.
        files: one video, or pictures in order.
    """

    name: str
    files: tuple[Path, ...]

    @property
    def identity(self) -> str:
        """A text that changes with its files."""
        return hashlib.sha256("|".join(map(file_identity, self.files)).encode()).hexdigest()

    def frames(self, count: int) -> tuple[Tensor, Fraction]:
        """Its first frames, `[count, 3, H, W]` in 0…1, and their rate.

        Raises:
            InputError: it cannot be read, is shorter, or has pictures of several sizes.
        """
        if self.files[0].suffix.lower() in _VIDEOS:
            video = SourceVideo(self.files[0], _FIELD)
            found, rate = [frame.pixels for frame in video.frames(stop=count)], video.rate
        else:
            found, rate = [read_image(path, _FIELD) for path in self.files[:count]], _RATE
        if len(found) < count:
            rule = f"must have at least {count} frames each"
            raise InputError(_FIELD, rule, f"{len(found)} in {self.name}", "take it out, or give a longer one")
        if sizes := {tuple(frame.shape) for frame in found} - {tuple(found[0].shape)}:
            other = "×".join(str(side) for side in reversed(min(sizes)[1:]))
            rule, seen = "must have frames of one size", f"{found[0].shape[2]}×{found[0].shape[1]} and {other}"
            raise InputError(_FIELD, rule, f"{seen} in {self.name}", "bring them to one size")
        return torch.stack(found), rate


def find_clips(folder: Path, most: int | None = None) -> list[OwnClip]:
    """The clips of a folder by their names: every video, and every folder of pictures; or the pictures in it, as one.

    Args:
        folder: where they are.
        most: take so many of them.

    Raises:
        InputError: no folder, none in it, or fewer than that.
    """
    if not folder.is_dir():
        raise InputError(_FIELD, "must be a folder of clips", str(folder), "give the folder that your videos are in")
    found: list[OwnClip] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and (pictures := _pictures(path)):
            found.append(OwnClip(path.name, pictures))
        elif path.suffix.lower() in _VIDEOS and path.is_file():
            found.append(OwnClip(path.name, (path,)))
    if not found and (pictures := _pictures(folder)):
        found.append(OwnClip(folder.resolve().name, pictures))
    if not found:
        fix = "put videos, or folders of pictures, into it"
        raise InputError(_FIELD, "must hold clips", f"no video and no picture in {folder}", fix)
    if most is not None and most > len(found):
        rule = f"must be at most {len(found)}, the clips in {folder}"
        raise InputError("stories", rule, most, "leave it out to take all")
    return found[:most]


def _pictures(folder: Path) -> tuple[Path, ...]:
    return tuple(path for path in sorted(folder.iterdir()) if path.suffix.lower() in _PICTURES and path.is_file())


def own_source(studio: Studio, seed: int, number: int, clips: Sequence[OwnClip], source: Source) -> SourceClip:
    """Clip `number`: its first frames in as many and with the keyframes of `held_out_source`, cut to whole tokens.

    Args:
        studio: whose tokens, prompt and, for `film`, video VAE are taken.
        seed: of the degradations.
        number: of the clip.
        clips: all of them.
        source: what is upscaled, see `held_out_source`; `clean` is the mean over squares of pixels.

    Raises:
        InputError: a clip that is too short, too small or cannot be read.
    """
    clip, timeline = clips[number], request(number)
    frames, rate = clip.frames(timeline.frames)
    unit = SCALE * math.lcm(studio.upscale_token, studio.latent_pixel()[1])
    height, width = (side // unit * unit for side in frames.shape[-2:])
    if min(height, width) < max(_LEAST, unit):
        least, seen = max(_LEAST, unit), f"{frames.shape[-1]}×{frames.shape[-2]} in {clip.name}"
        raise InputError(_FIELD, f"must be at least {least}×{least} pixels", seen, "give larger clips")
    top, left = (frames.shape[-2] - height) // 2, (frames.shape[-1] - width) // 2
    truth = frames[..., top : top + height, left : left + width].contiguous()
    small, latents = small_frames(studio, seed, number, truth, F.avg_pool2d(truth, SCALE), timeline, source)
    prompt = studio.defaults.upscale.prompt
    return SourceClip(number, None, timeline, truth, None, small, latents, prompt, rate, clip.name)
