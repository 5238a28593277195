"""Which latent frames a video has, which of them are given, and how they are encoded and decoded.

SmartDirector's Multi-Chunk layout (§3.2), its extension of a given clip, and the two variants of its ablation (§4.4).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor

from ..models.vae import VideoVAE
from ..models.wan.layout import mc_index
from ..story.errors import InputError
from ..story.timeline import GRID, Timeline

__all__ = ["Method", "VideoPlan", "decode_video", "encode_keyframes", "plan_extension", "plan_video"]

Method = Literal["multi_chunk", "latent_replacement", "replication"]


@dataclass(frozen=True)
class VideoPlan:
    """The layout of one video in latent time.

    Attributes:
        method: how the video takes its keyframes, see `plan_video`.
        latent_chunks: latent frames of each chunk; chunks are encoded and decoded each on its own.
        pinned: positions of the given latent frames, ascending; they are clean (t = 0) and never change.
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
    def rope_index(self) -> Tensor:
        """`[F]` float64: MC-RoPE for chunks (Eq. 4), which for one chunk is the stock 0, 1, 2, …"""
        return mc_index(self.latent_chunks)


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
    pinned = [-(-frame // GRID) for frame in timeline.keyframe_frames]
    if len(set(pinned)) < len(pinned):
        fix = f"keep keyframes at least {GRID} frames apart or use multi_chunk"
        raise InputError("keyframes", f"must not share a latent with {method}", timeline.keyframe_frames, fix)
    return VideoPlan(method, [-(-(timeline.frames - 1) // GRID) + 1], pinned, timeline.frames)


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
    context = (available - 1) // GRID + 1
    new_shot = timeline.keyframe_frames[:1] == [0]
    new_frames = timeline.frames if new_shot else timeline.frames - 1
    if not new_frames:
        raise InputError("timeline", "must add frames to the clip", f"{timeline.frames} frame", "make it longer")
    first, *later = timeline.latent_chunks
    chunks = [context, first, *later] if new_shot else [context + first - 1, *later]
    offset = context if new_shot else context - 1
    pinned = [*range(context), *(offset + i for i in timeline.keyframe_latents)]
    return VideoPlan("multi_chunk", chunks, pinned, new_frames, first=(context - 1) * GRID + 1)


def encode_keyframes(vae: VideoVAE, keyframes: Tensor, plan: VideoPlan) -> Tensor:
    """Encode keyframes, `[B, K, 3, H, W]` in 0…1 → `[B, C, K, h, w]`, each on its own, as the plan's method wants it.

    `plan.pinned` must hold one position per keyframe.
    """
    count = keyframes.shape[1]
    if len(plan.pinned) != count:
        fix = "give one image per keyframe of the timeline"
        raise InputError("keyframes", f"must be {len(plan.pinned)} images", count, fix)
    # A latent that stands for 4 frames sees them and the one before, so 5 equal frames make one that holds only this
    # image. The first latent of a chunk stands for one frame, and there is nothing to replicate.
    repeats = [GRID + 1 if plan.method == "replication" and position > 0 else 1 for position in plan.pinned]
    video = keyframes.repeat_interleave(torch.tensor(repeats, device=keyframes.device), dim=1)
    latents = vae.encode_chunks(video, repeats)
    last = [end - 1 for end in accumulate(2 if n > 1 else 1 for n in repeats)]
    return latents[:, :, last]


def decode_video(vae: VideoVAE, latents: Tensor, plan: VideoPlan) -> Iterator[Tensor]:
    """Decode chunk by chunk to `[B, t, 3, H, W]` in 0…1, together exactly `plan.frames` frames.

    Frames come as they are ready, so memory does not grow with the video. Of an extension only the new frames come.
    """
    skip, done = plan.first, 0
    # Chunks that lie wholly in the clip are not decoded: no later chunk needs them.
    while skip >= _frames(plan.latent_chunks[done]):
        skip -= _frames(plan.latent_chunks[done])
        done += 1
    rest = latents[:, :, sum(plan.latent_chunks[:done]) :]
    for frames in vae.decode_chunks(rest, plan.latent_chunks[done:]):
        yield frames[:, skip : skip + plan.frames]  # the end cuts only a variant's single, longer chunk
        skip = 0


def _frames(latents: int) -> int:
    return (latents - 1) * GRID + 1
