"""Many stories rolled out at once: every shot made from the frames made before it, never from true ones.

Row n of a batch is story n. Memory differs from row to row, but GoldenMem gives rank r the same size in all of them, so
rank r of all rows is one batch; captions of unequal length are masked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....memory.frame_memory import FrameMemory, MemoryFrame
from ....memory.golden_mem import GoldenMem, Place, Size
from ....memory.retrieval import Retrieval, mean_pool
from ....models.cost import Pair, cost_of, memory_pairs
from ....models.encoders.text import TextCond
from ....models.layouts.pairs import PATCH, NoiseLevel
from ....pocket.world import HEIGHT, WIDTH, Story
from ....sampling.frame_encoders import StudioEncoders
from ....sampling.keyframes import KeyframeSettings, sample_keyframes
from ....sampling.noise import noise_source

if TYPE_CHECKING:
    from ....models.studio import Studio

__all__ = ["MemoryPolicy", "RollOut", "StorySet", "extend", "generate_jointly", "step_cost"]

Tick = Callable[[int], None]
"""Called with the number of shots that are done."""


@dataclass(frozen=True)
class MemoryPolicy:
    """What a roll-out remembers.

    Attributes:
        memory: sizes of the remembered frames; None remembers nothing.
        retrieval: their order.
        context_noise: t of context frames, or a range that every frame draws its own from.
    """

    memory: GoldenMem | None
    retrieval: Retrieval
    context_noise: NoiseLevel


@dataclass
class RollOut:
    """Generated stories.

    Attributes:
        frames: `[N, P, 3, H, W]`, on the CPU.
        remembered: per story and shot, the earlier shots in its context, best first.
        slots: per shot, the sizes of its context frames (the same in every story).
        seconds: per shot, for all stories together.
    """

    frames: Tensor
    remembered: list[list[list[int]]]
    slots: list[list[Place]]
    seconds: list[float]

    def first(self, shots: int) -> RollOut:
        """The first `shots` shots. A shot never depends on later ones: this IS the roll-out of a shorter story."""
        kept = [memory[:shots] for memory in self.remembered]
        return RollOut(self.frames[:, :shots], kept, self.slots[:shots], self.seconds[:shots])

    def padded(self, shots: int) -> RollOut:
        """As long as `shots`: the last frame repeated, which remembers nothing and took no time."""
        more = shots - self.frames.shape[1]
        frames = torch.cat([self.frames, self.frames[:, -1:].expand(-1, more, -1, -1, -1)], 1)
        remembered = [[*memory, *([[]] * more)] for memory in self.remembered]
        return RollOut(frames, remembered, [*self.slots, *([[]] * more)], [*self.seconds, *([0.0] * more)])

    @classmethod
    def join(cls, parts: Sequence[RollOut]) -> RollOut:
        """Join the stories of several roll-outs of equal length."""
        seconds = [sum(taken) for taken in zip(*(part.seconds for part in parts), strict=True)]
        remembered = [memory for part in parts for memory in part.remembered]
        slots = [max(sizes, key=len) for sizes in zip(*(part.slots for part in parts), strict=True)]
        return cls(torch.cat([part.frames for part in parts]), remembered, slots, seconds)


class StorySet:
    """N held-out stories of P shots, and what all variants need of their captions.

    Args:
        studio: the models.
        stories: all with the same number of shots.
        seed: of the noise; with a story's own seed and the shot's number it fixes every frame.
    """

    def __init__(self, studio: Studio, stories: Sequence[Story], seed: int) -> None:
        self.studio, self.stories, self.seed = studio, list(stories), seed
        self.shots = len(stories[0].shots)
        prompts = [studio.keyframe_text.alias([shot.prompt for shot in story.shots]) for story in stories]
        self._text = studio.keyframe_text.encode([prompt for row in prompts for prompt in row])
        self.lengths = [self._text.lengths[n * self.shots : (n + 1) * self.shots] for n in range(len(stories))]
        self._queries = [shot.query for story in stories for shot in story.shots]

    def __len__(self) -> int:
        return len(self.stories)

    def text(self, shots: int | Sequence[int]) -> TextCond:
        """Captions of one shot per story, `[N, T, D]`, T the longest of them."""
        which = [shots] * len(self) if isinstance(shots, int) else shots
        rows = torch.tensor([n * self.shots + p for n, p in enumerate(which)], device=self._text.tokens.device)
        mask = self._text.mask[rows]
        longest = int(mask.sum(1).max())
        pooled = None if self._text.pooled is None else self._text.pooled[rows]
        return TextCond(self._text.tokens[rows, :longest], mask[:, :longest], pooled)

    def noise(self, shot: int) -> list[torch.Generator]:
        """One generator per story: a frame's noise depends neither on its batch nor on how earlier frames were made."""
        return [noise_source(self.seed, story.seed, shot) for story in self.stories]

    def query(self, shot: int) -> list[str]:
        """What a shot asks its memory for, in every story."""
        return self._queries[shot :: self.shots]

    @cached_property
    def clip_queries(self) -> dict[str, Tensor]:
        """CLIP embeddings `[D]` of all queries, on the CPU."""
        return dict(zip(self._queries, self.studio.clip.embed_texts(self._queries).cpu(), strict=True))

    @cached_property
    def text_queries(self) -> dict[str, Tensor]:
        """Text embeddings `[D]` of all queries, on the CPU."""
        cond = self.studio.keyframe_text.encode(self._queries)
        return dict(zip(self._queries, mean_pool(cond.tokens, cond.mask).cpu(), strict=True))


def extend(
    stories: StorySet, policy: MemoryPolicy, settings: KeyframeSettings, tick: Tick = lambda done: None
) -> RollOut:
    """Make the stories shot by shot, each shot with earlier GENERATED frames as context (Captain Cinema §3.2).

    Args:
        stories: captions and noise.
        policy: which frames are remembered, how large and with how much noise.
        settings: everything else about sampling; its context noise is not used.
        tick: called after every shot.
    """
    studio, settings = stories.studio, replace(settings, context_noise=policy.context_noise)
    memory = FrameMemory(_StoryEncoders(stories), policy.memory or GoldenMem(), policy.retrieval)
    remembered: list[list[list[int]]] = [[] for _ in stories.stories]
    slots, seconds = [], []
    for shot in range(stories.shots):
        begin = time.perf_counter()
        queries = stories.query(shot)
        recalled = [] if policy.memory is None else memory.recall(*([query] for query in queries))
        context = memory.context(recalled, [stories.text(rank.indices) for rank in recalled])
        (new,) = sample_keyframes(
            studio.keyframe, [stories.text(shot)], _latent_shape(stories), context, settings, stories.noise(shot)
        )
        memory = memory.with_frames([MemoryFrame(studio.image_vae.decode_image(new).cpu(), queries)])
        slots.append([rank.slot for rank in recalled])
        seconds.append(time.perf_counter() - begin)
        for n, kept in enumerate(remembered):
            kept.append([rank.indices[n] for rank in recalled])
        tick(shot + 1)
    return RollOut(torch.stack([frame.image for frame in memory.frames], 1), remembered, slots, seconds)


def generate_jointly(stories: StorySet, shots: int, settings: KeyframeSettings) -> RollOut:
    """Make the first `shots` shots of every story all at once, each frame seeing all others (Captain Cinema §3.2)."""
    begin = time.perf_counter()
    prompts = [stories.text(shot) for shot in range(shots)]
    latents = sample_keyframes(
        stories.studio.keyframe, prompts, _latent_shape(stories), (), replace(settings, mode="full"), stories.noise(0)
    )
    frames = torch.stack([stories.studio.image_vae.decode_image(z).cpu() for z in latents], 1)
    seconds = (time.perf_counter() - begin) / shots
    return RollOut(frames, [[[] for _ in range(shots)] for _ in range(len(stories))], [[]] * shots, [seconds] * shots)


def step_cost(
    stories: StorySet, policy: MemoryPolicy | None, run: RollOut, settings: KeyframeSettings, shots: int
) -> tuple[float, float]:
    """(tokens that a new frame of the story's last shot is made among, FLOPs of one of its steps), mean over stories.

    Captions count at their real length. With a cache, filling it is spread over the steps. Jointly (`policy` None), a
    step makes all frames; its FLOPs are divided by their number.
    """
    config, pair_cost = stories.studio.keyframe.config, cost_of(stories.studio.keyframe_backbone)
    frame = _frame_tokens(stories)
    tokens, flops = [], []
    for n, lengths in enumerate(stories.lengths):
        if policy is None:
            cost = pair_cost(config, [Pair(frame, length) for length in lengths[:shots]], output="all")
            tokens.append(cost.tokens)
            flops.append(cost.flops / shots)
            continue
        new = Pair(frame, lengths[shots - 1])
        context = memory_pairs(run.slots[shots - 1], [lengths[k] for k in run.remembered[n][shots - 1]])
        context.reverse()  # the least relevant comes first in the sequence; in causal mode that decides who sees whom
        if context and settings.cache and settings.mode == "causal":
            cost = pair_cost(config, [new], mode="causal", cached=context, output="all")
            fill = pair_cost(config, context, mode="causal", output="none").flops / settings.steps
        else:
            cost, fill = pair_cost(config, [*context, new], mode=settings.mode, output="all"), 0.0
        tokens.append(cost.tokens + cost.cached)
        flops.append(cost.flops + fill)
    return sum(tokens) / len(tokens), sum(flops) / len(flops)


class _StoryEncoders(StudioEncoders):
    """A studio's encoders, with the texts of all stories embedded at once."""

    def __init__(self, stories: StorySet) -> None:
        super().__init__(stories.studio)
        self._stories = stories

    def embed_query(self, text: str, dim: int) -> Tensor:
        """The CLIP embedding `[1, dim]` of a shot's query."""
        return self._stories.clip_queries[text][None]

    def embed_caption(self, text: str) -> Tensor:
        """The text embedding `[D]` of a shot's query."""
        return self._stories.text_queries[text]


def _latent_shape(stories: StorySet) -> tuple[int, int, int]:
    vae = stories.studio.image_vae
    return vae.latent_channels, HEIGHT // vae.spatial_compression, WIDTH // vae.spatial_compression


def _frame_tokens(stories: StorySet) -> Size:
    _, h, w = _latent_shape(stories)
    return h // PATCH, w // PATCH
