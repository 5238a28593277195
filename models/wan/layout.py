"""SmartDirector §3.2 on a Wan transformer: what position, time and text every latent frame gets.

Pure functions of frame counts and tensors; the adapter that hands them to a network is `headless`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor

from ...story.errors import InputError

__all__ = ["frame_timesteps", "mc_index", "pad_text", "rope_table"]


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
        keyframe_latents: positions in 0…F−1 whose latents are given.
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
    """Text as Wan was trained to read it: padding is zeros, and it IS attended to.

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
    """cos and sin of Wan's 3D rotary embedding with fractional times, each `[b, F·height·width, 1, Σ dims]` fp32.

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
    tables: list[tuple[Tensor, Tensor]] = [
        get_1d_rotary_pos_embed(d, p, use_real=True, repeat_interleave_real=True, freqs_dtype=torch.float64)
        for d, p in zip(dims, positions, strict=True)
    ]

    def lay_out(part: int) -> Tensor:
        axes = [t[part].view(*s, -1).expand(b, f, height, width, -1) for t, s in zip(tables, shapes, strict=True)]
        return torch.cat(axes, dim=-1).reshape(b, f * height * width, 1, -1)

    return lay_out(0), lay_out(1)
