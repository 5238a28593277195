"""Recipe: the pocket text encoder learns to read captions before a keyframe model hears of them.

Public text encoders come pretrained on language; this one is taught what its captions say: from every word of an
actor's sentence one must be able to tell who it is about, on which side, doing what, looking how. Without it a picture
model has to find out through its images alone which colour belongs to which side.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.pocket.tokenizer import build_tokenizer
from ..models.pocket.world import (
    ACCESSORIES,
    ACTIONS,
    CAST,
    COLOURS,
    PLACES,
    SCALES,
    SHAPES,
    SIDES,
    Actor,
    ShotSpec,
    make_story,
)
from .keyframes import build_t5

IGNORE = -100
#: what the words of an actor's sentence tell, and how many classes each has
FACTS = {
    "name": len(CAST),
    "side": len(SIDES),
    "action": len(ACTIONS),
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "accessory": len(ACCESSORIES),
    "place": len(PLACES),
    "scale": len(SCALES),
}


class Reader(nn.Module):
    """The text encoder and one linear head over all facts; the head is thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.t5 = build_t5()
        self.head = nn.Linear(self.t5.config.d_model, sum(FACTS.values()))

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """Token ids [N, T] to logits [N, T, classes] per fact."""
        states = self.t5(input_ids=ids, attention_mask=ids != 0).last_hidden_state
        return dict(zip(FACTS, self.head(states).split(list(FACTS.values()), -1), strict=True))


class ReadingRecipe:
    """Cross entropy of every fact at every word; the setting's facts at the setting's words, an actor's at its own."""

    name = "text"
    edges = ("shared", "relative_attention_bias", "head")

    def __init__(self, seed: int = 0, size: int = 64, start: dict[str, Tensor] | None = None) -> None:
        """`size`: captions a step; `start`: weights of an encoder to go on from."""
        self.seed, self.size, self.start = seed, size, start
        self._tokenizer = build_tokenizer()

    def build(self) -> Reader:
        model = Reader()
        if self.start is not None:
            model.t5.load_state_dict(self.start)
        return model

    def batch(self, step: int) -> dict:
        rng = random.Random(f"{self.seed}/{step}")
        rows = []
        while len(rows) < self.size:
            for shot in make_story(rng.randrange(1 << 30), 4, "train").shots:
                told = {a.name for a in shot.actors} if rng.random() < 0.6 else set()
                rows.append(self.read(shot, told))
        length = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([r + [0] * (length - len(r)) for r, _ in rows])
        facts = {k: torch.tensor([f[k] + [IGNORE] * (length - len(f[k])) for _, f in rows]) for k in FACTS}
        return {"ids": ids, "facts": facts}

    def read(self, shot: ShotSpec, told: set[str]) -> tuple[list[int], dict[str, list[int]]]:
        """Token ids of the shot's caption, and per fact the class that each token's sentence tells (or IGNORE)."""
        sentences = [self._tokenizer.encode(c, add_special_tokens=False).ids for c in shot.clauses(told)]
        setting = {"place": shot.layout.place, "scale": shot.scale}
        known = [setting, *(_facts(a, a.name in told) for a in shot.actors)]
        ids = [token for sentence in sentences for token in sentence] + [1]
        labels: dict[str, list[int]] = {fact: [] for fact in FACTS}
        for sentence, facts in zip(sentences, known, strict=True):
            for fact in FACTS:
                labels[fact] += [facts.get(fact, IGNORE)] * len(sentence)
        return ids, {fact: row + [IGNORE] for fact, row in labels.items()}

    def loss(self, model: Reader, batch: dict, step: int) -> tuple[Tensor, dict[str, float]]:
        logits = model(batch["ids"])
        parts = {k: F.cross_entropy(logits[k].flatten(0, 1).float(), batch["facts"][k].flatten()) for k in FACTS}
        wrong = {f"loss_{k}": float(v.detach()) for k, v in parts.items() if k in ("side", "colour")}
        return sum(parts.values(), torch.zeros(())), wrong


def _facts(actor: Actor, told: bool) -> dict[str, int]:
    facts = {"name": CAST.index(actor.name), "side": actor.side, "action": actor.action}
    look = actor.look
    return facts | ({"colour": look.colour, "shape": look.shape, "accessory": look.accessory} if told else {})


__all__ = ["FACTS", "Reader", "ReadingRecipe"]
