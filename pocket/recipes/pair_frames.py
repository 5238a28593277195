"""Start and end frames of pocket stories as tables: latents, small images for the text encoder, ranking features,
captions.

A shot lasts 9 to 25 frames; its end frame is its last one, so the text has to say how long it is. The two inner frames
are the loser of a preference pair (STAGE §3): an incomplete movement of the same shot.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from ...core.files import atomic_path
from ...models.encoders.clip import ClipScorer
from ...models.encoders.vae import VideoCodec
from ..bank import draw_all, to_tensor
from ..dataset import cell_shares
from ..render import render
from ..tokenizer import build_tokenizer
from ..world import COLOURS, FPS, SIDES, ShotSpec, Story
from .captions import IGNORE, LOOK_FACTS, ToldShot, label_words, tell_shots
from .pair_prompts import EYES, pair_caption

__all__ = [
    "LENGTHS",
    "PairCaptions",
    "PairTables",
    "encode_pairs",
    "encode_recoloured",
    "read_captions",
    "shot_frames",
]

LENGTHS = (9, 13, 17, 21, 25)
"""Frames of a shot; what a storyboard's own lengths come close to."""

_CHOICES = 1 << len(SIDES)


def shot_frames(story: Story, number: int) -> int:
    """How many frames a shot of a story has: drawn from the story's seed."""
    return random.Random(f"length/{story.seed}/{number}").choice(LENGTHS)


def _moments(story: Story, number: int) -> list[float]:
    """Seconds of a shot's start, end, and two inner frames in order."""
    frames = shot_frames(story, number)
    rng = random.Random(f"inner/{story.seed}/{number}")
    inner = sorted(rng.sample(range(1, frames - 1), 2))
    return [n / FPS for n in (0, frames - 1, *inner)]


class PairTables(NamedTuple):
    """Tables of N stories × P shots.

    Attributes:
        latents: [N, P, 4, 16, 10, 20]: start, end and two inner frames.
        share: [N, P, 4, 10, 20], share of each latent cell that shows a character.
        seen: uint8 [N, P, 84, 168, 3], end frames as the text encoder sees them.
        keys: [N, P, 2, D] CLIP features of start and end frame, normalised.
        queries: [N, P, D] CLIP features of each shot's text.
    """

    latents: Tensor
    share: Tensor
    seen: Tensor
    keys: Tensor
    queries: Tensor


@torch.no_grad()
def encode_pairs(
    stories: Sequence[Story], codec: VideoCodec, clip: ClipScorer, cache: Path | None = None
) -> PairTables:
    """Render and encode the frames of `stories`, which have equally many shots; with `cache` they are kept there."""
    if cache is not None and cache.exists():
        return PairTables(**load_file(cache))
    shots = [(shot, t) for story in stories for n, shot in enumerate(story.shots) for t in _moments(story, n)]
    drawn = draw_all(_draw, shots)
    pictures = np.stack([picture for picture, _ in drawn])
    table = len(stories), len(stories[0].shots)
    latents = []
    for first in range(0, len(pictures), 256):
        latents.append(codec.encode_image(to_tensor(pictures[first : first + 256])).half())
    four = torch.cat(latents).unflatten(0, (*table, 4))
    share = torch.from_numpy(np.stack([s for _, s in drawn])).half().unflatten(0, (*table, 4))
    ends = pictures[1::4]
    seen = torch.from_numpy(np.stack([_resized(p) for p in ends])).unflatten(0, table)
    outer = np.stack([pictures[0::4], pictures[1::4]], 1).reshape(-1, *pictures.shape[1:])
    keys = torch.cat([clip.embed_images(to_tensor(outer[i : i + 256])) for i in range(0, len(outer), 256)])
    texts = [shot.query for story in stories for shot in story.shots]
    queries = torch.cat([clip.embed_texts(texts[i : i + 256]) for i in range(0, len(texts), 256)])
    tables = PairTables(four, share, seen, keys.float().unflatten(0, (*table, 2)), queries.float().unflatten(0, table))
    if cache is not None:
        with atomic_path(cache) as temporary:
            save_file({k: v.contiguous() for k, v in tables._asdict().items()}, temporary)
    return tables


@torch.no_grad()
def encode_recoloured(stories: Sequence[Story], codec: VideoCodec, cache: Path | None = None) -> Tensor:
    """Start and end frames with one character in a colour that is not its own, `[N, P, 2 sides, 2, 16, 10, 20]` half.

    Side s shows the pair with the character on that side recoloured; where nobody stands there, the pair as it is.
    """
    if cache is not None and cache.exists():
        return load_file(cache)["latents"]
    shots = [
        (_recoloured(story, n, side), t)
        for story in stories
        for n in range(len(story.shots))
        for side in range(len(SIDES))
        for t in _moments(story, n)[:2]
    ]
    pictures = np.stack([picture for picture, _ in draw_all(_draw, shots)])
    parts = [codec.encode_image(to_tensor(pictures[i : i + 256])).half() for i in range(0, len(pictures), 256)]
    latents = torch.cat(parts).unflatten(0, (len(stories), len(stories[0].shots), len(SIDES), 2))
    if cache is not None:
        with atomic_path(cache) as temporary:
            save_file({"latents": latents.contiguous()}, temporary)
    return latents


def _recoloured(story: Story, number: int, side: int) -> ShotSpec:
    rng = random.Random(f"colour/{story.seed}/{number}/{side}")
    shift = rng.randrange(1, len(COLOURS))
    shot = story.shots[number]
    actors = [
        replace(a, look=replace(a.look, colour=(a.look.colour + shift) % len(COLOURS))) if a.side == side else a
        for a in shot.actors
    ]
    return replace(shot, actors=tuple(actors))


def _draw(moment: tuple[ShotSpec, float]) -> tuple[np.ndarray, np.ndarray]:
    picture, mask = render(*moment)
    return picture, cell_shares(mask)


def _resized(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize(EYES[::-1], Image.Resampling.BICUBIC))


class PairCaptions(NamedTuple):
    """Captions of the tables' shots, by author: [V · N, P, 4 choices of who lacks the colour, …].

    Attributes:
        ids: int16 [..., T], the caption's tokens, 0 at padding.
        side: int8 [..., T], side of the character that a word is about, else IGNORE.
        setting: bool [..., T], words about the place and the camera.
        looks: int8 [V · N, P, 2 sides, 3 facts].
    """

    ids: Tensor
    side: Tensor
    setting: Tensor
    looks: Tensor


def read_captions(stories: Sequence[Story], authors: int = 2, cache: Path | None = None) -> PairCaptions:
    """The captions of `stories` as `authors` write them."""
    if cache is not None and cache.exists():
        return PairCaptions(**load_file(cache))
    tokenizer = build_tokenizer()
    shots = [
        shot
        for author in range(authors)
        for story in stories
        for shot in tell_shots(story, random.Random(f"pairs/{author}/{story.seed}"))
    ]
    read = [_read(tokenizer, shot, bits) for shot in shots for bits in range(_CHOICES)]
    longest = max(len(ids) for ids, _, _ in read)
    ids = torch.zeros(len(read), longest, dtype=torch.int16)
    side = torch.full((len(read), longest), IGNORE, dtype=torch.int8)
    setting = torch.zeros(len(read), longest, dtype=torch.bool)
    for row, (tokens, sides, about_place) in enumerate(read):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        setting[row, : len(tokens)] = torch.tensor(about_place)
        side[row, : len(sides)] = torch.tensor(sides)
    looks = torch.full((len(shots), len(SIDES), len(LOOK_FACTS)), IGNORE, dtype=torch.int8)
    for row, shot in enumerate(shots):
        for a in shot.truth.actors:
            looks[row, a.side] = torch.tensor([getattr(a.look, fact) for fact in LOOK_FACTS])
    table = authors * len(stories), len(stories[0].shots)
    words = {"ids": ids, "side": side, "setting": setting}
    by_choice = {name: x.unflatten(0, (*table, _CHOICES)) for name, x in words.items()}
    captions = PairCaptions(**by_choice, looks=looks.unflatten(0, table))
    if cache is not None:
        with atomic_path(cache) as temporary:
            save_file({k: v.contiguous() for k, v in captions._asdict().items()}, temporary)
    return captions


def _read(tokenizer: Tokenizer, shot: ToldShot, hidden: int) -> tuple[list[int], list[int], list[bool]]:
    names = {a.name for a in shot.truth.actors if hidden >> a.side & 1}
    ids, facts = label_words(tokenizer, pair_caption(shot, names), shot.truth, ())
    return ids[:-1], facts["side"][:-1], [place != IGNORE for place in facts["place"][:-1]]
