"""SmartDirector §3.2: which latent frames a video has, and what position, time and text each gets.

Pure functions of frame counts and tensors, shared by both hosts; `headless` and `native` hand the results to a network.
A video is cut into chunks at its keyframes and every chunk is encoded on its own (Multi-Chunk VAE); the extension of a
given clip and the two variants of the paper's ablation (§4.4) are layouts of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from ...core.errors import InputError
from ...story.timeline import TEMPORAL_STRIDE, Timeline

__all__ = [
    "ChunkCodec",
    "ChunkModel",
    "Experts",
    "Method",
    "VideoPlan",
    "VideoSettings",
    "decode_video",
    "encode_extension",
    "encode_keyframes",
    "frame_timesteps",
    "latent_length",
    "mc_index",
    "pad_text",
    "plan_extension",
    "plan_video",
    "rope_table",
]

Method = Literal["multi_chunk", "latent_replacement", "replication"]

_THETA = 10000.0


class ChunkCodec(Protocol):
    """A causal video VAE that encodes and decodes every chunk on its own; a backbone's, and ComfyUI's VAE wrapped."""

    latent_channels: int
    spatial_compression: int

    def encode_chunks(self, video: Tensor, chunks: Sequence[int]) -> Tensor:
        """`[B, T, 3, H, W]` in 0…1, cut into `chunks` frames → `[B, C, F, h, w]`."""
        ...

    def decode_chunks(self, latents: Tensor, latent_chunks: Sequence[int]) -> Iterator[Tensor]:
        """`[B, C, F, h, w]` → parts `[B, t, 3, H, W]` in 0…1, in order of time; 4(f−1)+1 frames for a chunk of f."""
        ...


def latent_length(frames: int, field: str = "chunks", stride: int = TEMPORAL_STRIDE) -> int:
    """Latent frames of a causal chunk of `frames` = stride · n + 1 frames: n + 1.

    Raises:
        InputError: any other count. The VAE would silently drop frames at the end.
    """
    if frames < 1 or (frames - 1) % stride:
        lower = max(1, (frames - 1) // stride * stride + 1)
        fix = f"use {lower} or {lower + stride} frames"
        rule = f"a chunk has {stride}n+1 frames (1, {stride + 1}, {2 * stride + 1}, …)"
        raise InputError(field, rule, frames, fix)
    return (frames - 1) // stride + 1


def _frame_length(latents: int) -> int:
    return (latents - 1) * TEMPORAL_STRIDE + 1


class ChunkModel(Protocol):
    """A velocity network over the latents of chunks."""

    config: Any
    """Its arguments; `in_channels`, `out_channels` and `patch_size` are read."""

    def forward_chunks(self, latents: Tensor, timestep: Tensor, text: Any, rope_index: Tensor | None = None) -> Tensor:
        """Velocity `[B, C, F, h, w]` fp32 of noise − data.

        Args:
            latents: `[B, C, F, h, w]`.
            timestep: `[B, F]` in 0…1, one for every latent frame.
            text: token states `[B, T, D]`, or with their mask (`TextCond`) for a backbone that masks its text.
            rope_index: `[F]`, temporal index of every latent frame; None: 0, 1, 2, …
        """
        ...


class Experts(NamedTuple):
    """Two models of a mixture by noise level, headless or ComfyUI's: `high` denoises while t ≥ `boundary`, `low` the
    rest. 0.875 is what the published pair was trained with.
    """

    high: Any
    low: Any
    boundary: float = 0.875


@dataclass(frozen=True)
class VideoSettings:
    """How a video is sampled.

    Attributes:
        steps: solver steps.
        shift: of the noise schedule, see `flow_sigmas`.
        guidance: classifier-free guidance v∅ + w·(v − v∅): one w, or (high, low) for two experts. w = 1 needs no
            negative text and costs half.
        method: `multi_chunk`, or one of the ablation's variants, see `plan_video`.
        text_length: fill the text up with zeros to this many tokens (512 for most published models).
    """

    steps: int = 30
    shift: float = 5.0
    guidance: float | tuple[float, float] = 1.0
    method: Method = "multi_chunk"
    text_length: int | None = None

    @property
    def guided(self) -> bool:
        """Whether guidance does anything."""
        return any(w != 1 for w in (self.guidance if isinstance(self.guidance, tuple) else (self.guidance,)))


@dataclass(frozen=True)
class VideoPlan:
    """The layout of one video in latent time.

    Attributes:
        method: how the video takes its keyframes, see `plan_video`.
        latent_chunks: latent frames of each chunk; chunks are encoded and decoded each on its own.
        pinned: positions of the clean latent frames, ascending; they have t = 0 and never change.
        frames: how many frames `decode_video` gives.
        first: decoded frames before the first of them: the clip that an extension continues.
    """

    method: Method
    latent_chunks: list[int]
    pinned: list[int]
    frames: int
    first: int = 0

    @property
    def latents(self) -> int:
        """F, latent frames together."""
        return sum(self.latent_chunks)

    @property
    def chunks(self) -> list[int]:
        """Frames that each chunk decodes to, 4n+1."""
        return [_frame_length(n) for n in self.latent_chunks]

    @property
    def rope_index(self) -> Tensor:
        """`[F]` float64: MC-RoPE for chunks (Eq. 4), which for one chunk is the stock 0, 1, 2, …"""
        return mc_index(self.latent_chunks)

    @property
    def free(self) -> list[int]:
        """Positions of the latent frames that are made, ascending."""
        pinned = set(self.pinned)
        return [i for i in range(self.latents) if i not in pinned]

    @property
    def pinned_frames(self) -> list[int]:
        """Frames that the pinned latents stand for, ascending: a chunk's first latent for one, others for four."""
        pinned = set(self.pinned)
        out: list[int] = []
        position = start = 0
        for latents, frames in zip(self.latent_chunks, self.chunks, strict=True):
            for j in range(latents):
                if position + j in pinned:
                    end = start + TEMPORAL_STRIDE * j + 1
                    out += [start] if j == 0 else range(end - TEMPORAL_STRIDE, end)
            position, start = position + latents, start + frames
        return out


def plan_video(timeline: Timeline, method: Method = "multi_chunk") -> VideoPlan:
    """Lay a shot out in latent time.

    * `multi_chunk`: SmartDirector §3.2. A chunk per keyframe, which is its first frame; MC-RoPE.
    * `latent_replacement`: the ablation's "w/o Multi-Chunk strategy" (§4.4). One causal chunk with the stock RoPE;
      each keyframe, encoded alone, takes the place of the latent whose 4 frames hold it.
    * `replication`: the ablation's "keyframe replication" (§4.4). The same, but the keyframe fills all 4 frames of its
      latent before encoding, so the latent is one the causal VAE could have made.

    One chunk must have 4n+1 frames, so the two variants are laid out for up to 3 frames more and cut when decoded.

    Raises:
        InputError: an unknown method, or two keyframes so near that in one chunk they would share a latent.
    """
    if method not in get_args(Method):
        raise InputError("method", f"must be one of {', '.join(get_args(Method))}", method, "use multi_chunk")
    if method == "multi_chunk":
        return VideoPlan(method, timeline.latent_chunks, timeline.keyframe_latents, timeline.frames)
    pinned = [-(-frame // TEMPORAL_STRIDE) for frame in timeline.keyframe_frames]
    if len(set(pinned)) < len(pinned):
        fix = f"keep keyframes at least {TEMPORAL_STRIDE} frames apart or use multi_chunk"
        raise InputError("keyframes", f"must not share a latent with {method}", timeline.keyframe_frames, fix)
    return VideoPlan(method, [-(-(timeline.frames - 1) // TEMPORAL_STRIDE) + 1], pinned, timeline.frames)


def plan_extension(clip_frames: int, timeline: Timeline, context_frames: int | None = None) -> VideoPlan:
    """Lay out what follows a given clip; the clip's latents are all given (video extension, SmartDirector §1, Fig. 2).

    The timeline's clock starts at the clip's last frame. Without a keyframe at frame 0, that frame IS the clip's last
    frame: the new latents go on in the clip's own causal chunk, and timeline.frames − 1 frames are new. With one, a
    new shot starts after the clip, and all timeline.frames frames are new.

    Args:
        clip_frames: frames of the clip. Up to 3 at its start are left out, so that 4n+1 remain.
        timeline: of the new part.
        context_frames: use only this many frames at the clip's end, to bound time and memory; None uses all.

    Raises:
        InputError: a clip or context without frames, or a timeline that adds none.
    """
    available = clip_frames if context_frames is None else min(clip_frames, context_frames)
    if available < 1:
        name = "clip" if clip_frames < 1 else "context_frames"
        raise InputError(name, "must have at least one frame", available, "give a longer clip")
    context = (available - 1) // TEMPORAL_STRIDE + 1
    new_shot = timeline.keyframe_frames[:1] == [0]
    new_frames = timeline.frames if new_shot else timeline.frames - 1
    if not new_frames:
        raise InputError("timeline", "must add frames to the clip", f"{timeline.frames} frame", "make it longer")
    first, *later = timeline.latent_chunks
    chunks = [context, first, *later] if new_shot else [context + first - 1, *later]
    offset = context if new_shot else context - 1
    pinned = [*range(context), *(offset + i for i in timeline.keyframe_latents)]
    return VideoPlan("multi_chunk", chunks, pinned, new_frames, first=_frame_length(context))


def encode_keyframes(vae: ChunkCodec, keyframes: Tensor, plan: VideoPlan) -> Tensor:
    """Encode keyframes, `[B, K, 3, H, W]` in 0…1 → `[B, C, K, h, w]`, each on its own, as the plan's method wants it.

    `plan.pinned` must hold one position per keyframe. Of no keyframes come no latents, in the size of `keyframes`.
    """
    batch, count, _, height, width = keyframes.shape
    if len(plan.pinned) != count:
        fix = "give one image per keyframe of the timeline"
        raise InputError("keyframes", f"must be {len(plan.pinned)} images", count, fix)
    if not count:
        scale = vae.spatial_compression
        return torch.zeros(batch, vae.latent_channels, 0, height // scale, width // scale)
    # A latent that stands for 4 frames sees them and the one before, so 5 equal frames make one that holds only this
    # image. The first latent of a chunk stands for one frame, and there is nothing to replicate.
    repeats = [TEMPORAL_STRIDE + 1 if plan.method == "replication" and position > 0 else 1 for position in plan.pinned]
    video = keyframes.repeat_interleave(torch.tensor(repeats, device=keyframes.device), dim=1)
    latents = vae.encode_chunks(video, repeats)
    last = [end - 1 for end in accumulate(2 if n > 1 else 1 for n in repeats)]
    return latents[:, :, last]


def encode_extension(vae: ChunkCodec, clip: Tensor, keyframes: Tensor, timeline: Timeline, plan: VideoPlan) -> Tensor:
    """Encode the clean latents of an extension: the clip's end as context, and the new part's keyframes.

    Args:
        vae: encodes them.
        clip: `[B, T, 3, H, W]` in 0…1.
        keyframes: `[B, K, 3, H, W]` in the clip's size; of clip and keyframes one batch may be 1.
        timeline: of the new part.
        plan: of both, from `plan_extension`.

    Returns:
        `[B, C, P, h, w]` for the plan's `pinned` places.
    """
    context = vae.encode_chunks(clip[:, -plan.first :], [plan.first])
    new = encode_keyframes(vae, keyframes, plan_video(timeline)).to(context)
    batch = max(len(context), len(new))
    return torch.cat([each.expand(batch, *each.shape[1:]) for each in (context, new)], dim=2)


def decode_video(vae: ChunkCodec, latents: Tensor, plan: VideoPlan) -> Iterator[Tensor]:
    """Decode in order of time to parts `[B, t, 3, H, W]` in 0…1, together exactly `plan.frames` frames.

    Frames come as they are ready, so memory does not grow with the video. Of an extension only the new frames come.
    """
    skip, done, chunks = plan.first, 0, plan.chunks
    # Chunks that lie wholly in the clip are not decoded: no later chunk needs them.
    while skip >= chunks[done]:
        skip -= chunks[done]
        done += 1
    rest = latents[:, :, sum(plan.latent_chunks[:done]) :]
    left = plan.frames  # cuts the end only of a variant's single, longer chunk
    for frames in vae.decode_chunks(rest, plan.latent_chunks[done:]):
        part = frames[:, skip : skip + left]
        skip, left = max(0, skip - frames.shape[1]), left - part.shape[1]
        if part.shape[1]:
            yield part
        if not left:
            return


def mc_index(latent_chunks: Sequence[int], step: float = 0.25) -> Tensor:
    """Multi-Chunk RoPE's temporal index u_i of every latent frame, `[F]` float64 (SmartDirector §3.2, Eq. 4).

    u_0 = 0; u_i = u_{i−1} + `step` where a new chunk starts (at its keyframe k̂), else u_{i−1} + 1. A keyframe comes
    one frame after the chunk before it, where ordinary latents lie four frames apart: hence 0.25.

    Args:
        latent_chunks: latent frames of each chunk. One chunk gives 0, 1, 2, …: the stock index.
        step: the advance to a keyframe; 1 is the stock index for any chunks.

    Raises:
        InputError: no chunk, or one without frames.
    """
    if min(latent_chunks, default=0) < 1:
        fix = "drop empty chunks"
        raise InputError("latent_chunks", "every chunk has at least one latent", list(latent_chunks), fix)
    advance = [step if j == 0 else 1.0 for n in latent_chunks for j in range(n)]
    return torch.tensor([0.0, *advance[1:]], dtype=torch.float64).cumsum(0)


def frame_timesteps(t: Tensor, keyframe_latents: Sequence[int], latents: int) -> Tensor:
    """Timestep of every latent frame, `[B, F]` fp32 in 0…1: 0 (clean) at keyframes, else the row's t.

    Args:
        t: `[B]`, in 0…1.
        keyframe_latents: positions in 0…F−1 whose latents are clean.
        latents: F.

    Raises:
        InputError: a position outside 0…F−1.
    """
    wrong = [i for i in keyframe_latents if not 0 <= i < latents]
    if wrong:
        raise InputError("keyframe_latents", f"must lie in 0…{latents - 1}", wrong, "take them from the timeline")
    out = t.float()[:, None].repeat(1, latents)
    out[:, list(keyframe_latents)] = 0
    return out


def pad_text(tokens: Tensor, mask: Tensor | None = None, length: int | None = None) -> Tensor:
    """Text for a model that reads it without a mask: padding is zeros, and it IS attended to.

    Args:
        tokens: `[B, T, D]` from the text encoder.
        mask: `[B, T]`, true at real tokens; None if all are.
        length: cut or fill up with zeros to this many tokens (512 for the published models); None keeps T.
    """
    if mask is not None:
        tokens = tokens * mask.to(tokens)[..., None]
    if length is not None:
        tokens = torch.nn.functional.pad(tokens[:, :length], (0, 0, 0, max(0, length - tokens.shape[1])))
    return tokens


def rope_table(index: Tensor, height: int, width: int, dims: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """cos and sin of a 3D rotary embedding with fractional times, each `[b, F·height·width, 1, Σ dims]` fp32.

    Angles are computed in float64 on the CPU, like the stock ones: in bf16, u = 64.25 would become 64 and a keyframe's
    quarter step would be lost.

    Args:
        index: temporal index, `[F]` (b = 1, for all rows of a batch) or `[B, F]` (b = B).
        height, width: the grid in patches.
        dims: channels of a head given to time, height and width, each even.
    """
    rows = index.detach().to("cpu", torch.float64).reshape(-1, index.shape[-1])
    b, f = rows.shape
    positions = (rows.flatten(), torch.arange(height), torch.arange(width))
    shapes = ((b, f, 1, 1), (1, 1, height, 1), (1, 1, 1, width))
    tables = [_angles(d, p) for d, p in zip(dims, positions, strict=True)]

    def lay_out(part: int) -> Tensor:
        axes = [t[part].view(*s, -1).expand(b, f, height, width, -1) for t, s in zip(tables, shapes, strict=True)]
        return torch.cat(axes, dim=-1).reshape(b, f * height * width, 1, -1)

    return lay_out(0), lay_out(1)


def _angles(channels: int, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of one axis, each `[positions, channels]` fp32; channels 2k and 2k + 1 turn together."""
    rates = 1.0 / _THETA ** (torch.arange(0, channels, 2, dtype=torch.float64) / channels)
    angles = torch.outer(positions.double(), rates)
    return angles.cos().repeat_interleave(2, dim=1).float(), angles.sin().repeat_interleave(2, dim=1).float()
