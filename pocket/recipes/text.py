"""Recipe: the pocket text encoder learns to read captions before a keyframe model hears of them.

Public text encoders come pretrained on language; this one is taught what its captions say, however people write them:
from every telling word one must be able to know who it is about, on which side, doing what, looking how. Without it a
picture model has to find out through its images alone which colour belongs to which side.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import T5Config, T5EncoderModel

from ...training.objectives import Ratio, mean_of
from ...training.processes import Share
from ...training.recipe import Recipe
from ..configs import T5
from ..lexicon import LEXICON, meanings
from ..tokenizer import build_tokenizer
from ..world import ShotSpec, make_story
from .captions import FACTS, IGNORE, label_words, pairs_of_words, tell_shots, word_spans

__all__ = ["FACTS", "IGNORE", "Reader", "ReadingRecipe", "Teacher", "build_t5", "grown"]


_STORIES = 1 << 30


def build_t5(layers: int = T5["num_layers"]) -> T5EncoderModel:
    """The pocket text encoder with fresh weights.

    Its relative position biases start as four habits, one per head: look ahead, look back, look near, look anywhere
    (slopes as in ALiBi). The biases would have to grow by several units to choose the nearest of two equal words, which
    takes an optimizer of small steps thousands of them.
    """
    config = {**T5, "num_layers": layers}
    model = T5EncoderModel(
        T5Config(vocab_size=build_tokenizer().get_vocab_size(), pad_token_id=0, eos_token_id=1, **config)
    )
    attention = model.encoder.block[0].layer[0].SelfAttention
    offset = torch.arange(-64, 65)
    bucket = attention._relative_position_bucket(offset)
    far = 0.5 * offset.abs().float()
    habits = torch.stack([far + 8 * (offset <= 0), far + 8 * (offset >= 0), far, torch.zeros_like(far)], -1)
    with torch.no_grad():
        attention.relative_attention_bias.weight[bucket] = -habits
    return model


def grown(state: Mapping[str, Tensor], tokenizer: Tokenizer) -> dict[str, Tensor]:
    """The weights of an encoder with another vocabulary or fewer layers, as `build_t5` has them now.

    A piece that the old `tokenizer` has, in any case of its letters, keeps its embedding; a new one gets the plain
    word's of the same meaning, or a fresh one. New layers start as the identity.
    """
    model = build_t5()
    new = model.state_dict()
    old = {piece.lower(): n for piece, n in sorted(tokenizer.get_vocab().items(), key=lambda item: -item[1])}
    rows = new["shared.weight"].clone() * 0.1
    for piece, n in build_tokenizer().get_vocab().items():
        row = next((old[p] for p in (piece, _plainest(piece)) if p in old), None)
        if row is not None:
            rows[n] = state["shared.weight"][row]
    for key, value in new.items():
        if key in ("shared.weight", "encoder.embed_tokens.weight"):
            new[key] = rows
        elif key in state:
            new[key] = state[key]
        elif key.endswith((".o.weight", ".wo.weight")):
            new[key] = torch.zeros_like(value)
    return new


def _plainest(piece: str) -> str:
    """``▁hops`` → ``▁jumps``: the world's own word for what a piece means."""
    word = piece.removeprefix("▁")
    if word not in meanings():
        return piece
    fact, index = meanings()[word]
    return "▁" + list(LEXICON[fact])[index]


class Reader(nn.Module):
    """The text encoder and one linear head over all facts; the head is thrown away after training."""

    def __init__(self) -> None:
        super().__init__()
        self.t5 = build_t5()
        self.head = nn.Linear(self.t5.config.d_model, sum(FACTS.values()))

    def forward(self, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Token ids [N, T] to logits [N, T, classes] per fact, and the states [N, T, D]."""
        states = self.t5(input_ids=ids, attention_mask=ids != 0).last_hidden_state
        return dict(zip(FACTS, self.head(states).split(list(FACTS.values()), -1), strict=True)), states


class Teacher:
    """An encoder that a picture model already understands: what it makes of a shot's plainest caption.

    Args:
        model: as it was trained, frozen.
        tokenizer: its own.
    """

    def __init__(self, model: T5EncoderModel, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer

    @torch.no_grad()
    def states(self, captions: list[str]) -> tuple[Tensor, list[list], list[int]]:
        """States [N, T, D] of captions, where in them each mention stands, and where the end token."""
        read = [word_spans(self.tokenizer, caption) for caption in captions]
        length = max(len(ids) for ids, _ in read)
        ids = torch.tensor([row + [0] * (length - len(row)) for row, _ in read])
        states = self.model(input_ids=ids, attention_mask=ids != 0).last_hidden_state
        return states, [spans for _, spans in read], [len(ids) - 1 for ids, _ in read]


class ReadingBatch(NamedTuple):
    """Captions, what their words tell, and what a teacher makes of them.

    Attributes:
        ids: [N, T] token ids, 0 at padding.
        facts: [N, T] classes of each fact, IGNORE where a word does not tell it.
        mine: [K, 2] row and token of words that the teacher knows; None without a teacher.
        taught: [K, D] what they should come out as.
    """

    ids: Tensor
    facts: dict[str, Tensor]
    mine: Tensor | None = None
    taught: Tensor | None = None


class Captions:
    """Draws captions of endlessly many stories.

    Args:
        seed: of the batches.
        batch_size: captions in a batch.
        plain: share of captions in the world's own grammar.
        teacher: whose states words should have.
    """

    def __init__(self, seed: int, batch_size: int, plain: float, teacher: Teacher | None) -> None:
        self.seed, self.batch_size, self.plain, self.teacher = seed, batch_size, plain, teacher
        self._tokenizer = build_tokenizer()

    def __len__(self) -> int:
        return _STORIES

    def draw(self, step: int) -> ReadingBatch:
        """The captions of a step."""
        rng = random.Random(f"{self.seed}/{step}")
        shots: list[tuple[ShotSpec, str, set[str]]] = []
        while len(shots) < self.batch_size:
            for shot in tell_shots(make_story(rng.randrange(_STORIES), 4, "train"), rng):
                everyone = [a.name for a in shot.truth.actors]
                described = {name for name in everyone if rng.random() < 0.5} if rng.random() < 0.6 else set()
                plain = rng.random() < self.plain
                caption = (shot.truth if plain else shot).caption(described)
                shots.append((shot.truth, caption, described))
        rows = [self.read(caption, shot, described) for shot, caption, described in shots]
        length = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([r + [0] * (length - len(r)) for r, _ in rows])
        facts = {k: torch.tensor([f[k] + [IGNORE] * (length - len(f[k])) for _, f in rows]) for k in FACTS}
        return ReadingBatch(ids, facts, *(self._likeness(shots) if self.teacher else ()))

    def read(self, caption: str, shot: ShotSpec, described: Collection[str]) -> tuple[list[int], dict[str, list[int]]]:
        """`label_words` with the looks of the `described` characters as what is known."""
        return label_words(self._tokenizer, caption, shot, described)

    def _likeness(self, shots: list[tuple[ShotSpec, str, set[str]]]) -> tuple[Tensor, Tensor]:
        """``mine`` and ``taught`` of a batch."""
        assert self.teacher is not None
        states, spans, ends = self.teacher.states([shot.caption(described) for shot, _, described in shots])
        mine, taught = [], []
        for row, ((_, caption, _), theirs) in enumerate(zip(shots, spans, strict=True)):
            ids, own = word_spans(self._tokenizer, caption)
            for token, other in pairs_of_words(own, theirs):
                mine.append((row, token))
                taught.append(states[row, other])
            mine.append((row, len(ids) - 1))
            taught.append(states[row, ends[row]])
        return torch.tensor(mine), torch.stack(taught)


class ReadFacts:
    """Cross-entropy of every fact, and the difference to the teacher's states over their power.

    Args:
        likeness: weight of the teacher.
    """

    def __init__(self, likeness: float) -> None:
        self.likeness = likeness

    def sums(self, model: Reader, inputs: ReadingBatch) -> dict[str, Ratio]:
        """Every fact over the words that tell it; ``unlike`` and ``power`` over the words that the teacher knows."""
        logits, states = model(inputs.ids)
        sums = {}
        for k in FACTS:
            flat, target = logits[k].flatten(0, 1).float(), inputs.facts[k].flatten()
            error = F.cross_entropy(flat, target, ignore_index=IGNORE, reduction="sum")
            sums[k] = Ratio(error, (target != IGNORE).sum())
        if inputs.mine is not None and inputs.taught is not None:
            row, token = inputs.mine.unbind(-1)
            sums["unlike"] = mean_of((states[row, token].float() - inputs.taught).square())
            sums["power"] = mean_of(inputs.taught.square())
        return sums

    def loss(self, means: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over the facts, and the teacher's part."""
        seen = {f"loss_{k}": means[k] for k in ("side", "action", "colour")}
        loss = torch.stack([means[k] for k in FACTS]).sum()
        if "unlike" in means:
            seen["unlike"] = means["unlike"] / means["power"]
            loss = loss + self.likeness * seen["unlike"]
        return loss, seen


class ReadingRecipe(Recipe[ReadingBatch, ReadingBatch]):
    """Cross entropy of every fact at every telling word.

    With a teacher a word must also come out as the teacher's of the plainest caption of the same shot: so a picture
    model that was trained on plain captions understands all others at once.
    """

    name = "text"
    data: Captions
    edges = ("shared", "relative_attention_bias", "head")
    units = ("T5Block",)

    def __init__(
        self,
        seed: int = 0,
        batch_size: int = 64,
        start: dict[str, Tensor] | None = None,
        teacher: Teacher | None = None,
        likeness: float = 4.0,
        plain: float = 0.15,
    ) -> None:
        """`batch_size`: captions a step; `start`: weights of an encoder to go on from; `likeness`: weight of the
        teacher; `plain`: share of captions in the world's own grammar.
        """
        self.start = start
        self.data = Captions(seed, batch_size, plain, teacher)
        self.objective = ReadFacts(likeness)

    def build(self) -> Reader:
        model = Reader()
        if self.start is not None:
            model.t5.load_state_dict(self.start)
        return model

    def inputs(self, batch: ReadingBatch, step: int) -> ReadingBatch:
        return batch

    def share(self, inputs: ReadingBatch, share: Share) -> ReadingBatch:
        rows = share.rows(len(inputs.ids), "captions")
        mine, taught = inputs.mine, inputs.taught
        if mine is not None and taught is not None:
            here = (mine[:, 0] >= rows.start) & (mine[:, 0] < rows.stop)
            mine, taught = mine[here] - mine.new_tensor([rows.start, 0]), taught[here]
        return ReadingBatch(rows.of(inputs.ids), {k: rows.of(fact) for k, fact in inputs.facts.items()}, mine, taught)
