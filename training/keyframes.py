"""Recipe: the pocket keyframe model, Captain Cinema's progressive interleaved training (§3.2, App. A) at pocket scale.

Stages: single pictures first (``warmup``), then pairs with a growing context (``interleaved``). Frames of a story
are taken with a stride that changes every time (dynamic stride sampling), each frame has its own noise, context
frames carry little. Most steps share one encoded context between several target frames, which is exact in causal
mode (the context never looks ahead) and costs a fraction of one sequence per target; the rest train the joint,
bidirectional mode.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.flux.headless import CaptainFlux, KVCache, Pairs
from ..models.flux.layout import Size, pack_latent, token_size
from ..models.pocket.configs import KEYFRAME
from ..models.pocket.dataset import StoryLatents
from ..models.pocket.tokenizer import build_tokenizer
from ..models.pocket.world import ACCESSORIES, COLOURS, SHAPES, ShotSpec
from .text import IGNORE, build_t5, read_caption

#: the single-stream block before which the words about a character should know its looks
RECALLED_BEFORE = 3
LOOKS = (len(COLOURS), len(SHAPES), len(ACCESSORIES))


@dataclass(frozen=True)
class Stage:
    """One stage of the progressive recipe: up to `context` pairs are shown, for `steps` steps."""

    steps: int
    context: int
    stories: int
    targets: int


class Pick(NamedTuple):
    """A frame to show: which, whose looks its caption tells, and whose could be known there, told or remembered."""

    story: int
    shot: int
    told: set[str]
    known: set[str]


#: single pictures → 2 → 4 → 8 context pairs (the paper: 1 → 8 → 16 → 32)
STAGES = (Stage(800, 0, 48, 1), Stage(400, 2, 12, 4), Stage(1000, 4, 10, 4), Stage(3000, 8, 8, 4))


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


class KeyframeRecipe:
    """Flow matching on target frames, given clean-ish context at GoldenMem or full sizes."""

    name = "keyframes"
    edges = ("embedder", "flux.proj_out", "norm", "relative_attention_bias", "looks")

    def __init__(
        self,
        data: StoryLatents,
        pooled: Callable[[Sequence[str]], Tensor],
        stages: Sequence[Stage] = STAGES,
        seed: int = 0,
        joint: float = 0.12,
        character_weight: float = 5.0,
        recall_weight: float = 0.5,
        start: dict[str, Tensor] | None = None,
    ) -> None:
        """`pooled`: texts → [N, P] (ClipScorer.pooled); `joint`: share of steps in joint, bidirectional mode; `start`:
        weights of the student or of a part of it (``t5.…``, ``flux.…``) to go on from.
        """
        self.data, self.stages, self.seed, self.joint = data, stages, seed, joint
        self.character_weight, self.recall_weight, self.start = character_weight, recall_weight, start
        self.tokenizer = build_tokenizer()
        self._pooler = pooled
        self._pooled: dict[str, Tensor] = {}

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
        joint = stage.context > 1 and rng.random() < self.joint
        count = rng.randint(0, stage.context)  # without context too, so that what captions tell is not unlearned
        if joint:
            count = rng.randint(2, max(3, stage.context))
            return {"joint": True, **self._gather(rng, stage.stories, 0, count, False)}
        full = rng.random() < 0.35
        return {"joint": False, **self._gather(rng, stage.stories, count, stage.targets, full)}

    def _gather(self, rng: random.Random, rows: int, count: int, targets: int, full: bool) -> dict:
        """Pick frames of `rows` stories: `count` context frames by relevance, `targets` new ones."""
        context: list[list[Pick]] = [[] for _ in range(count)]
        new: list[Pick] = []
        for _ in range(rows):
            n = rng.randrange(len(self.data.shots))
            shots = self.data.shots[n]
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
                context[rank].append(Pick(n, p, told_at[p], {a.name for a in shots[p].actors}))
            for p in rest:
                unknown = {a.name for a in shots[p].actors} - seen
                seen_now = unknown if rng.random() < 0.9 else set()
                new.append(Pick(n, p, seen_now, seen | seen_now))
        tiers = [0] * count if full else _tiers(count, rng)
        return {
            "context": [self._frames(row, tiers[r]) for r, row in enumerate(context)],
            "new": self._frames(new, 0),
            "targets": targets,
            "noise_seed": rng.randrange(2**31),
        }

    def _frames(self, picks: list[Pick], tier: int) -> dict[str, Tensor]:
        n, p = [pick.story for pick in picks], [pick.shot for pick in picks]
        shots = [self.data.shots[a][b] for a, b in zip(n, p, strict=True)]
        texts = [shot.caption(pick.told) for shot, pick in zip(shots, picks, strict=True)]
        read = [read_caption(self.tokenizer, s, pick.told, pick.known) for s, pick in zip(shots, picks, strict=True)]
        length = max(len(ids) for ids, _ in read)
        ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in read])
        looks = torch.full((len(picks), length, len(LOOKS)), IGNORE)
        for row, (_, facts) in enumerate(read):
            for column, fact in enumerate(("colour", "shape", "accessory")):
                looks[row, : len(facts[fact]), column] = torch.tensor(facts[fact])
        missing = [t for t in dict.fromkeys(texts) if t not in self._pooled]
        if missing:
            self._pooled.update(zip(missing, self._pooler(missing), strict=True))
        pooled = torch.stack([self._pooled[t] for t in texts])
        return {
            "latent": self.data.tiers[tier][n, p],
            "looks": looks,
            "weight": self.data.weight[n, p],
            "ids": ids,
            "pooled": pooled,
        }

    def loss(self, model: KeyframeStudent, batch: dict, step: int) -> tuple[Tensor, dict[str, float]]:
        g = torch.Generator().manual_seed(batch["noise_seed"])
        device = batch["new"]["latent"].device
        new, k = batch["new"], batch["targets"]
        rows = new["latent"].shape[0]
        if batch["joint"]:
            stories = rows // k
            shared = _sample_t(stories, g)[:, None].expand(-1, k)
            own = _sample_t(rows, g).view(stories, k)
            t = torch.where(torch.rand(stories, 1, generator=g) < 0.5, shared, own)
        else:
            t = _sample_t(rows, g)[:, None]
        noise = torch.randn(new["latent"].shape, generator=g).to(device)
        flat_t = t.flatten()[:, None, None, None].to(device)
        noisy = (1 - flat_t) * new["latent"] + flat_t * noise
        text, mask = model.encode_text(new["ids"])
        size = token_size(new["latent"])
        recall: list[Tensor] = []
        remembered: list[Tensor] = []
        if batch["joint"]:
            split = [x.unflatten(0, (-1, k)).unbind(1) for x in (pack_latent(noisy), text, mask)]
            latents, texts, masks = (list(part) for part in split)
            pooled = new["pooled"].unflatten(0, (-1, k))
            pairs = Pairs(latents, [size] * k, texts, pooled, t.to(device), masks=masks, reference=size)
            looks = new["looks"].unflatten(0, (-1, k)).unbind(1)
            with self._recall(model, pairs, list(looks), recall):
                out = torch.stack(model.flux.forward_pairs(pairs, "full"), 1).flatten(0, 1)
        else:
            past = self._memory(model, batch["context"], g, size, device, remembered)
            pairs = Pairs(
                [pack_latent(noisy)], [size], [text], new["pooled"][:, None], t.to(device), masks=[mask], reference=size
            )
            past = None if past is None else past.repeat(k)
            with self._recall(model, pairs, [new["looks"]], recall):
                out = model.flux.forward_pairs(pairs, "causal", past)[0]
        target = pack_latent(noise - new["latent"])
        weight = pack_latent(1 + self.character_weight * new["weight"][:, None].expand_as(new["latent"]))
        error = (out.float() - target).square()
        # a context frame shows what its words have to tell; a new one has to remember it, and counts as all of them
        parts = [torch.stack(each).mean() for each in (recall, remembered) if each]
        recall_loss = torch.stack(parts).mean() if parts else error.new_zeros(())
        loss = (error * weight).sum() / weight.sum() + self.recall_weight * recall_loss
        return loss, {"plain": float(error.detach().mean()), "recall": float(parts[0].detach()) if parts else 0.0}

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
            for part, text, labels in zip(inputs[0].split(lengths, 1), pairs.texts, looks, strict=True):
                logits = model.looks(part[:, : text.shape[1]]).float().split(LOOKS, -1)
                for each, label in zip(logits, labels.unbind(-1), strict=True):
                    wrong = F.cross_entropy(each.flatten(0, 1), label.flatten(), ignore_index=IGNORE, reduction="sum")
                    losses.append(wrong / (label != IGNORE).sum().clamp_min(1))

        handle = model.flux.single_transformer_blocks[RECALLED_BEFORE].register_forward_pre_hook(tell)
        try:
            yield
        finally:
            handle.remove()

    def _memory(
        self,
        model: KeyframeStudent,
        context: list[dict],
        g: torch.Generator,
        reference: Size,
        device: torch.device,
        recall: list[Tensor],
    ) -> KVCache | None:
        """Encode the context once for all targets; each context frame has its own small noise (t ≤ 0.25,
        paper Fig. 10).
        """
        if not context:
            return None
        latents, sizes, texts, pooled, times = [], [], [], [], []
        masks: list[Tensor | None] = []
        for frame in reversed(context):  # least relevant first
            clean = frame["latent"]
            t = 0.25 * torch.rand(clean.shape[0], generator=g)
            wide = t[:, None, None, None].to(device)
            noise = torch.randn(clean.shape, generator=g).to(device)
            latents.append(pack_latent((1 - wide) * clean + wide * noise))
            sizes.append(token_size(clean))
            states, mask = model.encode_text(frame["ids"])
            texts.append(states)
            masks.append(mask)
            pooled.append(frame["pooled"])
            times.append(t)
        frames = list(range(-len(context), 0))
        stacked, t_all = torch.stack(pooled, 1), torch.stack(times, 1).to(device)
        pairs = Pairs(latents, sizes, texts, stacked, t_all, masks=masks, frames=frames, reference=reference)
        with self._recall(model, pairs, [frame["looks"] for frame in reversed(context)], recall):
            return model.flux.encode_context(pairs)


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
    """Tier of each rank, GoldenMem groups of a random size; sometimes the first group stays at full size."""
    images, first = rng.randint(1, 4), rng.choice((0, 0, 1))
    return [min(2, first + rank // images) for rank in range(count)]


def _sample_t(count: int, g: torch.Generator) -> Tensor:
    """Logit-normal times leaning far to high noise.

    A character covers some twenty latent cells, so its colour shows through noise up to about t = 0.85: only above that
    does the caption or the memory decide it, and only there they are learned.
    """
    return torch.sigmoid(1.4 + 1.6 * torch.randn(count, generator=g))


__all__ = ["STAGES", "KeyframeRecipe", "KeyframeStudent", "Stage"]
