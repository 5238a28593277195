"""Batches of shots with their histories, drawn from an encoded data set."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from ...core.errors import InputError
from ...memory.memory_pack import MemoryPack
from ...memory.retrieval import rank_clip, rank_memory
from .cache import CachedShot, PairCache, read_shot
from .records import ShotRecord

__all__ = ["Chances", "PairBatch", "PairDraws"]


@dataclass(frozen=True)
class Chances:
    """How often something of a shot is left out, each drawn for every row.

    Attributes:
        text: the text, so that guidance has something to lead away from.
        history: memory and picture, as for the first shot of a film.
        memory: the memory alone.
        picture: the picture that the text encoder sees, alone.
        memory_noise: standard deviation, at most, of noise on remembered latents: what a film remembers was generated.
    """

    text: float = 0.1
    history: float = 0.1
    memory: float = 0.0
    picture: float = 0.0
    memory_noise: float = 0.0


class PairBatch(NamedTuple):
    """B shots of one size.

    Attributes:
        winner: [B, 2, C, h, w], start and end frame.
        loser: of the same shape, two inner frames of the same shots; None where no preferences are learned.
        memory: for each rank [B, C, 2·rows, 2·cols] at the size of its place; zeros where `there` is False.
        there: bool [B, ranks].
        prompts: B texts.
        pictures: what the text encoder sees with each, uint8 [3, H, W] or None.
        seed: of noise and times.
    """

    winner: Tensor
    loser: Tensor | None
    memory: list[Tensor]
    there: Tensor
    prompts: list[str]
    pictures: list[Tensor | None]
    seed: int


class _Place(NamedTuple):
    movie: str
    number: int


@dataclass
class PairDraws:
    """Shots of an encoded data set (a `Dataset` of recipes).

    Args:
        cache: the data set.
        movies: those to draw from.
        pack: how memories are packed; on the latents.
        rank_by: clip (by the shot's text), image (by the end frame before it) or recency.
        prompt: (text, seconds, frames) → what the text encoder reads.
        batch: shots of a step.
        seed: of the draws.
        chances: what is left out.
        min_distance: draw preference pairs; of two inner frames the mean squared difference to start and end, in
            latents of unit scale, must be at least this. None: none are drawn.

    Raises:
        InputError: nothing to draw from, or a pack on pixels.
    """

    cache: PairCache
    movies: Sequence[str]
    pack: MemoryPack
    rank_by: str
    prompt: Callable[[str, float, int], str]
    batch: int
    seed: int = 0
    chances: Chances = Chances()
    min_distance: float | None = None
    left_out: int = field(init=False, default=0)
    """Shots without two inner frames that differ enough from their ends."""

    def __post_init__(self) -> None:
        if self.pack.level != "latent":
            rule = "must be latent for training: the cache holds latents of one size"
            raise InputError("pair.level", rule, self.pack.level, "set it to latent")
        self._places: list[list[_Place]] = [[] for _ in self.cache.sizes]
        for movie in self.movies:
            for index, bucket in enumerate(self.cache.buckets[movie]):
                if self.min_distance is not None and not len(self._losers(movie, index)):
                    self.left_out += 1
                    continue
                self._places[bucket].append(_Place(movie, index))
        if not len(self):
            what = "shots" if self.min_distance is None else "shots whose inner frames differ from their ends"
            seen = f"{self.left_out} left out"
            raise InputError("data.file", f"must hold {what}", seen, "add shots, or lower data.min_distance")

    def __len__(self) -> int:
        return sum(map(len, self._places))

    def draw(self, step: int) -> PairBatch:
        """The shots of a step, all of one bucket; buckets come as often as they hold shots."""
        rng = random.Random(f"{self.seed}/{step}")
        bucket = rng.choices(range(len(self._places)), [len(places) for places in self._places])[0]
        rows = [self._row(rng, rng.choice(self._places[bucket])) for _ in range(self.batch)]
        winners = torch.stack([row.winner for row in rows])
        losers = None if self.min_distance is None else torch.stack([_need(row.loser) for row in rows])
        ranks = max(len(row.memory) for row in rows)
        memory = []
        for rank in range(ranks):
            given = next(row.memory[rank] for row in rows if len(row.memory) > rank)
            blank = torch.zeros_like(given)
            memory.append(torch.stack([row.memory[rank] if len(row.memory) > rank else blank for row in rows]))
        there = torch.tensor([[rank < len(row.memory) for rank in range(ranks)] for row in rows]).view(len(rows), ranks)
        prompts, pictures = [row.prompt for row in rows], [row.picture for row in rows]
        return PairBatch(winners, losers, memory, there, prompts, pictures, rng.randrange(2**62))

    def _row(self, rng: random.Random, place: _Place) -> _Row:
        record = self.cache.records[place.movie][place.number]
        bucket = self.cache.buckets[place.movie][place.number]
        chances = self.chances
        blank, first, alone, unseen = (
            rng.random() < chance for chance in (chances.text, chances.history, chances.memory, chances.picture)
        )
        noise = rng.random() * chances.memory_noise
        with safe_open(self.cache.files[place.movie], framework="pt") as file:
            shot = read_shot(file, place.number)
            loser = None
            if self.min_distance is not None:
                i, j = rng.choice(self._losers(place.movie, place.number).tolist())
                loser = shot.frames[[2 + i, 2 + j]].float()
            latents, keys, seen = self._history(file, place, record, shot, bucket)
        prompt = " " if blank else self._prompt(record)
        memory: list[Tensor] = []
        if latents and not first and not alone:
            generator = torch.Generator().manual_seed(rng.randrange(2**62))
            grid = latents[0].shape[-2] // 2, latents[0].shape[-1] // 2
            full = [x.float() + noise * torch.randn(x.shape, generator=generator) for x in latents]
            memory = [latent for _, latent in self.pack.pack([full[i] for i in self._order(shot.query, keys)], grid)]
        return _Row(shot.frames[:2].float(), loser, memory, prompt, None if first or unseen else seen)

    def _prompt(self, record: ShotRecord) -> str:
        return record.text if record.whole else self.prompt(record.told, record.seconds, record.frames)

    def _history(
        self, file: Any, place: _Place, record: ShotRecord, shot: CachedShot, bucket: int
    ) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """What a shot may remember, oldest first, its embeddings, and what the text encoder sees of it.

        Earlier shots of another aspect are not remembered: a film has one size.
        """
        if record.control is not None:
            # In the order given, which begins with the end of the shot before; that counts as the newest.
            return list(shot.control.flip(0)), shot.control_keys.flip(0), shot.control_seen
        earlier = [i for i in range(place.number) if self.cache.buckets[place.movie][i] == bucket]
        latents = [x for i in earlier for x in file.get_tensor(f"{i}.frames")[:2]]
        keys = [file.get_tensor(f"{i}.keys") for i in earlier]
        seen = file.get_tensor(f"{earlier[-1]}.seen") if earlier else None
        return latents, torch.cat(keys) if keys else torch.zeros(0, 1), seen

    def _order(self, query: Tensor, keys: Tensor) -> list[int]:
        if self.rank_by == "image":
            return rank_clip(keys[-1], keys)
        return rank_memory("clip" if self.rank_by == "clip" else "recency", len(keys), query, keys)

    def _losers(self, movie: str, index: int) -> Tensor:
        """[n, 2] inner frames, the earlier first, that are no near-duplicates of start and end."""
        distances = self.cache.distances[movie][index]
        enough = torch.ones_like(distances).triu(1).bool() & (distances >= (self.min_distance or 0))
        return enough.nonzero()


class _Row(NamedTuple):
    winner: Tensor
    loser: Tensor | None
    memory: list[Tensor]
    prompt: str
    picture: Tensor | None


def _need(x: Tensor | None) -> Tensor:
    assert x is not None
    return x
