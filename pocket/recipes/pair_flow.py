"""The pair model as it learns: with its text encoder, and with words that must know what characters and places look
like.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...models.backbones.qwen_image.headless import PairQwen
from ...models.layouts.start_end import Segment, pair_ids, patchify, reference_ids
from ...training.objectives import Ratio, flow_error, interpolate, mean_of, velocity
from ...training.processes import Rows
from ..configs import PAIR
from ..world import LAND_SLOTS, SKY_SLOTS
from .captions import FACTS, IGNORE, LOOK_FACTS
from .pair_prompts import image_patches
from .pair_text import build_qwen_vl, encode_chat
from .pairs_layout import GRID, PACKS, tiles_of

__all__ = ["GRID", "PairFlow", "PairInputs", "PairStudent", "predict", "tokens_of"]

#: the block before which the words about a character should know its looks
IDENTITY_BEFORE = 5
LOOKS = tuple(FACTS[fact] for fact in LOOK_FACTS)
LAYOUTS = (SKY_SLOTS, LAND_SLOTS, LAND_SLOTS)
LAYOUT_FACTS = ("sky", "first", "second")


class PairInputs(NamedTuple):
    """What a step needs, B rows.

    Attributes:
        shown: ``pair``, ``start`` or ``end``.
        given: ``start`` or ``end`` of a pair: that frame is clean, the other is made.
        packing: of the memory; None: no memory.
        latents: [B, F, 16, 10, 20] the frames to make, clean.
        share: [B, F, 10, 20], share of each cell that shows a character.
        t: [B], the same for both frames.
        noise: like `latents`.
        ids: [B, T] conversations, 0 at padding.
        first: where their captions begin.
        looks: [B, C, 3] classes of the looks that a caption's word is about.
        layout: [B, C, 3] slots of the sky's object and of both landmarks, at words about a place that is remembered.
        seen: uint8 [B, H, W, 3] the frame that the text encoder sees, or None.
        memory: latents [B, 16, h, w] of every place.
        remembered: bool [B, places], which of them are there.
    """

    shown: str
    given: str | None
    packing: str | None
    latents: Tensor
    share: Tensor
    t: Tensor
    noise: Tensor
    ids: Tensor
    first: int
    looks: Tensor
    layout: Tensor
    seen: Tensor | None
    memory: list[Tensor]
    remembered: Tensor

    def rows(self, rows: Rows) -> PairInputs:
        """Some of the rows."""
        return self._replace(
            latents=rows.of(self.latents),
            share=rows.of(self.share),
            t=rows.of(self.t),
            noise=rows.of(self.noise),
            ids=rows.of(self.ids),
            looks=rows.of(self.looks),
            layout=rows.of(self.layout),
            seen=None if self.seen is None else rows.of(self.seen),
            memory=[rows.of(latent) for latent in self.memory],
            remembered=rows.of(self.remembered),
        )


class PairStudent(nn.Module):
    """The pair model and its text encoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = PairQwen(**PAIR)
        self.qwen = build_qwen_vl()
        # training only, see `PairFlow._identity_loss`
        self.looks = nn.Linear(self.transformer.inner_dim, sum(LOOKS))
        self.layout = nn.Linear(self.transformer.inner_dim, sum(LAYOUTS))

    def encode(self, inputs: PairInputs) -> tuple[Tensor, Tensor]:
        """States [B, T', D] of what follows the system text and the user's name, and their mask."""
        patches, grid = (None, (0, 0)) if inputs.seen is None else image_patches(inputs.seen)
        states = encode_chat(self.qwen, inputs.ids, patches, grid)
        return states[:, DROPPED:], inputs.ids[:, DROPPED:] != 0


DROPPED = 8
"""Tokens of the template before what the user says: system and user."""


class PairFlow:
    """Flow matching of start and end frame (Eq. 4), and what words about characters and places should know.

    Args:
        character_weight: how much more a cell that a character fills weighs.
        identity_weight: weight of what words should know.
        end_weight: how much more the end frame weighs: what moves in it is harder to draw.
    """

    def __init__(self, character_weight: float, identity_weight: float, end_weight: float = 1.0) -> None:
        self.character_weight, self.identity_weight = character_weight, identity_weight
        self.end_weight = end_weight

    def sums(self, model: PairStudent, inputs: PairInputs) -> dict[str, Ratio]:
        """``flow``, ``plain``, and the cross-entropy of each look and landmark."""
        sums: dict[str, Ratio] = {}
        noisy = interpolate(inputs.latents, inputs.noise, inputs.t[:, None, None, None, None])
        with self._identity_loss(model, inputs, sums):
            out = predict(model, inputs, noisy, *model.encode(inputs))
        made = made_frames(inputs)
        target = velocity(inputs.latents, inputs.noise)[:, made]
        weight = 1 + self.character_weight * inputs.share[:, made, None].expand_as(target)
        if inputs.shown == "pair" and 1 in made:
            weight[:, -1] *= self.end_weight
        error, weighted = flow_error(out, tokens_of(target), tokens_of(weight))
        return sums | {"flow": weighted, "plain": mean_of(error.detach())}

    def loss(self, means: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Flow matching, looks and landmarks."""
        looks = torch.stack([means[fact] for fact in LOOK_FACTS]).mean()
        layout = torch.stack([means[fact] for fact in LAYOUT_FACTS]).mean()
        logged = {"plain": means["plain"], "looks": looks, "colour": means["colour"], "layout": layout}
        return means["flow"] + self.identity_weight * (looks + layout), logged

    @contextmanager
    def _identity_loss(self, model: PairStudent, inputs: PairInputs, sums: dict[str, Ratio]) -> Iterator[None]:
        """Inside, a forward also learns to tell from the words about a character how it looks (a colour that the
        caption keeps back: from memory alone), and from those about a place that is remembered where its landmarks
        stand, which no caption tells. Words are never noisy, so every step teaches it.
        """

        def tell(_module: nn.Module, args: tuple[Any, ...]) -> None:
            text = args[1]
            first, length = inputs.first - DROPPED, inputs.looks.shape[1]
            words = text[:, first : first + length]
            for facts, classes, head, told in (
                (LOOK_FACTS, LOOKS, model.looks, inputs.looks),
                (LAYOUT_FACTS, LAYOUTS, model.layout, inputs.layout),
            ):
                labels = told[:, : words.shape[1]].flatten(0, 1)
                logits = head(words).flatten(0, 1).float().split(classes, -1)
                for fact, each, label in zip(facts, logits, labels.unbind(-1), strict=True):
                    wrong = F.cross_entropy(each, label, ignore_index=IGNORE, reduction="sum")
                    sums[fact] = Ratio(wrong, (label != IGNORE).sum())

        handle = model.transformer.transformer_blocks[IDENTITY_BEFORE].register_forward_pre_hook(tell)
        try:
            yield
        finally:
            handle.remove()


def predict(model: PairStudent, inputs: PairInputs, noisy: Tensor, text: Tensor, mask: Tensor) -> Tensor:
    """Velocities [B, F · N, 64] of the frames that are made, from noisy latents [B, F, 16, h, w], states and a mask.

    A frame that is given stands there clean instead.
    """
    start, end = pair_ids(GRID)
    places = {"pair": (start, end), "start": (start,), "end": (end,)}[inputs.shown]
    made = made_frames(inputs)
    frames = [
        Segment(patchify((noisy if k in made else inputs.latents)[:, k]), ids, clean=k not in made)
        for k, ids in enumerate(places)
    ]
    image_mask = None
    if inputs.packing is not None:
        tiles = tiles_of(inputs.packing)
        ids = reference_ids(tiles, GRID, "stacked", PACKS[inputs.packing].packing)
        frames += [Segment(patchify(x), i, clean=True) for x, i in zip(inputs.memory, ids, strict=True)]
        there = [torch.ones(len(noisy), len(place), dtype=torch.bool) for place in places]
        there += [
            real[:, None].expand(-1, tile.rows * tile.cols)
            for real, tile in zip(inputs.remembered.unbind(1), tiles, strict=True)
        ]
        image_mask = torch.cat(there, 1)
    return torch.cat(model.transformer.forward_segments(frames, text, mask, inputs.t, image_mask), 1)


def made_frames(inputs: PairInputs) -> list[int]:
    """Which of the frames in `latents` are made: all but the given one."""
    names = {"pair": ("start", "end"), "start": ("start",), "end": ("end",)}[inputs.shown]
    return [k for k, name in enumerate(names) if name != inputs.given]


def tokens_of(latents: Tensor) -> Tensor:
    """[B, F, 16, h, w] to tokens [B, F · N, 64], frame after frame."""
    return torch.cat([patchify(x) for x in latents.unbind(1)], 1)
