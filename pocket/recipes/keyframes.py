"""Recipe: the pocket keyframe model, Captain Cinema's progressive interleaved training (§3.2, App. A) at pocket scale.

Stages: single pictures first (``warmup``), then pairs with a growing context (``interleaved``). Frames of a story
are taken with a stride that changes every time (dynamic stride sampling), each frame has its own noise, context
frames carry little. Most steps share one encoded context between several target frames, which is exact in causal
mode (the context never looks ahead) and costs a fraction of one sequence per target; the rest train the joint,
bidirectional mode.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.backbones.flux.headless import CaptainFlux, KVCache, Pairs
from ...models.layouts.pairs import Size, pack_latent, token_size
from ...sampling.noise import noise_like
from ...training.recipe import Recipe
from ..configs import KEYFRAME
from ..world import ShotSpec
from .captions import FACTS, IGNORE
from .story_frames import LOOK_FACTS, Frames, Pick, StoryFrames, side_bits
from .text import build_t5

#: the single-stream block before which the words about a character should know its looks
RECALLED_BEFORE = 3
#: numbers of context frames that are trained; few, because each is a graph of its own on a GPU
CONTEXTS = (0, 1, 2, 3, 4, 6, 8)
LOOKS = tuple(FACTS[fact] for fact in LOOK_FACTS)


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


class KeyframeStudent(nn.Module):
    """The keyframe model and its text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.flux = CaptainFlux(**KEYFRAME)
        self.t5 = build_t5()
        self.looks = nn.Linear(self.flux.inner_dim, sum(LOOKS))  # training only, see `KeyframeRecipe._recall`
        # adaLN-zero: every block starts as the identity and the output at zero (DiT)
        flux = self.flux
        start_at_zero = [flux.proj_out, flux.norm_out.linear, *(b.norm.linear for b in flux.single_transformer_blocks)]
        for block in flux.transformer_blocks:
            start_at_zero += [block.norm1.linear, block.norm1_context.linear]
        for layer in start_at_zero:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def encode_text(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids [N, T] to states [N, T, D] (zero at padding, as the text encoder gives them) and mask [N, T]."""
        mask = ids != 0
        states = self.t5(input_ids=ids, attention_mask=mask).last_hidden_state
        return states * mask[..., None], mask


class KeyframeRecipe(Recipe):
    """Flow matching on target frames, given clean-ish context at GoldenMem or full sizes."""

    name = "keyframes"
    edges = ("embedder", "flux.proj_out", "norm", "relative_attention_bias", "looks")

    def __init__(
        self,
        frames: StoryFrames,
        stages: Sequence[Stage] = STAGES,
        seed: int = 0,
        joint: float = 0.12,
        character_weight: float = 5.0,
        recall_weight: float = 0.5,
        rows: int = 1,
        start: dict[str, Tensor] | None = None,
        imperfect: float = 0.5,
    ) -> None:
        """`joint`: share of steps in joint, bidirectional mode; `rows`: multiplies the stages' stories; `start`:
        weights of the student or of a part of it (``t5.…``, ``flux.…``) to go on from; `imperfect`: share of memories
        that are the studio's own work, in the half of the stories that have copies.
        """
        self.imperfect = imperfect
        self.frames, self.stages, self.seed, self.joint, self.rows = frames, stages, seed, joint, rows
        self.character_weight, self.recall_weight, self.start = character_weight, recall_weight, start

    def prepare(self, device: torch.device) -> None:
        """The stories' tables live on the device."""
        self.frames.prepare(device)

    def build(self) -> KeyframeStudent:
        model = KeyframeStudent()
        if self.start is not None:
            if model.load_state_dict(self.start, strict=False).unexpected_keys:
                raise ValueError("`start` holds weights that the keyframe student does not have")
        return model

    def stage(self, step: int) -> Stage:
        """The stage a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def batch(self, step: int) -> dict:
        rng = random.Random(f"{self.seed}/{step}")
        stage = self.stage(step)
        rows = stage.stories * self.rows
        joint = stage.context > 1 and rng.random() < self.joint
        # without context too, so that what captions tell is not unlearned
        count = rng.choice([n for n in CONTEXTS if n <= stage.context])
        if joint:
            count = max(2, stage.context)
            return {"joint": True, **self._gather(rng, rows, 0, count, False)}
        full = rng.random() < 0.25
        return {"joint": False, **self._gather(rng, rows, count, stage.targets, full)}

    def _gather(self, rng: random.Random, rows: int, count: int, targets: int, full: bool) -> dict:
        """Pick frames of `rows` stories: `count` context frames by relevance, `targets` new ones."""
        context: list[list[Pick]] = [[] for _ in range(count)]
        new: list[Pick] = []
        stories = self.frames.data.stories
        for _ in range(rows):
            copied = len(self.frames.copies.stories) if self.frames.copies is not None else 0
            story = rng.randrange(copied if copied and rng.random() < 0.5 else len(stories))
            shots = stories[story].shots
            n = self.frames.telling(story, rng.randrange(self.frames.tellings))
            frames = _strided(rng, len(shots), min(len(shots), count + targets + rng.randint(0, 2)))
            order = rng.sample(frames, len(frames))
            chosen = order[:count]
            seen: set[str] = set()
            told_at: dict[int, set[str]] = {}
            for p in sorted(chosen):  # looks are told at first appearance; often that caption is out of reach
                names = {a.name for a in shots[p].actors}
                told_at[p] = names - seen if rng.random() < 0.75 else set()
                seen |= names
            rest = (order[count:] * targets)[:targets]
            first = rest[0]
            ranked = sorted(chosen, key=lambda p: -_relevance(shots[first], shots[p]) - 0.5 * rng.random())
            for rank, p in enumerate(ranked):
                everyone = side_bits(shots[p], {a.name for a in shots[p].actors})
                context[rank].append(Pick(n, p, side_bits(shots[p], told_at[p]), everyone))
            for p in rest:
                unknown = {a.name for a in shots[p].actors} - seen
                told = unknown if rng.random() < 0.9 else set()
                new.append(Pick(n, p, side_bits(shots[p], told), side_bits(shots[p], seen | told)))
        return {
            "context": torch.tensor(context, dtype=torch.long).view(count, rows, 4),
            "tiers": [0] * count if full else _tiers(count, rng),
            "new": torch.tensor(new),
            "targets": targets,
            "copied": torch.tensor([rng.random() < self.imperfect for _ in range(count * rows)]).view(count, rows),
            "noise_seed": rng.randrange(2**31),
        }

    def inputs(self, batch: dict, step: int) -> dict:
        g = torch.Generator(batch["new"].device).manual_seed(batch["noise_seed"])
        new, k = self.frames.gather(batch["new"], 0), batch["targets"]
        shown = zip(batch["context"], batch["tiers"], batch["copied"], strict=True)
        joint = batch["joint"]
        return {
            "joint": joint,
            "targets": k,
            "new": new,
            "t": _target_times(len(new.latent) // k, k, g) if joint else _sample_t(len(new.latent), g)[:, None],
            "noise": noise_like(new.latent.shape, g),
            "context": [
                _ContextFrames.draw(self.frames.gather(picks, tier, copied), g) for picks, tier, copied in shown
            ],
        }

    def loss(self, model: KeyframeStudent, inputs: dict) -> tuple[Tensor, dict[str, Tensor]]:
        new, noise, t, k = inputs["new"], inputs["noise"], inputs["t"], inputs["targets"]
        shown = [new, *(memory.frames for memory in inputs["context"])]
        texts, masks = (list(x) for x in zip(*(model.encode_text(frame.ids) for frame in shown), strict=True))
        size = token_size(new.latent)
        wide = t.flatten()[:, None, None, None]
        noisy = pack_latent((1 - wide) * new.latent + wide * noise)
        recall: list[Tensor] = []
        remembered: list[Tensor] = []
        if inputs["joint"]:
            latents, words, real, looks = (
                list(x.unflatten(0, (-1, k)).unbind(1)) for x in (noisy, texts[0], masks[0], new.looks)
            )
            pooled = new.pooled.unflatten(0, (-1, k))
            pairs = Pairs(latents, [size] * k, words, pooled, t, masks=list(real), reference=size)
            with self._recall(model, pairs, looks, recall):
                out = torch.stack(model.flux.forward_pairs(pairs, "full"), 1).flatten(0, 1)
        else:
            past = self._memory(model, inputs["context"], texts[1:], masks[1:], size, remembered)
            pairs = Pairs([noisy], [size], texts[:1], new.pooled[:, None], t, masks=list(masks[:1]), reference=size)
            with self._recall(model, pairs, [new.looks], recall):
                out = model.flux.forward_pairs(pairs, "causal", None if past is None else past.repeat(k))[0]
        target = pack_latent(noise - new.latent)
        weight = pack_latent(1 + self.character_weight * new.weight[:, None].expand_as(new.latent))
        error = (out.float() - target).square()
        # a context frame shows what its words have to tell; a new one has to remember it, and counts as all of them
        parts = [torch.stack(each).mean() for each in (recall, remembered) if each]
        recalled = torch.stack(parts) if parts else error.new_zeros(1)
        loss = (error * weight).sum() / weight.sum() + self.recall_weight * recalled.mean()
        return loss, {"plain": error.mean(), "recall": recalled[0]}

    @contextmanager
    def _recall(
        self, model: KeyframeStudent, pairs: Pairs, looks: list[Tensor], losses: list[Tensor]
    ) -> Iterator[None]:
        """Inside, a forward also learns to tell from the words about a character, halfway through the network, how it
        looks: in a context frame from the frame itself, in a new one from memory, as its caption says the name only.

        Plain training finds out which memory a name means from a few blocks' worth of noise above t = 0.85; words are
        never noisy, so here every step teaches it. The layer that tells is not part of the model that is shipped.
        """

        def tell(_module: nn.Module, inputs: tuple) -> None:
            lengths = [t.shape[1] + x.shape[1] for t, x in zip(pairs.texts, pairs.latents, strict=True)]
            parts = zip(inputs[0].split(lengths, 1), pairs.texts, strict=True)
            words = torch.cat([part[:, : text.shape[1]].flatten(0, 1) for part, text in parts])
            labels = torch.cat([each.flatten(0, 1) for each in looks])
            logits = model.looks(words).float().split(LOOKS, -1)
            for each, label in zip(logits, labels.unbind(-1), strict=True):
                wrong = F.cross_entropy(each, label, ignore_index=IGNORE, reduction="sum")
                losses.append(wrong / (label != IGNORE).sum().clamp_min(1))

        handle = model.flux.single_transformer_blocks[RECALLED_BEFORE].register_forward_pre_hook(tell)
        try:
            yield
        finally:
            handle.remove()

    def _memory(
        self,
        model: KeyframeStudent,
        context: list[_ContextFrames],
        texts: list[Tensor],
        masks: list[Tensor],
        reference: Size,
        recall: list[Tensor],
    ) -> KVCache | None:
        """Encode the context once for all targets."""
        if not context:
            return None
        order = list(reversed(range(len(context))))  # least relevant first
        ordered = [context[i] for i in order]
        pairs = Pairs(
            [pack_latent(memory.noisy()) for memory in ordered],
            [token_size(memory.noise) for memory in ordered],
            [texts[i] for i in order],
            torch.stack([memory.frames.pooled for memory in ordered], 1),
            torch.stack([memory.t for memory in ordered], 1),
            masks=[masks[i] for i in order],
            frames=list(range(-len(context), 0)),
            reference=reference,
        )
        with self._recall(model, pairs, [memory.frames.looks for memory in ordered], recall):
            return model.flux.encode_context(pairs)


class _ContextFrames(NamedTuple):
    """A context frame of every row, its small noise (t ≤ 0.25, paper Fig. 10) and that noise's t [N]."""

    frames: Frames
    noise: Tensor
    t: Tensor

    @classmethod
    def draw(cls, frames: Frames, g: torch.Generator) -> _ContextFrames:
        t = 0.25 * torch.rand(len(frames.latent), generator=g, device=g.device)
        return cls(frames, noise_like(frames.latent.shape, g), t)

    def noisy(self) -> Tensor:
        wide = self.t[:, None, None, None]
        return (1 - wide) * self.frames.latent + wide * self.noise


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
