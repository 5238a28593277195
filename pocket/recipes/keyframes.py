"""Recipe: the pocket keyframe model, Captain Cinema's progressive interleaved training (§3.2, App. A) at pocket scale.

Stages: single pictures first (``warmup``), then pairs with a growing context (``interleaved``). Frames of a story
are taken with a stride that changes every time (dynamic stride sampling), each frame has its own noise, context
frames carry little. Most steps share one encoded context between several target frames, which is exact in causal
mode (the context never looks ahead) and costs a fraction of one sequence per target; the rest train the joint,
bidirectional mode.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...sampling.noise import noise_like
from ...training.processes import Share
from ...training.recipe import Recipe
from ..world import ShotSpec
from .keyframe_flow import ContextFrames, KeyframeFlow, KeyframeInputs, KeyframeStudent
from .story_frames import Pick, StoryFrames, side_bits

#: numbers of context frames that are trained; few, because each is a graph of its own on a GPU
CONTEXTS = (0, 1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Stage:
    """One stage of the progressive recipe: up to `context` pairs are shown, for `steps` steps."""

    steps: int
    context: int
    stories: int
    targets: int


#: single pictures → 2 → 4 → 8 context pairs (the paper: 1 → 8 → 16 → 32)
STAGES = (Stage(800, 0, 48, 1), Stage(400, 2, 12, 4), Stage(1000, 4, 10, 4), Stage(3000, 8, 8, 4))

#: for a model that has been through them
WARM_STAGES = (Stage(1, 8, 8, 4),)


class KeyframeBatch(NamedTuple):
    """Frames of N stories.

    Attributes:
        joint: all targets of a story are made together, seeing each other; otherwise each on its own, from the context.
        context: [M, N, 4] M context frames of every story by relevance, each a `Pick`.
        tiers: [M] GoldenMem tier of each.
        new: [N · targets, 4] the frames to make, a story's together.
        targets: how many of a story.
        copied: bool [M, N], which context frames are the studio's own work where there is a copy.
        noise_seed: of times and noise.
    """

    joint: bool
    context: Tensor
    tiers: list[int]
    new: Tensor
    targets: int
    copied: Tensor
    noise_seed: int


class StoryDraws:
    """Frames of stories, with a context that grows from stage to stage.

    Args:
        frames: the stories' tables.
        stages: of the progressive recipe.
        seed: of the batches.
        joint: share of steps in joint, bidirectional mode.
        batch_multiplier: multiplies the stages' stories.
        imperfect: share of memories that are the studio's own work, in the half of the stories that have copies.
    """

    def __init__(
        self,
        frames: StoryFrames,
        stages: Sequence[Stage],
        seed: int,
        joint: float,
        batch_multiplier: int,
        imperfect: float,
    ) -> None:
        self.frames, self.stages, self.seed = frames, stages, seed
        self.joint, self.batch_multiplier, self.imperfect = joint, batch_multiplier, imperfect

    def __len__(self) -> int:
        return len(self.frames.data.stories)

    def stage(self, step: int) -> Stage:
        """The stage a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def draw(self, step: int) -> KeyframeBatch:
        """The frames of a step."""
        rng = random.Random(f"{self.seed}/{step}")
        stage = self.stage(step)
        batch_size = stage.stories * self.batch_multiplier
        joint = stage.context > 1 and rng.random() < self.joint
        # without context too, so that what captions tell is not unlearned
        count = rng.choice([n for n in CONTEXTS if n <= stage.context])
        if joint:
            return self._gather(rng, batch_size, 0, max(2, stage.context), joint=True)
        full = rng.random() < 0.25
        return self._gather(rng, batch_size, count, stage.targets, full)

    def _gather(
        self, rng: random.Random, batch_size: int, count: int, targets: int, full: bool = False, joint: bool = False
    ) -> KeyframeBatch:
        """Pick frames of `batch_size` stories: `count` context frames by relevance, `targets` new ones."""
        context: list[list[Pick]] = [[] for _ in range(count)]
        new: list[Pick] = []
        stories = self.frames.data.stories
        for _ in range(batch_size):
            copied = len(self.frames.copies.stories) if self.frames.copies is not None else 0
            story = rng.randrange(copied if copied and rng.random() < 0.5 else len(stories))
            shots = stories[story].shots
            n = self.frames.variant(story, rng.randrange(self.frames.caption_variants))
            frames = _strided(rng, len(shots), min(len(shots), count + targets + rng.randint(0, 2)))
            order = rng.sample(frames, len(frames))
            chosen = order[:count]
            seen: set[str] = set()
            described_at: dict[int, set[str]] = {}
            for p in sorted(chosen):  # characters are described at first appearance; often that caption is out of reach
                names = {a.name for a in shots[p].actors}
                described_at[p] = names - seen if rng.random() < 0.75 else set()
                seen |= names
            rest = (order[count:] * targets)[:targets]
            first = rest[0]
            ranked = sorted(chosen, key=lambda p: -_relevance(shots[first], shots[p]) - 0.5 * rng.random())
            for rank, p in enumerate(ranked):
                everyone = side_bits(shots[p], {a.name for a in shots[p].actors})
                context[rank].append(Pick(n, p, side_bits(shots[p], described_at[p]), everyone))
            for p in rest:
                unknown = {a.name for a in shots[p].actors} - seen
                described = unknown if rng.random() < 0.9 else set()
                new.append(Pick(n, p, side_bits(shots[p], described), side_bits(shots[p], seen | described)))
        tiers = [0] * count if full else _tiers(count, rng)
        imperfect = [rng.random() < self.imperfect for _ in range(count * batch_size)]
        return KeyframeBatch(
            joint=joint,
            context=torch.tensor(context, dtype=torch.long).view(count, batch_size, 4),
            tiers=tiers,
            new=torch.tensor(new),
            targets=targets,
            copied=torch.tensor(imperfect).view(count, batch_size),
            noise_seed=rng.randrange(2**31),
        )


class KeyframeRecipe(Recipe[KeyframeBatch, KeyframeInputs]):
    """Flow matching on target frames, given clean-ish context at GoldenMem or full sizes."""

    name = "keyframes"
    data: StoryDraws
    edges = ("embedder", "flux.proj_out", "norm", "relative_attention_bias", "looks")
    # not the single-stream blocks: the keys and values of the context leave them through a cache
    units = ("T5Block", "PairDoubleBlock")

    def __init__(
        self,
        frames: StoryFrames,
        stages: Sequence[Stage] = STAGES,
        seed: int = 0,
        joint: float = 0.12,
        character_weight: float = 5.0,
        identity_weight: float = 0.5,
        batch_multiplier: int = 1,
        start: dict[str, Tensor] | None = None,
        imperfect: float = 0.5,
    ) -> None:
        """`start`: weights of the student or of a part of it (``t5.…``, ``flux.…``) to go on from; the others are those
        of `StoryDraws` and `KeyframeFlow`.
        """
        self.data = StoryDraws(frames, stages, seed, joint, batch_multiplier, imperfect)
        self.objective = KeyframeFlow(character_weight, identity_weight)
        self.start = start

    def prepare(self, device: torch.device) -> None:
        """The stories' tables live on the device."""
        self.data.frames.prepare(device)

    def build(self) -> KeyframeStudent:
        model = KeyframeStudent()
        if self.start is not None:
            if model.load_state_dict(self.start, strict=False).unexpected_keys:
                raise ValueError("`start` holds weights that the keyframe student does not have")
        return model

    def inputs(self, batch: KeyframeBatch, step: int) -> KeyframeInputs:
        g = torch.Generator(batch.new.device).manual_seed(batch.noise_seed)
        frames, k = self.data.frames, batch.targets
        new = frames.gather(batch.new, 0)
        shown = zip(batch.context, batch.tiers, batch.copied, strict=True)
        return KeyframeInputs(
            joint=batch.joint,
            targets=k,
            new=new,
            t=_target_times(len(new.latent) // k, k, g) if batch.joint else _sample_t(len(new.latent), g)[:, None],
            noise=noise_like(new.latent.shape, g),
            context=[ContextFrames.draw(frames.gather(picks, tier, copied), g) for picks, tier, copied in shown],
        )

    def share(self, inputs: KeyframeInputs, share: Share) -> KeyframeInputs:
        stories = share.rows(len(inputs.new.latent) // inputs.targets, "stories")
        targets = stories.times(inputs.targets)
        return inputs._replace(
            new=inputs.new.rows(targets),
            t=(stories if inputs.joint else targets).of(inputs.t),
            noise=targets.of(inputs.noise),
            context=[each.rows(stories) for each in inputs.context],
        )


def _strided(rng: random.Random, total: int, count: int) -> list[int]:
    """`count` frame indices with a random stride and offset (dynamic stride sampling, §3.2)."""
    stride = rng.randint(1, max(1, (total - 1) // max(1, count - 1)))
    offset = rng.randrange(total - stride * (count - 1)) if count > 0 else 0
    return [offset + stride * i for i in range(count)]


def _relevance(query: ShotSpec, other: ShotSpec) -> float:
    """How much of the query's content another shot shows: shared characters count 1, the same place 1."""
    shared = {a.name for a in query.actors} & {a.name for a in other.actors}
    return len(shared) + (query.layout.place == other.layout.place)


def _tiers(count: int, rng: random.Random) -> list[int]:
    """Tier of each rank: GoldenMem groups of two, three (the studio's) or four, from full size or from the tier below,
    as the paper has it.
    """
    images, first = rng.choice(((2, 0), (3, 0), (3, 0), (3, 1), (3, 1), (4, 1)))
    return [min(2, first + rank // images) for rank in range(count)]


def _target_times(stories: int, targets: int, g: torch.Generator) -> Tensor:
    """Times [stories, targets] of frames made jointly: half of the stories share one, the others have one a frame."""
    shared = _sample_t(stories, g)[:, None].expand(-1, targets)
    own = _sample_t(stories * targets, g).view(stories, targets)
    return torch.where(torch.rand(stories, 1, generator=g, device=g.device) < 0.5, shared, own)


def _sample_t(count: int, g: torch.Generator) -> Tensor:
    """Logit-normal times leaning far to high noise.

    A character covers some twenty latent cells, so its colour shows through noise up to about t = 0.85: only above that
    does the caption or the memory decide it, and only there they are learned.
    """
    return torch.sigmoid(1.4 + 1.6 * torch.randn(count, generator=g, device=g.device))


__all__ = ["STAGES", "WARM_STAGES", "KeyframeRecipe", "KeyframeStudent", "Stage"]
