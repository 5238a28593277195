"""SmartDirector §3.3: how a clip that is upscaled lies in latent time and space.

As in Director-Gen, a clip is cut into chunks at its keyframes and each chunk is encoded on its own. But every frame is
given here, at low resolution, and keyframes stand where they stand: nothing is snapped. A chunk whose frames are no
4n+1 is filled up with its last frame, and what is made of that is dropped. The first frame need not be a keyframe.

The bridge of Eq. 5, z_t = (1−t)·z_HR + t·z_LR, needs z_LR in z_HR's size: `upscale_latents`, which training, sampling
and both hosts share.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ...core.errors import InputError
from ...story.timeline import TEMPORAL_STRIDE
from .chunks import ChunkCodec, VideoPlan

__all__ = [
    "Canvas",
    "Interpolation",
    "Mode",
    "UpscalePlan",
    "UpscaleSettings",
    "decode_upscaled",
    "drawn_out",
    "encode_upscale",
    "plan_canvas",
    "plan_upscale",
    "upscale_latents",
]

Interpolation = Literal["bilinear", "nearest"]

Mode = Literal["bridge", "training_free"]

_WHOLE = 1 / 64
"""What the low-resolution canvas may miss of the last latent pixel: a rounding error, no picture."""


@dataclass(frozen=True)
class UpscaleSettings:
    """How a clip is upscaled.

    Attributes:
        steps: Euler steps; a bridge is nearly straight, so few do.
        shift: of the schedule, see `flow_sigmas`.
        mode: ``bridge`` (SmartDirector), for a model that was trained for it; or ``training_free`` (ours), for any
            model of video: noise is put on the upscaled latents, and it takes it away again.
        start_noise: standard deviation of noise on z_LR where the bridge starts; the paper has none.
        strength: noise level at which ``training_free`` starts, 0…1: how much it may change.
        near: latent frames that each attends to on both sides, besides the nearest keyframes; None: all.
        text_length: fill the text up with zeros to this many tokens.
        interpolation: how latents come to the large size; as in training.
    """

    steps: int = 4
    shift: float = 1.0
    mode: Mode = "bridge"
    start_noise: float = 0.0
    strength: float = 0.4
    near: int | None = None
    text_length: int | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise InputError("mode", f"must be {' or '.join(get_args(Mode))}", self.mode, "use bridge")
        if not 0 < self.strength <= 1:
            raise InputError("strength", "must lie above 0 and be at most 1", self.strength, "use 0.2 to 0.6")
        if not 0 <= self.start_noise < float("inf"):
            raise InputError("start_noise", "must be a number from 0 on", self.start_noise, "use 0, as published")
        if self.near is not None and (isinstance(self.near, bool) or self.near < 0):
            raise InputError("near", "must be a whole number from 0 on", self.near, "use e.g. 4, or leave it out")


@dataclass(frozen=True)
class UpscalePlan:
    """The layout of a clip that is upscaled.

    Attributes:
        video: latent frames of each chunk, and the positions of the keyframes among them.
        lengths: frames of each chunk that are the clip's; the rest of its 4n+1 is filled up.
        keyframes: the clip's frames that are given, ascending.
        before, after: how many chunks at both ends hold one keyframe from outside the clip and nothing of it.
    """

    video: VideoPlan
    lengths: list[int]
    keyframes: list[int]
    before: int = 0
    after: int = 0

    @property
    def frames(self) -> int:
        """Frames of the clip."""
        return sum(self.lengths)

    @cached_property
    def source(self) -> list[int]:
        """For each frame that the chunks hold, the clip's frame that stands there."""
        out, start = [0] * self.before, 0
        inner = self.video.chunks[self.before : len(self.video.chunks) - self.after]
        for held, length in zip(inner, self.lengths, strict=True):
            out += [start + min(i, length - 1) for i in range(held)]
            start += length
        return out + [start - 1] * self.after

    @cached_property
    def kept(self) -> list[int]:
        """For each frame of the clip, where it stands among those that the chunks hold."""
        out: list[int] = []
        start = self.before
        inner = self.video.chunks[self.before : len(self.video.chunks) - self.after]
        for held, length in zip(inner, self.lengths, strict=True):
            out += range(start, start + length)
            start += held
        return out


def plan_upscale(frames: int, keyframes: Sequence[int] = (), before: int = 0, after: int = 0) -> UpscalePlan:
    """Lay out a clip whose frames are all known at low resolution, some of them also at high resolution.

    Args:
        frames: of the clip.
        keyframes: the frames that are given at high resolution, ascending; none is allowed, and so is a first frame
            that is not among them.
        before, after: keyframes from outside the clip that it shall see, too: each becomes a chunk of one frame in
            front of the clip or behind it.

    Raises:
        InputError: no frames, or keyframes that do not rise or lie outside.
    """
    if frames < 1:
        raise InputError("frames", "must be at least one frame", frames, "give a clip")
    given = list(keyframes)
    if any(not 0 <= k < frames for k in given) or any(b <= a for a, b in zip(given, given[1:], strict=False)):
        rule = f"must rise within 0…{frames - 1}"
        raise InputError("keyframes", rule, given, "give each frame's number once, in order of time")
    starts = sorted({0, *given})
    lengths = [end - start for start, end in zip(starts, [*starts[1:], frames], strict=True)]
    latents = [1] * before + [-(-(n - 1) // TEMPORAL_STRIDE) + 1 for n in lengths] + [1] * after
    opens = dict(zip(starts, _starts(latents)[before:], strict=False))
    count = sum(latents)
    pinned = [*range(before), *(opens[k] for k in given), *range(count - after, count)]
    held = sum(TEMPORAL_STRIDE * (n - 1) + 1 for n in latents)
    return UpscalePlan(VideoPlan("multi_chunk", latents, pinned, held), lengths, given, before, after)


def _starts(latents: Sequence[int]) -> list[int]:
    return [sum(latents[:i]) for i in range(len(latents))]


class Canvas(NamedTuple):
    """Sizes of one upscaling; a picture lies in its canvas at the top left, its edges drawn out.

    Attributes:
        size: (height, width) of what comes out, in pixels.
        high: of the high-resolution canvas in pixels: whole tokens of the model.
        low: of the low-resolution canvas in pixels: whole latent pixels.
        scale: (vertical, horizontal) factor.
    """

    size: tuple[int, int]
    high: tuple[int, int]
    low: tuple[int, int]
    scale: tuple[float, float]


def plan_canvas(low: tuple[int, int], size: tuple[int, int], compression: int, patch: tuple[int, int]) -> Canvas:
    """The canvases on which a picture of `low` pixels becomes one of `size`; the factor may be any from 1 on.

    1080 rows are made on 1088: a canvas has whole tokens. The low-resolution canvas covers as much of the picture, so
    that a latent pixel of both means the same place whatever the factor.

    Args:
        low: (height, width) of the frames.
        size: (height, width) that is wanted.
        compression: pixels of a latent pixel along a side.
        patch: latent pixels of a token.

    Raises:
        InputError: a size below the frames'.
    """
    if not all(0 < a <= b for a, b in zip(low, size, strict=True)):
        rule = f"must be at least the clip's {low[1]}x{low[0]}"
        raise InputError("size", rule, f"{size[1]}x{size[0]}", "give a larger size, or shrink the clip first")
    high, small, scale = [], [], []
    for have, want, tokens in zip(low, size, patch, strict=True):
        unit = compression * tokens
        high.append(-(-want // unit) * unit)
        scale.append(want / have)
        needed = math.ceil(high[-1] / scale[-1] / compression - _WHOLE)
        small.append(max(needed, -(-have // compression)) * compression)
    return Canvas(size, (high[0], high[1]), (small[0], small[1]), (scale[0], scale[1]))


def upscale_latents(
    z: Tensor, size: tuple[int, int], mode: Interpolation = "bilinear", scale: tuple[float, float] | None = None
) -> Tensor:
    """Latents `[B, C, F, h, w]` in another size `[B, C, F, h', w']`, every latent frame on its own.

    It is the latent that is interpolated, not the picture; the two are not the same (SmartDirector §3.3).

    Args:
        z: latents, as the VAE gives them or normalised: interpolation and the change of scale commute.
        size: (h', w'), in latent pixels.
        mode: ``bilinear``, centres aligned, or ``nearest``.
        scale: factor along both sides; None is `size` over z's. Where factor and sizes do not agree, the latents are
            cut or drawn out at the bottom and on the right.

    Raises:
        InputError: no 5-dimensional latents, or an unknown mode.
    """
    if z.ndim != 5:
        raise InputError("latents", "must have the shape [B, C, F, h, w]", list(z.shape), "give a video's latents")
    if mode not in ("bilinear", "nearest"):
        raise InputError("mode", "must be bilinear or nearest", mode, "use bilinear")
    (h, w), (height, width) = z.shape[-2:], size
    if (h, w) == (height, width) and scale in (None, (1.0, 1.0)):
        return z
    sy, sx = scale if scale is not None else (height / h, width / w)
    rows, columns = (_centres(n, s, z) for n, s in ((height, sy), (width, sx)))
    return _resample(_resample(z, rows, -2, mode), columns, -1, mode)


def _centres(count: int, scale: float, like: Tensor) -> Tensor:
    """Where the centres of `count` new pixels lie among the old ones."""
    return ((torch.arange(count, dtype=torch.float64) + 0.5) / scale - 0.5).to(like.device)


def _resample(z: Tensor, at: Tensor, dim: int, mode: Interpolation) -> Tensor:
    last = z.shape[dim] - 1
    if mode == "nearest":
        return z.index_select(dim, (at + 0.5).floor().long().clamp(0, last))
    below = at.floor()
    weight = (at - below).to(z.dtype)
    weight = weight[:, None] if dim == -2 else weight
    low, high = (z.index_select(dim, (below.long() + i).clamp(0, last)) for i in (0, 1))
    return torch.lerp(low, high, weight)


def encode_upscale(
    vae: ChunkCodec,
    frames: Tensor,
    keyframes: Mapping[int, Tensor],
    plan: UpscalePlan,
    canvas: Canvas,
    *,
    outside: Sequence[Tensor] = (),
    latents: Tensor | None = None,
    mode: Interpolation = "bilinear",
) -> tuple[Tensor, Tensor]:
    """What super-resolution starts from: latents of the clip in the large size, and the keyframes' own.

    Args:
        vae: encodes both, chunk by chunk.
        frames: `[T, 3, h, w]` in 0…1.
        keyframes: frame number → `[3, H, W]` in 0…1, in the canvas's size.
        plan: for these frames and keyframes.
        canvas: for the frames' size.
        outside: keyframes from outside the clip: `plan.before`, then `plan.after` of them.
        latents: `[1, C, F, h, w]`, the clip's own latents in this layout where they are known, as when a film was made
            by a model with this VAE. They take the place of `frames`.
        mode: of `upscale_latents`.

    Returns:
        z_LR `[1, C, F, h', w']`, and clean latents `[1, C, K, h', w']` at `plan.video.pinned`.

    Raises:
        InputError: pictures or latents that do not fit the plan.
    """
    unit = vae.spatial_compression
    large = (canvas.high[0] // unit, canvas.high[1] // unit)
    if latents is None:
        if len(frames) != plan.frames:
            raise InputError("frames", f"must be {plan.frames}, as planned", len(frames), "plan for these frames")
        video = drawn_out(frames, canvas.low)[None, plan.source]
        latents = vae.encode_chunks(video, plan.video.chunks)
    elif latents.ndim != 5 or latents.shape[2] != plan.video.latents:
        rule = f"must be the {plan.video.latents} latent frames of this layout"
        raise InputError("latents", rule, list(latents.shape), "leave them out: the frames are encoded again")
    z_lr = upscale_latents(latents, large, mode, canvas.scale)
    pictures = [*outside[: plan.before], *(keyframes[k] for k in plan.keyframes), *outside[plan.before :]]
    if len(pictures) != len(plan.video.pinned):
        rule = f"must be {len(plan.video.pinned)}, as planned"
        raise InputError("keyframes", rule, len(pictures), "plan for these keyframes")
    for picture in pictures:
        if tuple(picture.shape) != (3, *canvas.size):
            rule = f"must be [3, {canvas.size[0]}, {canvas.size[1]}]"
            raise InputError("keyframes", rule, list(picture.shape), "scale them to the size that is wanted")
    if not pictures:
        return z_lr, z_lr[:, :, :0]
    stills = drawn_out(torch.stack(pictures), canvas.high)[None]
    return z_lr, vae.encode_chunks(stills, [1] * len(pictures)).to(z_lr)


def decode_upscaled(vae: ChunkCodec, latents: Tensor, plan: UpscalePlan, canvas: Canvas) -> Iterator[Tensor]:
    """Decode in order of time to parts `[t, 3, H, W]` in 0…1, together the clip's frames: no filling, no canvas."""
    first, position, wanted = plan.before, 0, set(plan.kept)
    chunks = plan.video.latent_chunks[first : len(plan.video.latent_chunks) - plan.after]
    inner = latents[:, :, first : first + sum(chunks)]
    for part in vae.decode_chunks(inner, chunks):
        held = [i for i in range(part.shape[1]) if first + position + i in wanted]
        position += part.shape[1]
        if held:
            yield part[0, held][..., : canvas.size[0], : canvas.size[1]]


def drawn_out(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures `[N, 3, H, W]` on a canvas, the last row and column repeated."""
    below, right = size[0] - pictures.shape[-2], size[1] - pictures.shape[-1]
    return functional.pad(pictures, (0, right, 0, below), mode="replicate") if below or right else pictures
