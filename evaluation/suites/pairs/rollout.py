"""Many stories of start and end frames rolled out at once: a shot looks back at the pairs made before it.

Row n of a batch is story n. What is remembered differs from row to row, but a pack's places have the same sizes in all
of them; captions of unequal length are masked. Every row's text encoder sees that row's own previous end frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....memory.frame_memory import FrameMemory, MemoryFrame
from ....memory.memory_pack import MemoryPack
from ....memory.retrieval import Ranking
from ....models.encoders.text_cond import TextCond
from ....models.layouts.start_end import Segment
from ....pipelines.pair_job import PairFilmSettings
from ....pocket.world import FPS, HEIGHT, WIDTH
from ....sampling.noise import noise_source
from ....sampling.pairs import PairSettings, memory_segments, sample_pair
from ...metrics.cost import clock
from .stories import Looks, ToldStory

if TYPE_CHECKING:
    from ....models.encoders.clip import ClipScorer
    from ....models.encoders.qwen_vl import QwenVLEncoder
    from ....models.encoders.vae import ImageCodec
    from ....models.layouts.start_end import SegmentModel
    from ....models.studio import Studio
    from ....models.studio_defaults import PairDefaults

__all__ = ["PairModels", "PairPolicy", "RollOut", "roll_out"]

Tick = Callable[[int], None]
"""Called with the number of shots that are done."""

_BLANK = " "
"""The negative prompt, as published."""


@dataclass(frozen=True)
class PairPolicy:
    """How a variant makes pairs.

    Attributes:
        pack: packs what is remembered; None: no memory pack.
        rank_by: order of the remembered frames.
        joint: start and end frame are denoised together (dual encoding).
        previous: the text encoder sees the previous shot's end frame.
        looks: what captions tell of characters that come back.
    """

    pack: MemoryPack | None
    rank_by: Ranking = "clip"
    joint: bool = True
    previous: bool = True
    looks: Looks = "plain"


@dataclass(frozen=True)
class PairModels:
    """The models of a studio that pairs are made with, and how films of it sample."""

    transformer: SegmentModel
    text: QwenVLEncoder
    vae: ImageCodec
    clip: ClipScorer
    defaults: PairDefaults
    sampling: PairSettings

    @classmethod
    def of(cls, studio: Studio) -> PairModels:
        """Load them; InputError where the studio has no pair model."""
        settings = PairFilmSettings.of(studio, (HEIGHT, WIDTH))
        return cls(studio.pair, studio.pair_text, studio.pair_vae, studio.clip, settings.defaults, settings.sampling)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a frame's latent."""
        side = self.vae.spatial_compression
        return self.vae.latent_channels, HEIGHT // side, WIDTH // side

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of a frame in tokens."""
        side = self.vae.pixels_per_token
        return HEIGHT // side, WIDTH // side

    # What a frame memory asks of its host (`memory.frame_memory.FrameEncoders`).

    @property
    def pixels_per_token(self) -> int:
        """Pixels along a side of one token."""
        return self.vae.pixels_per_token

    def embed_query(self, text: str, dim: int) -> Tensor:
        """CLIP embeddings `[P, dim]` of the parts of a query, on the CPU."""
        return self._queries[text] if text in self._queries else self._queries.setdefault(text, self._embed(text))

    def embed_caption(self, text: str) -> Tensor:
        """Raises ValueError: pairs are ranked by images or by time, so no memory asks for it."""
        raise ValueError("pairs are not ranked by captions")

    def embed_image(self, images: Tensor) -> Tensor:
        """CLIP embeddings `[B, D]`, on the CPU, of images `[B, 3, H, W]` in 0…1."""
        return self.clip.embed_images(images).cpu()

    def encode(self, images: Tensor) -> Tensor:
        """Latents `[B, C, h, w]` of images `[B, 3, H, W]` in 0…1."""
        return self.vae.encode_image(images)

    @cached_property
    def _queries(self) -> dict[str, Tensor]:
        return {}

    def _embed(self, text: str) -> Tensor:
        return self.clip.embed_query(text).cpu()


@dataclass
class RollOut:
    """Generated stories.

    Attributes:
        frames: `[N, P, 2, 3, H, W]`, start and end frame of every shot, on the CPU.
        remembered: per story and shot, the frames in its memory, best first: 2 · shot, and 1 more for its end frame.
        tokens: per shot, image and text tokens that a step runs over, mean over stories.
        memory_tokens: those of them that are memory.
        seconds: per shot, for all stories together; of processor time on a CPU, so that other programs do not count.
    """

    frames: Tensor
    remembered: list[list[list[int]]]
    tokens: list[float]
    memory_tokens: list[int]
    seconds: list[float]

    @classmethod
    def join(cls, parts: Sequence[RollOut]) -> RollOut:
        """The stories of several roll-outs of equal length."""
        weights = [len(part.frames) for part in parts]
        tokens = [
            sum(w * t for w, t in zip(weights, shot, strict=True)) / sum(weights)
            for shot in zip(*(part.tokens for part in parts), strict=True)
        ]
        seconds = [sum(taken) for taken in zip(*(part.seconds for part in parts), strict=True)]
        remembered = [memory for part in parts for memory in part.remembered]
        return cls(torch.cat([part.frames for part in parts]), remembered, tokens, parts[0].memory_tokens, seconds)


def roll_out(
    models: PairModels,
    stories: Sequence[ToldStory],
    policy: PairPolicy,
    seed: int,
    tick: Tick = lambda done: None,
) -> RollOut:
    """Make the stories shot by shot (STAGE §4.3, Eq. 8).

    Args:
        models: with the studio's defaults.
        stories: all with the same number of shots.
        policy: what the variant leaves out.
        seed: of the noise; with a story's own seed and the shot's number it fixes every pair.
        tick: called after every shot.
    """
    settings, grid = replace(models.sampling, joint=policy.joint), models.grid
    pack = policy.pack or MemoryPack()
    memory: FrameMemory[PairModels] = FrameMemory(models, pack, policy.rank_by)
    run = RollOut(torch.empty(0), [[] for _ in stories], [], [], [])
    pairs: list[Tensor] = []
    for shot in range(len(stories[0].lengths)):
        begin = clock(models.transformer.device)
        ends = list(pairs[-1][:, 1]) if pairs and policy.previous else None
        prompt = _text(models, [_prompt(models, story, shot, policy.looks) for story in stories], ends)
        against = _text(models, [_BLANK] * len(stories), ends) if settings.negative_prompt else None
        segments, remembered = _remember(memory, stories, shot, policy, settings)
        start, end = sample_pair(
            models.transformer,
            prompt,
            models.shape,
            segments,
            settings,
            [noise_source(seed, story.truth.seed, shot) for story in stories],
            negative=against,
        )
        made = [models.vae.decode_image(latent).float().cpu() for latent in (start, end)]
        queries = [story.query(shot) for story in stories]
        memory = memory.with_frames([MemoryFrame(frame, queries) for frame in made])
        pairs.append(torch.stack(made, 1))
        run.seconds.append(clock(models.transformer.device) - begin)
        run.memory_tokens.append(sum(segment.tokens.shape[1] for segment in segments))
        run.tokens.append(2 * grid[0] * grid[1] + run.memory_tokens[-1] + sum(prompt.lengths) / len(stories))
        for n, kept in enumerate(run.remembered):
            kept.append([rank[n] for rank in remembered])
        tick(shot + 1)
    return replace(run, frames=torch.stack(pairs, 1))


def _remember(
    memory: FrameMemory[PairModels],
    stories: Sequence[ToldStory],
    shot: int,
    policy: PairPolicy,
    settings: PairSettings,
) -> tuple[list[Segment], list[tuple[int, ...]]]:
    """The memory's segments, and which frames they are in every story."""
    if policy.pack is None:
        return [], []
    recalled = memory.recall(*([story.query(shot)] for story in stories))
    context = memory.context(recalled, [None] * len(recalled))
    model, grid = memory.encoders.transformer, memory.encoders.grid
    packed = [(rank.slot, frame.latent) for rank, frame in zip(recalled, context, strict=True)]
    segments = memory_segments(packed, policy.pack, grid, settings.layout, model.device, model.dtype)  # type: ignore[arg-type]
    return segments, [rank.indices for rank in recalled]


def _prompt(models: PairModels, story: ToldStory, shot: int, looks: Looks) -> str:
    length = story.lengths[shot]
    (text,) = models.text.alias([story.caption(shot, looks)])
    return models.defaults.told(text, length / FPS, length)


def _text(models: PairModels, prompts: Sequence[str], ends: Sequence[Tensor] | None) -> TextCond:
    """U = E_mu(F^E of the shot before, D, C), a row for each story."""
    images = None if ends is None else [end.clamp(0, 1) for end in ends]
    own = models.defaults
    return TextCond(*models.text.encode(prompts, images, system_prompt=own.system_prompt, drop_tokens=own.drop_tokens))
