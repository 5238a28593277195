"""Recipe: the pocket video model, SmartDirector's Director-Gen training (§3.2) at pocket scale.

Clips are cut into chunks at their keyframes, every chunk is encoded on its own, and noise is injected only off the
keyframes. One shot with its caption, or two shots with tiled captions (Captain Cinema §3.3).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ..models.pocket.bank import to_tensor
from ..models.pocket.configs import VIDEO
from ..models.pocket.render import render_clip
from ..models.pocket.world import ShotSpec, make_story
from ..models.vae import VideoVAE
from ..models.wan.headless import DirectorWan
from ..models.wan.layout import frame_timesteps, mc_index
from ..sampling.video import tile_captions
from ..story.files import atomic_path


@dataclass(frozen=True)
class ChunkLayout:
    """Chunk lengths in frames; with `shots` 2 the second half of the chunks belongs to another shot."""

    chunks: tuple[int, ...]
    shots: int = 1

    @property
    def latent_chunks(self) -> list[int]:
        """Latent frames of each chunk."""
        return [(n - 1) // 4 + 1 for n in self.chunks]


LAYOUTS = (
    ChunkLayout((17,)),
    ChunkLayout((9, 9)),
    ChunkLayout((5, 13)),
    ChunkLayout((13, 5)),
    ChunkLayout((5, 9, 5)),
    ChunkLayout((17, 1)),
    ChunkLayout((9, 9), shots=2),
    ChunkLayout((13,)),
)


@dataclass
class ClipLatents:
    """Encoded clips: per layout a tensor [N, 16, F, 10, 20] (fp16), character weights [N, F, 10, 20] and captions."""

    latents: list[Tensor]
    weights: list[Tensor]
    captions: list[list[str]]


def clip_pieces(layout: ChunkLayout, seed: int, split: str) -> tuple[list[tuple[ShotSpec, int]], str]:
    """The (shot, frames) pieces of a clip of this layout and its caption."""
    shots = make_story(seed, 2, split).shots
    if layout.shots == 1:
        return [(shots[1], sum(layout.chunks))], shots[1].prompt
    half = len(layout.chunks) // 2
    pieces = [(shots[0], sum(layout.chunks[:half])), (shots[1], sum(layout.chunks[half:]))]
    return pieces, tile_captions([s.prompt for s in shots])


def draw_clip(layout: ChunkLayout, seed: int, split: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Frames uint8 [T, 80, 160, 3], character masks uint8 [T, 80, 160] and the caption of a clip."""
    pieces, text = clip_pieces(layout, seed, split)
    drawn = [render_clip(shot, frames) for shot, frames in pieces]
    return np.concatenate([p for p, _ in drawn]), np.concatenate([m for _, m in drawn]), text


@torch.no_grad()
def encode_clips(
    vae: VideoVAE, per_layout: int, split: str = "train", seed: int = 0, cache: Path | None = None
) -> ClipLatents:
    """Render and encode clips of every layout; with `cache` the tensors are kept in that file."""
    seeds = [[90_000_000 + seed + n * len(LAYOUTS) + i for n in range(per_layout)] for i in range(len(LAYOUTS))]
    captions = [[clip_pieces(lay, s, split)[1] for s in row] for lay, row in zip(LAYOUTS, seeds, strict=True)]
    if cache is not None and cache.exists():
        with safe_open(cache, framework="pt") as f:
            latents = [f.get_tensor(f"latents{i}") for i in range(len(LAYOUTS))]
            weights = [f.get_tensor(f"weights{i}") for i in range(len(LAYOUTS))]
        return ClipLatents(latents, weights, captions)
    latents, weights = [], []
    for layout, row in zip(LAYOUTS, seeds, strict=True):
        z_parts, w_parts = [], []
        for start in range(0, len(row), 8):
            drawn = [draw_clip(layout, s, split) for s in row[start : start + 8]]
            video = to_tensor(np.stack([d[0] for d in drawn]))
            z_parts.append(vae.encode_chunks(video, list(layout.chunks)))
            masks = torch.from_numpy(np.stack([d[1] for d in drawn])).float() / 255
            w_parts.append(_latent_weights(masks, layout))
        latents.append(torch.cat(z_parts).half().contiguous())
        weights.append(torch.cat(w_parts).half())
    if cache is not None:
        with atomic_path(cache) as temporary:
            tensors = {f"latents{i}": z for i, z in enumerate(latents)}
            save_file(tensors | {f"weights{i}": w for i, w in enumerate(weights)}, temporary)
    return ClipLatents(latents, weights, captions)


def _latent_weights(masks: Tensor, layout: ChunkLayout) -> Tensor:
    """Frame masks [B, T, H, W] to latent cells [B, F, 10, 20]: the mean over the frames a latent stands for."""
    small = F.adaptive_avg_pool2d(masks, (10, 20))
    out, start = [], 0
    for n in layout.chunks:
        chunk = small[:, start : start + n]
        out.append(chunk[:, :1])
        out.extend(chunk[:, k : k + 4].mean(1, keepdim=True) for k in range(1, n, 4))
        start += n
    return torch.cat(out, 1)


class VideoRecipe:
    """Flow matching off the keyframes; keyframe latents stay clean at t = 0."""

    name = "video"
    edges = ("condition_embedder", "patch_embedding", "proj_out", "scale_shift_table")

    def __init__(
        self,
        data: ClipLatents,
        encode_text: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
        seed: int = 0,
        size: int = 16,
        character_weight: float = 2.0,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        """`encode_text`: texts → (states [N, T, D] with zeros at padding, mask)."""
        self.data, self.seed, self.size = data, seed, size
        self.character_weight, self.start = character_weight, start
        self._encode_text = encode_text

    def build(self) -> DirectorWan:
        model = DirectorWan(**VIDEO)
        if self.start is not None:
            model.load_state_dict(self.start)
        return model

    def batch(self, step: int) -> dict:
        rng = random.Random(f"{self.seed}/{step}")
        kind = rng.randrange(len(LAYOUTS))
        index = [rng.randrange(len(self.data.latents[kind])) for _ in range(self.size)]
        text, _ = self._encode_text([self.data.captions[kind][i] for i in index])
        # some clips are asked for without their middle keyframes' help, some without any: first-frame and text to video
        latent_chunks = LAYOUTS[kind].latent_chunks
        starts = [sum(latent_chunks[:k]) for k in range(len(latent_chunks))]
        free = rng.random()
        pinned = [] if free < 0.08 else starts
        return {
            "latents": self.data.latents[kind][index].float(),
            "weights": self.data.weights[kind][index].float(),
            "text": text,
            "latent_chunks": latent_chunks,
            "pinned": pinned,
            "noise_seed": rng.randrange(2**31),
        }

    def loss(self, model: DirectorWan, batch: dict, step: int) -> tuple[Tensor, dict[str, float]]:
        z0, pinned = batch["latents"], batch["pinned"]
        g = torch.Generator().manual_seed(batch["noise_seed"])
        t = torch.sigmoid(0.4 + 1.2 * torch.randn(z0.shape[0], generator=g))
        noise = torch.randn(z0.shape, generator=g).to(z0)
        times = frame_timesteps(t, pinned, z0.shape[2]).to(z0.device)
        wide = times[:, None, :, None, None]
        noisy = (1 - wide) * z0 + wide * noise
        v = model.forward_chunks(noisy, times, batch["text"], mc_index(batch["latent_chunks"]))
        free = torch.ones(z0.shape[2], device=z0.device)
        free[pinned] = 0
        weight = free[None, None, :, None, None] * (1 + self.character_weight * batch["weights"][:, None])
        error = (v - (noise - z0)).square()
        loss = (error * weight).sum() / (weight.sum() * z0.shape[1])
        return loss, {"plain": float((error.detach() * free[None, None, :, None, None]).mean())}
