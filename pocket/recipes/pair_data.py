"""The stories that the pair model's recipes learn from, with everything that was made of them once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...models.encoders.clip import ClipScorer
from ...models.encoders.vae import VideoCodec
from ..world import DATA_VERSION, Story, make_story
from .pair_frames import PairCaptions, PairTables, encode_pairs, read_captions
from .pairs import PairDraws

__all__ = ["PairData", "pair_data"]

_FIRST_STORY = 60_000_000
_SHOTS = 12


@dataclass(frozen=True)
class PairData:
    """Ground truths, frames and captions of stories."""

    stories: Sequence[Story]
    tables: PairTables
    captions: PairCaptions

    def draws(self, seed: int, batch_size: int) -> PairDraws:
        """Batches of shots with histories."""
        return PairDraws(self.stories, self.tables, self.captions, seed, batch_size)

    def queries(self, count: int) -> list[str]:
        """Plain captions of the first shots."""
        return [shot.query for story in self.stories for shot in story.shots][:count]


def pair_data(stories: int, codec: VideoCodec, clip: ClipScorer, folder: Path) -> PairData:
    """Draw stories of twelve shots and encode them; `folder` keeps the tables."""
    truths = [make_story(_FIRST_STORY + n, _SHOTS, "train", max_places=4) for n in range(stories)]
    name = f"{DATA_VERSION}_{stories}x{_SHOTS}.safetensors"
    tables = encode_pairs(truths, codec, clip, folder / f"pairs_{name}")
    return PairData(truths, tables, read_captions(truths, cache=folder / f"pair_captions_{name}"))
