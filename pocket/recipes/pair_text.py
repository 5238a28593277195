"""Recipe: the pocket pair model's text encoder, a tiny Qwen2.5-VL, learns to read captions and to look at frames.

What the T5 encoder learns from its words (`text.ReadingRecipe`), this one learns, too, as far as a causal model can:
a word knows what stands before it. Its states become those of the keyframe model's encoder, from whose weights the
pair model starts. And from a frame that it sees it must be able to tell who stands where, and how the place is laid
out.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

from ...training.objectives import Ratio, mean_of
from ...training.processes import Share
from ...training.recipe import Recipe
from ..configs import QWEN_VL_TEXT
from ..tokenizer import build_tokenizer
from ..world import (
    ACCESSORIES,
    COLOURS,
    LAND_SLOTS,
    PLACES,
    SCALES,
    SHAPES,
    SIDES,
    SKY_SLOTS,
    ShotSpec,
    Story,
    make_story,
)
from .captions import FACTS, IGNORE, label_words, tell_shots
from .pair_prompts import image_patches, pair_caption, pair_ids, qwen_vl_config
from .text import Teacher

__all__ = ["PairReader", "PairReadingRecipe", "build_qwen_vl", "encode_chat"]

_STORIES = 1 << 30
#: what a frame shows, and how many classes each has; sides come one after the other
SIGHTS = {"place": len(PLACES), "scale": len(SCALES), "sky": SKY_SLOTS, "first": LAND_SLOTS, "second": LAND_SLOTS}
SIGHTS |= {
    f"{fact}{side}": classes
    for side in range(len(SIDES))
    for fact, classes in (("colour", len(COLOURS)), ("shape", len(SHAPES)), ("accessory", len(ACCESSORIES)))
}


def build_qwen_vl() -> Qwen2_5_VLModel:
    """The pocket encoder with fresh weights."""
    return Qwen2_5_VLModel(Qwen2_5_VLConfig(**qwen_vl_config()))


def encode_chat(model: Qwen2_5_VLModel, ids: Tensor, patches: Tensor | None, grid: tuple[int, int]) -> Tensor:
    """States [N, T, D] of conversations.

    Args:
        ids: [N, T] token ids, 0 at padding, which is on the right.
        patches: [N, rows · cols, 1176] of one frame each, or None.
        grid: (rows, cols) of patches.
    """
    config = model.config
    marks = (ids == config.image_token_id).int()
    images: dict[str, Any] = {}
    if patches is not None:
        images = {
            "pixel_values": patches.flatten(0, 1),
            "image_grid_thw": torch.tensor([[1, *grid]] * len(ids), device=ids.device),
            "mm_token_type_ids": marks,
        }
    return model(input_ids=ids, attention_mask=(ids != 0).long(), use_cache=False, **images).last_hidden_state


class PairReader(nn.Module):
    """The encoder, and linear heads over what words tell and frames show, which are thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.qwen = build_qwen_vl()
        self.head = nn.Linear(QWEN_VL_TEXT["hidden_size"], sum(FACTS.values()))
        self.sights = nn.Linear(QWEN_VL_TEXT["hidden_size"], sum(SIGHTS.values()))


class PairReadingBatch(NamedTuple):
    """Conversations and what there is to know from them.

    Attributes:
        ids: [N, T].
        first: where the caption begins, for all rows.
        facts: per fact [N, C] classes of the caption's tokens.
        taught: [N, C, D] states of the caption's tokens that the teacher gives.
        real: bool [N, C].
        frames: uint8 [N, H, W, 3].
        sights: [N, len(SIGHTS)].
    """

    ids: Tensor
    first: int
    facts: dict[str, Tensor]
    taught: Tensor
    real: Tensor
    frames: Tensor
    sights: Tensor


def sights_of(shot: ShotSpec) -> list[int]:
    """Classes of `SIGHTS`; IGNORE for a side where nobody stands."""
    layout = shot.layout
    out = [layout.place, shot.scale, layout.sky, layout.first, layout.second]
    looks = {a.side: [a.look.colour, a.look.shape, a.look.accessory] for a in shot.actors}
    for side in range(len(SIDES)):
        out += looks.get(side, [IGNORE] * 3)
    return out


class Conversations:
    """Draws captions of endlessly many stories, each with a frame of the stories in the tables."""

    def __init__(self, stories: Sequence[Story], seen: Tensor, teacher: Teacher, seed: int, batch_size: int) -> None:
        self.stories, self.seen, self.teacher, self.seed, self.batch_size = stories, seen, teacher, seed, batch_size
        self._plain = build_tokenizer()

    def __len__(self) -> int:
        return _STORIES

    def draw(self, step: int) -> PairReadingBatch:
        rng = random.Random(f"{self.seed}/{step}")
        captions: list[str] = []
        rows = []
        while len(captions) < self.batch_size:
            for shot in tell_shots(make_story(rng.randrange(_STORIES), 4, "train"), rng):
                hidden = {a.name for a in shot.truth.actors if rng.random() < 0.3}
                caption = pair_caption(shot, hidden)
                known = [a.name for a in shot.truth.actors if a.name not in hidden]
                captions.append(caption)
                rows.append(label_words(self._plain, caption, shot.truth, known))
        count = self.batch_size
        captions, rows = captions[:count], rows[:count]
        length = max(len(ids) for ids, _ in rows) - 1
        chats = [pair_ids(ids[:-1], rng.choice((9, 13, 17, 21, 25)), image=True) for ids, _ in rows]
        longest = max(len(ids) for ids, _ in chats)
        facts = {k: torch.tensor([f[k][:-1] + [IGNORE] * (length + 1 - len(f[k])) for _, f in rows]) for k in FACTS}
        states, _, ends = self.teacher.states(captions)
        real = torch.arange(length) < torch.tensor(ends)[:, None]
        chosen = [(rng.randrange(len(self.stories)), rng.randrange(len(self.stories[0].shots))) for _ in range(count)]
        return PairReadingBatch(
            torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in chats]),
            chats[0][1],
            facts,
            states[:, :length],
            real,
            torch.stack([self.seen[s, p] for s, p in chosen]),
            torch.tensor([sights_of(self.stories[s].shots[p]) for s, p in chosen]),
        )


class ReadAndSee:
    """Cross-entropies of facts and sights, and the difference to the teacher's states over their power."""

    def __init__(self, likeness: float) -> None:
        self.likeness = likeness

    def sums(self, model: PairReader, inputs: PairReadingBatch) -> dict[str, Ratio]:
        patches, grid = image_patches(inputs.frames)
        states = encode_chat(model.qwen, inputs.ids, patches, grid)
        length = inputs.real.shape[1]
        words = states[:, inputs.first : inputs.first + length]
        words = F.pad(words, (0, 0, 0, length - words.shape[1]))
        sums: dict[str, Ratio] = {}
        logits = model.head(words).float().split(list(FACTS.values()), -1)
        for (fact, target), each in zip(inputs.facts.items(), logits, strict=True):
            sums[fact] = _cross_entropy(each.flatten(0, 1), target.flatten())
        seen = model.sights(states[:, inputs.first - 1]).float().split(list(SIGHTS.values()), -1)
        for n, (sight, each) in enumerate(zip(SIGHTS, seen, strict=True)):
            sums[f"see_{sight}"] = _cross_entropy(each, inputs.sights[:, n])
        mine, theirs = words[inputs.real].float(), inputs.taught[inputs.real]
        sums["unlike"] = mean_of((mine - theirs).square())
        sums["power"] = mean_of(theirs.square())
        return sums

    def loss(self, means: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        read = torch.stack([means[k] for k in FACTS]).sum()
        saw = torch.stack([means[f"see_{k}"] for k in SIGHTS]).sum()
        logged = {k: means[k] for k in ("colour", "side", "action", "see_place", "see_colour0", "see_first")}
        logged["unlike"] = means["unlike"] / means["power"]
        return 0.5 * read + 0.5 * saw + self.likeness * logged["unlike"], logged


def _cross_entropy(logits: Tensor, target: Tensor) -> Ratio:
    error = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return Ratio(error, (target != IGNORE).sum())


class PairReadingRecipe(Recipe[PairReadingBatch, PairReadingBatch]):
    """Reading and seeing for the pair model's encoder.

    Args:
        stories, seen: ground truths and frames (`pair_frames.PairTables`).
        teacher: the keyframe model's encoder.
    """

    name = "pair_text"
    data: Conversations
    edges = ("embed_tokens", "patch_embed", "head", "sights")
    units = ("Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock")

    def __init__(
        self, stories: Sequence[Story], seen: Tensor, teacher: Teacher, seed: int = 0, batch_size: int = 32,
        likeness: float = 4.0,
    ) -> None:  # fmt: skip
        self.data = Conversations(stories, seen, teacher, seed, batch_size)
        self.objective = ReadAndSee(likeness)

    def build(self) -> PairReader:
        return PairReader()

    def inputs(self, batch: PairReadingBatch, step: int) -> PairReadingBatch:
        return batch

    def share(self, inputs: PairReadingBatch, share: Share) -> PairReadingBatch:
        rows = share.rows(len(inputs.ids), "captions")
        return inputs._replace(
            ids=rows.of(inputs.ids),
            facts={k: rows.of(v) for k, v in inputs.facts.items()},
            taught=rows.of(inputs.taught),
            real=rows.of(inputs.real),
            frames=rows.of(inputs.frames),
            sights=rows.of(inputs.sights),
        )
