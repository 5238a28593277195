"""Recipe: the pocket video model, SmartDirector's Director-Gen training (§3.2) at pocket scale.

Clips are cut into chunks at their keyframes, every chunk is encoded on its own, and noise is injected only off the
keyframes. One shot with its caption, or two shots with tiled captions (Captain Cinema §3.3).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...core.files import atomic_path
from ...models.backbones.wan.headless import DirectorWan
from ...models.encoders.vae import VideoCodec
from ...models.layouts.chunks import frame_timesteps, mc_index
from ...sampling.noise import noise_like
from ...story.stages import tile_captions
from ...training.objectives import FlowInputs, FlowMatching
from ...training.processes import Share
from ...training.recipe import Recipe
from ..bank import draw_all, to_tensor
from ..configs import VIDEO
from ..dataset import cell_shares
from ..render import render_clip
from ..world import ShotSpec, make_story
from .captions import tell_shots


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


TEXT_ONLY = 0.5
"""Share of one-shot batches without keyframes: text to video, where a caption alone must say everything."""

VARIANTS = (0.6, 0.2, 0.2)
"""Of those, how many captions say everything, the scene without actions, or the actions without the scene."""

PLAIN = 0.3
"""Share of clips whose caption is in the world's own grammar."""


@dataclass
class ClipLatents:
    """Encoded clips: per layout a tensor [N, 16, F, 10, 20] (fp16), character weights [N, F, 10, 20], captions, and
    their variants (see `caption_variants`).
    """

    latents: list[Tensor]
    weights: list[Tensor]
    captions: list[list[str]]
    caption_variants: list[list[tuple[str, str, str]]]


def clip_pieces(layout: ChunkLayout, seed: int, split: str) -> tuple[list[tuple[ShotSpec, int]], str]:
    """The (shot, frames) pieces of a clip of this layout and its caption, in plain words or in somebody's."""
    rng = random.Random(f"clip/{seed}")
    story = make_story(seed, 2, split)
    shots = story.shots
    prompts = [s.prompt for s in shots]
    if rng.random() > PLAIN:
        prompts = [s.caption(s.truth.described) for s in tell_shots(story, rng)]
    if layout.shots == 1:
        return [(shots[1], sum(layout.chunks))], prompts[1]
    half = len(layout.chunks) // 2
    pieces = [(shots[0], sum(layout.chunks[:half])), (shots[1], sum(layout.chunks[half:]))]
    return pieces, tile_captions(prompts)


def caption_variants(shot: ShotSpec) -> tuple[str, str, str]:
    """Captions of a shot for somebody who remembers nothing: all of it, the scene, and the actions."""
    names = [actor.name for actor in shot.actors]
    everything = shot.clauses(names)
    return " ".join(everything), " ".join(shot.clauses(names, acting=False)), " ".join(everything[1:])


def draw_clip(layout: ChunkLayout, seed: int, split: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Frames uint8 [T, 80, 160, 3], character masks uint8 [T, 80, 160] and the caption of a clip."""
    pieces, text = clip_pieces(layout, seed, split)
    drawn = [render_clip(shot, frames) for shot, frames in pieces]
    return np.concatenate([p for p, _ in drawn]), np.concatenate([m for _, m in drawn]), text


@torch.no_grad()
def encode_clips(
    vae: VideoCodec, per_layout: int, split: str = "train", seed: int = 0, cache: Path | None = None
) -> ClipLatents:
    """Render and encode clips of every layout; with `cache` the tensors are kept in that file."""
    seeds = [[90_000_000 + seed + n * len(LAYOUTS) + i for n in range(per_layout)] for i in range(len(LAYOUTS))]
    drawn_from = [[clip_pieces(lay, s, split) for s in row] for lay, row in zip(LAYOUTS, seeds, strict=True)]
    captions = [[text for _, text in row] for row in drawn_from]
    variants = [[caption_variants(pieces[-1][0]) for pieces, _ in row] for row in drawn_from]
    if cache is not None and cache.exists():
        with safe_open(cache, framework="pt") as f:
            latents = [f.get_tensor(f"latents{i}") for i in range(len(LAYOUTS))]
            weights = [f.get_tensor(f"weights{i}") for i in range(len(LAYOUTS))]
        return ClipLatents(latents, weights, captions, variants)
    latents, weights = [], []
    for layout, row in zip(LAYOUTS, seeds, strict=True):
        drawn = draw_all(partial(_draw_weighted, layout, split), row)
        z_parts = []
        for start in range(0, len(row), 64):
            video = to_tensor(np.stack([frames for frames, _ in drawn[start : start + 64]]))
            z_parts.append(vae.encode_chunks(video, list(layout.chunks)).cpu())
        latents.append(torch.cat(z_parts).half().contiguous())
        weights.append(torch.from_numpy(np.stack([share for _, share in drawn])).half())
    if cache is not None:
        with atomic_path(cache) as temporary:
            tensors = {f"latents{i}": z for i, z in enumerate(latents)}
            save_file(tensors | {f"weights{i}": w for i, w in enumerate(weights)}, temporary)
    return ClipLatents(latents, weights, captions, variants)


def _draw_weighted(layout: ChunkLayout, split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of a clip, and the character's share of each latent cell [F, 10, 20]: the mean over the frames that a
    latent stands for.
    """
    frames, masks, _ = draw_clip(layout, seed, split)
    shares = cell_shares(masks)
    latents = [first for n in layout.chunks for first in (1, *[4] * ((n - 1) // 4))]
    ends = np.cumsum(latents)
    return frames, np.stack([shares[end - n : end].mean(0) for n, end in zip(latents, ends, strict=True)])


class VideoBatch(NamedTuple):
    """Clips of one layout.

    Attributes:
        layout: index into `LAYOUTS`.
        clips: [N] indices into the layout's clips.
        pinned: latent frames that are keyframes; none in text to video.
        variant: which of the caption variants the text is; None for the story's own caption.
        noise_seed: of times and noise.
    """

    layout: int
    clips: Tensor
    pinned: list[int]
    variant: int | None
    noise_seed: int


class VideoConditions(NamedTuple):
    """What the video model wants beside noisy latents: times [N, F], 0 at keyframes; text states [N, T, D]; latent
    frames of each chunk.
    """

    times: Tensor
    text: Tensor
    latent_chunks: list[int]


class ClipDraws:
    """Encoded clips, `batch_size` of one layout in a batch."""

    def __init__(self, clips: ClipLatents, seed: int, batch_size: int) -> None:
        self.clips, self.seed, self.batch_size = clips, seed, batch_size

    def __len__(self) -> int:
        return sum(map(len, self.clips.latents))

    def draw(self, step: int) -> VideoBatch:
        """The clips of a step."""
        rng = random.Random(f"{self.seed}/{step}")
        layout = rng.randrange(len(LAYOUTS))
        clips = [rng.randrange(len(self.clips.latents[layout])) for _ in range(self.batch_size)]
        latent_chunks = LAYOUTS[layout].latent_chunks
        free = rng.random() < TEXT_ONLY and LAYOUTS[layout].shots == 1
        return VideoBatch(
            layout=layout,
            clips=torch.tensor(clips),
            pinned=[] if free else [sum(latent_chunks[:k]) for k in range(len(latent_chunks))],
            variant=rng.choices(range(len(VARIANTS)), VARIANTS)[0] if free else None,
            noise_seed=rng.randrange(2**31),
        )


def _predict(model: DirectorWan, noisy: Tensor, inputs: FlowInputs) -> Tensor:
    times, text, latent_chunks = inputs.conditions
    return model.forward_chunks(noisy, times, text, mc_index(latent_chunks))


class VideoRecipe(Recipe[VideoBatch, FlowInputs]):
    """Flow matching off the keyframes; keyframe latents stay clean at t = 0."""

    name = "video"
    data: ClipDraws
    objective = FlowMatching(_predict)
    edges = ("condition_embedder", "patch_embedding", "proj_out", "scale_shift_table")
    units = ("DirectorWanBlock",)

    def __init__(
        self,
        data: ClipLatents,
        encode_text: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
        seed: int = 0,
        batch_size: int = 16,
        character_weight: float = 2.0,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        """`encode_text`: texts → (states [N, T, D] with zeros at padding, mask)."""
        self.data = ClipDraws(data, seed, batch_size)
        self.character_weight, self.start = character_weight, start
        self._text = [encode_text(captions)[0] for captions in data.captions]
        # [3, N, T, D] per layout of one shot
        self._variants = [
            torch.stack([encode_text(texts)[0].half() for texts in zip(*rows, strict=True)])
            for rows in data.caption_variants
        ]

    def prepare(self, device: torch.device) -> None:
        """Clips and captions live on the device."""
        clips = self.data.clips
        latents, weights = [z.to(device) for z in clips.latents], [w.to(device) for w in clips.weights]
        self.data.clips = replace(clips, latents=latents, weights=weights)
        self._text = [states.to(device) for states in self._text]
        self._variants = [states.to(device) for states in self._variants]

    def build(self) -> DirectorWan:
        model = DirectorWan(**VIDEO)
        if self.start is not None:
            model.load_state_dict(self.start)
        return model

    def inputs(self, batch: VideoBatch, step: int) -> FlowInputs:
        layout, clips = batch.layout, batch.clips
        z0 = self.data.clips.latents[layout][clips].float()
        g = torch.Generator(z0.device).manual_seed(batch.noise_seed)
        t = torch.sigmoid(0.4 + 1.2 * torch.randn(z0.shape[0], generator=g, device=g.device))
        times = frame_timesteps(t, batch.pinned, z0.shape[2])
        free = (times > 0).float()[:, None, :, None, None]
        text = self._words(layout, batch.variant)[clips].float()
        return FlowInputs(
            clean=z0,
            noise=noise_like(z0.shape, g),
            t=times[:, None, :, None, None],
            weight=free * (1 + self.character_weight * self.data.clips.weights[layout][clips].float()[:, None]),
            conditions=VideoConditions(times, text, LAYOUTS[layout].latent_chunks),
        )

    def share(self, inputs: FlowInputs, share: Share) -> FlowInputs:
        rows = share.rows(len(inputs.clean), "clips")
        times, text, latent_chunks = inputs.conditions
        clean, noise, t, weight = (rows.of(x) for x in inputs[:4])
        return FlowInputs(clean, noise, t, weight, VideoConditions(rows.of(times), rows.of(text), latent_chunks))

    def _words(self, layout: int, variant: int | None) -> Tensor:
        """Text states of all clips of a layout: their captions, or one of their variants."""
        return self._text[layout] if variant is None else self._variants[layout][variant]
