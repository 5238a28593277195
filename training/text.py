"""Recipe: the pocket text encoder learns to read captions before a keyframe model hears of them.

Public text encoders come pretrained on language; this one is taught what its captions say: from every word of an
actor's sentence one must be able to tell who it is about, on which side, doing what, looking how. Without it a picture
model has to find out through its images alone which colour belongs to which side.
"""

from __future__ import annotations

import random
from collections.abc import Collection

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel

from ..models.pocket.configs import T5
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
from .recipe import Recipe

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


def build_t5() -> T5EncoderModel:
    """The pocket text encoder with fresh weights.

    Its relative position biases start as four habits, one per head: look ahead, look back, look near, look anywhere
    (slopes as in ALiBi). The biases would have to grow by several units to choose the nearest of two equal words, which
    takes an optimizer of small steps thousands of them.
    """
    model = T5EncoderModel(
        T5Config(vocab_size=build_tokenizer().get_vocab_size(), pad_token_id=0, eos_token_id=1, **T5)
    )
    attention = model.encoder.block[0].layer[0].SelfAttention
    offset = torch.arange(-64, 65)
    bucket = attention._relative_position_bucket(offset)
    far = 0.5 * offset.abs().float()
    habits = torch.stack([far + 8 * (offset <= 0), far + 8 * (offset >= 0), far, torch.zeros_like(far)], -1)
    with torch.no_grad():
        attention.relative_attention_bias.weight[bucket] = -habits
    return model


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


class ReadingRecipe(Recipe):
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
        rows: list[tuple[list[int], dict[str, list[int]]]] = []
        while len(rows) < self.size:
            for shot in make_story(rng.randrange(1 << 30), 4, "train").shots:
                told = {a.name for a in shot.actors} if rng.random() < 0.6 else set()
                rows.append(self.read(shot, told))
        length = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([r + [0] * (length - len(r)) for r, _ in rows])
        facts = {k: torch.tensor([f[k] + [IGNORE] * (length - len(f[k])) for _, f in rows]) for k in FACTS}
        return {"ids": ids, "facts": facts}

    def read(self, shot: ShotSpec, told: Collection[str]) -> tuple[list[int], dict[str, list[int]]]:
        """`read_caption` with the looks of the `told` characters as what is known."""
        return read_caption(self._tokenizer, shot, told, told)

    def loss(self, model: Reader, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model(batch["ids"])
        parts = {k: F.cross_entropy(logits[k].flatten(0, 1).float(), batch["facts"][k].flatten()) for k in FACTS}
        wrong = {f"loss_{k}": v for k, v in parts.items() if k in ("side", "colour")}
        return torch.stack(list(parts.values())).sum(), wrong


def read_caption(
    tokenizer: Tokenizer, shot: ShotSpec, told: Collection[str], known: Collection[str]
) -> tuple[list[int], dict[str, list[int]]]:
    """Token ids of a caption that tells the looks of `told`, and per fact the class that each token's sentence is
    about.

    Looks are labelled for the `known` characters only; elsewhere, and where a fact does not apply, stands IGNORE.
    """
    sentences = [tokenizer.encode(c, add_special_tokens=False).ids for c in shot.clauses(told)]
    setting = {"place": shot.layout.place, "scale": shot.scale}
    about = [setting, *(_facts(a, a.name in known) for a in shot.actors)]
    ids = [token for sentence in sentences for token in sentence] + [1]
    labels: dict[str, list[int]] = {fact: [] for fact in FACTS}
    for sentence, facts in zip(sentences, about, strict=True):
        for fact in FACTS:
            labels[fact] += [facts.get(fact, IGNORE)] * len(sentence)
    return ids, {fact: row + [IGNORE] for fact, row in labels.items()}


def _facts(actor: Actor, known: bool) -> dict[str, int]:
    facts = {"name": CAST.index(actor.name), "side": actor.side, "action": actor.action}
    look = actor.look
    return facts | ({"colour": look.colour, "shape": look.shape, "accessory": look.accessory} if known else {})


__all__ = ["FACTS", "IGNORE", "Reader", "ReadingRecipe", "build_t5", "read_caption"]
