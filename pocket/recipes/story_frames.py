"""Frames of pocket stories as tables on the training device, so that a batch is a few indices.

For every shot: its latent at each GoldenMem size, and its caption for every choice of characters whom it describes,
with what each word is about.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from ...core.files import atomic_path
from ...training.processes import Rows
from ..dataset import StoryLatents
from ..tokenizer import build_tokenizer
from ..world import SIDES, ShotSpec
from .captions import IGNORE, LOOK_FACTS, ToldShot, label_words, tell_shots

_CHOICES = 1 << len(SIDES)


class Pick(NamedTuple):
    """A frame to show, of a variant of a story (`StoryFrames.variant`).

    `described` and `known` have bit s for the character on side s: the caption tells its looks; they could be known
    there, described or remembered.
    """

    story: int
    shot: int
    described: int
    known: int


class Frames(NamedTuple):
    """Frames gathered from the tables, N rows.

    Attributes:
        latent: [N, 16, h, w] at the size asked for.
        weight: [N, 10, 20], share of each latent cell that shows a character.
        ids: [N, T] token ids, 0 at padding.
        looks: [N, T, 3] classes of colour, shape and accessory that a word is about, IGNORE elsewhere.
        pooled: [N, D] pooled text.
    """

    latent: Tensor
    weight: Tensor
    ids: Tensor
    looks: Tensor
    pooled: Tensor

    def rows(self, rows: Rows) -> Frames:
        """Some of them."""
        return Frames(*(rows.of(x) for x in self))


class StoryFrames:
    """The tables of N stories × P shots; the captions' take a moment, on first use.

    Args:
        data: latents and ground truth.
        pooled: texts → [N, D] (ClipScorer.pooled).
        cache: file that keeps the captions' tables.
        caption_variants: authors who caption each story, each in words of their own.
        copies: the first stories as a studio draws them (`imperfect.remade`), for memories.
    """

    def __init__(
        self,
        data: StoryLatents,
        pooled: Callable[[Sequence[str]], Tensor],
        cache: Path | None = None,
        caption_variants: int = 2,
        copies: StoryLatents | None = None,
    ) -> None:
        self.data, self._pooled, self._cache = data, pooled, cache
        self.caption_variants, self.copies = caption_variants, copies
        self.tokenizer = build_tokenizer()
        self._resident: dict[str, Tensor] = {}

    def variant(self, story: int, number: int) -> int:
        """The row of the tables in which author `number` captions a story."""
        return story + number * len(self.data.stories)

    @cached_property
    def captions(self) -> dict[str, Tensor]:
        """Tables [variants · N, P, 4 choices of who is described, …]: ``ids`` and ``side`` [T] (side of the character
        that a word is about), ``pooled`` [D]; and ``looks`` [variants · N, P, 2 sides, 3 facts].
        """
        if self._cache is not None and self._cache.exists():
            return load_file(self._cache)
        tables = self._read_captions()
        if self._cache is not None:
            with atomic_path(self._cache) as temporary:
                save_file(tables, temporary)
        return tables

    def _read_captions(self) -> dict[str, Tensor]:
        shots = [
            shot
            for author in range(self.caption_variants)
            for story in self.data.stories
            for shot in tell_shots(story, random.Random(f"{author}/{story.seed}"))
        ]
        captions = [shot.caption(_names(shot.truth, bits)) for shot in shots for bits in range(_CHOICES)]
        distinct = {text: row for row, text in enumerate(dict.fromkeys(captions))}
        pooled = self._pooled(list(distinct)).cpu().half()[[distinct[text] for text in captions]]
        read = [_read(self.tokenizer, shot, bits) for shot in shots for bits in range(_CHOICES)]
        longest = max(len(ids) for ids, _ in read)
        ids = torch.zeros(len(read), longest, dtype=torch.int16)
        side = torch.full((len(read), longest), IGNORE, dtype=torch.int16)
        for row, (tokens, sides) in enumerate(read):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            side[row, : len(sides)] = torch.tensor(sides)
        looks = torch.full((len(shots), len(SIDES), len(LOOK_FACTS)), IGNORE, dtype=torch.int16)
        for row, shot in enumerate(shots):
            for a in shot.truth.actors:
                looks[row, a.side] = torch.tensor([getattr(a.look, fact) for fact in LOOK_FACTS])
        table = self.caption_variants * len(self.data.stories), len(self.data.stories[0].shots)
        choices = {"ids": ids, "side": side, "pooled": pooled}
        return {k: v.unflatten(0, (*table, _CHOICES)).contiguous() for k, v in choices.items()} | {
            "looks": looks.unflatten(0, table).contiguous()
        }

    def prepare(self, device: torch.device) -> None:
        """Bring the tables to the device."""
        tables = {**self.captions, "weight": self.data.weight}
        tables |= {f"tier{i}": tier for i, tier in enumerate(self.data.tiers)}
        if self.copies is not None:
            tables |= {f"copy{i}": tier for i, tier in enumerate(self.copies.tiers)}
        self._resident = {k: v.to(device) for k, v in tables.items()}

    def gather(self, picks: Tensor, tier: int, copied: Tensor | None = None) -> Frames:
        """The frames of `picks` ([N, 4]: the fields of `Pick`) at a GoldenMem tier.

        Where `copied`, bool [N], they are as the studio draws them, if there is a copy.

        On a GPU, whose graphs want one shape, captions are as long as the longest of all; elsewhere as these need.
        """
        if not self._resident:
            self.prepare(picks.device)
        n, p, described, known = picks.unbind(-1)
        table, story = self._resident, n % len(self.data.stories)
        ids = table["ids"][n, p, described].long()
        length = ids.shape[1] if ids.is_cuda else int((ids != 0).sum(1).max())
        ids, side = ids[:, :length], table["side"][n, p, described, :length].long()
        about = side.clamp_min(0)
        looks = table["looks"][n, p].long().gather(1, about[..., None].expand(-1, -1, len(LOOK_FACTS)))
        tells = (side >= 0) & ((known[:, None] >> about) & 1).bool()
        latent = table[f"tier{tier}"][story, p]
        if copied is not None and (copies := table.get(f"copy{tier}")) is not None:
            there = copied & (story < len(copies))
            latent = torch.where(there[:, None, None, None], copies[story.clamp_max(len(copies) - 1), p], latent)
        return Frames(
            latent=latent,
            weight=table["weight"][story, p],
            ids=ids,
            looks=looks.masked_fill(~tells[..., None], IGNORE),
            pooled=table["pooled"][n, p, described].float(),
        )


def side_bits(shot: ShotSpec, names: set[str]) -> int:
    """Bit s is set where the character on side s has one of `names`."""
    return sum(1 << a.side for a in shot.actors if a.name in names)


def _names(shot: ShotSpec, bits: int) -> set[str]:
    return {a.name for a in shot.actors if bits >> a.side & 1}


def _read(tokenizer: Tokenizer, shot: ToldShot, bits: int) -> tuple[list[int], list[int]]:
    """Token ids of a caption, and the side that each word is about."""
    names = _names(shot.truth, bits)
    ids, facts = label_words(tokenizer, shot.caption(names), shot.truth, names)
    return ids, facts["side"]


__all__ = ["LOOK_FACTS", "Frames", "Pick", "StoryFrames", "side_bits"]
