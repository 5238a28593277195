"""Recipe: the pocket pair model STEP² (STAGE §4.1–4.2): start and end frame of a shot at once, from memory and text.

A batch shows one shot of each of several stories. The history is a random choice of the story's other shots: all their
start and end frames, ranked by CLIP to the shot's text, go through the memory pack; the last one's end frame goes to
the text encoder. Some batches have no history, no memory or no picture, and some show one frame of the pair alone: so
the ablations of the paper ask the model for nothing that it has not learned.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...sampling.noise import noise_like
from ...training.processes import Share
from ...training.recipe import Recipe
from ..world import Story
from .captions import IGNORE
from .pair_flow import PairFlow, PairInputs, PairStudent
from .pair_frames import PairCaptions, PairTables, shot_frames
from .pair_prompts import pair_ids
from .pairs_layout import GRID, PACKS, tiles_of
from .story_frames import side_bits

__all__ = ["PACKS", "PairBatch", "PairDraws", "PairRecipe"]

Shown = Literal["pair", "start", "end"]
Given = Literal["start", "end"] | None
_HISTORIES = (1, 1, 2, 2, 3, 4, 5, 6, 7, 9, 11)


class PairBatch(NamedTuple):
    """Indices into the tables, one row for each of B shots.

    Attributes:
        shown: which frames are made.
        given: the frame of the pair that is there already, clean; the other one is made beside it.
        packing: key of `PACKS`; None: no memory.
        shot: [B, 3] author's row, story and shot.
        hidden: [B] bit s: the caption does not tell the colour of the character on side s.
        known: [B] bit s: its looks can be known.
        placed: bool [B], the memory or the picture shows the place.
        previous: [B] the shot whose end frame the text encoder sees; None: no picture.
        memory: [B, K, 2] shot and frame (0 start, 1 end) of each place; −1 where there is none.
        frames: length of each shot.
        blank: the text is left out, as a negative prompt does.
        noise_seed: of times and noise.
    """

    shown: Shown
    given: Given
    packing: str | None
    shot: Tensor
    hidden: Tensor
    known: Tensor
    placed: Tensor
    previous: Tensor | None
    memory: Tensor
    frames: list[int]
    blank: bool
    noise_seed: int


@dataclass(frozen=True)
class PairDraws:
    """Shots of stories with histories.

    Args:
        stories, tables, captions: ground truths and what was made from them.
        seed: of the batches.
        batch_size: shots in a batch.
        single: share of batches that show one frame alone.
        pinned: share of batches of pairs in which one frame is given.
        hidden: share of the characters in the memory whose colour the caption keeps back.
    """

    stories: Sequence[Story]
    tables: PairTables
    captions: PairCaptions
    seed: int = 0
    batch_size: int = 16
    single: float = 0.12
    pinned: float = 0.1
    hidden: float = 0.5

    def __len__(self) -> int:
        return len(self.stories)

    def draw(self, step: int) -> PairBatch:
        """The shots of a step."""
        rng = random.Random(f"{self.seed}/{step}")
        history, packing, picture, shown = self.kind(rng)
        given: Given = rng.choice(("start", "start", "end")) if shown == "pair" and rng.random() < self.pinned else None
        pack = tiles_of(packing) if packing else ()
        rows = [self._shot(rng, history, len(pack), picture) for _ in range(self.batch_size)]
        shot, hidden, known, placed, previous, memory, frames = zip(*rows, strict=True)
        return PairBatch(
            shown=shown,
            given=given,
            packing=packing,
            shot=torch.tensor(shot),
            hidden=torch.tensor(hidden),
            known=torch.tensor(known),
            placed=torch.tensor(placed),
            previous=torch.tensor(previous) if picture else None,
            memory=torch.tensor(memory).view(self.batch_size, len(pack), 2),
            frames=list(frames),
            blank=rng.random() < 0.03,
            noise_seed=rng.randrange(2**31),
        )

    def kind(self, rng: random.Random) -> tuple[bool, str | None, bool, Shown]:
        """Whether a batch has a history, how its memory is packed, whether it has a picture, and what it shows."""
        kind = rng.random()
        history = kind >= 0.18  # first shots have none
        packing = rng.choice(("canvas", "canvas", "pyramid")) if history and kind < 0.92 else None
        shown: Shown = rng.choice(("start", "end")) if rng.random() < self.single else "pair"
        return history, packing, kind >= 0.22, shown

    def eligible(self, story: int, shot: int) -> bool:
        """Whether a shot may be drawn."""
        return True

    def _shot(
        self, rng: random.Random, history: bool, places: int, picture: bool
    ) -> tuple[list[int], int, int, bool, int, list[list[int]], int]:
        """A shot, whose colours its caption hides, who and whether the place can be known, the shot before, its memory,
        its length.
        """
        story = rng.randrange(len(self.stories))
        shots = self.stories[story].shots
        order = rng.sample(range(len(shots)), len(shots))
        target, earlier = order[0], order[1 : 1 + rng.choice(_HISTORIES)] if history else []
        if not self.eligible(story, target):
            return self._shot(rng, history, places, picture)
        author = rng.randrange(len(self.captions.ids) // len(self.stories))
        memory = self._ranked(story, target, earlier, places)
        sources = [shots[p] for p, _ in memory] + ([shots[earlier[-1]]] if picture and earlier else [])
        visible = {a.name for shot in sources for a in shot.actors}
        names = {a.name for a in shots[target].actors}
        hidden = {n for n in names & visible if rng.random() < self.hidden}
        row = [author * len(self.stories) + story, story, target]
        memory += [[-1, 0]] * (places - len(memory))
        return (
            row,
            side_bits(shots[target], hidden),
            side_bits(shots[target], names),
            any(shot.layout == shots[target].layout for shot in sources),
            earlier[-1] if earlier else -1,
            memory,
            shot_frames(self.stories[story], target),
        )

    def _ranked(self, story: int, target: int, earlier: Sequence[int], places: int) -> list[list[int]]:
        """(shot, frame) of the most relevant frames of `earlier` shots, best first (A8: CLIP to the shot's text)."""
        if not earlier or not places:
            return []
        keys = self.tables.keys[story, list(earlier)]  # [M, 2, D]
        scores = (keys @ self.tables.queries[story, target]).flatten()
        best = scores.argsort(descending=True, stable=True)[:places].tolist()
        return [[earlier[n // 2], n % 2] for n in best]


class PairRecipe(Recipe[PairBatch, PairInputs]):
    """Flow matching on both frames of a shot (Eq. 4), transformer and text encoder trained together.

    Args:
        data: draws the shots.
        start: weights of the student or of a part of it (``qwen.…``, ``transformer.…``) to go on from.
        character_weight: how much more a cell that a character fills weighs.
        identity_weight: weight of what words must know (`PairFlow`).
        memory_noise: standard deviation up to which memories get noise: what a film remembers was generated.
        t_mean: logit of the median time.
        end_weight: how much more the end frame weighs.
        name: of the run.
    """

    data: PairDraws
    edges = ("img_in", "txt_in", "time_text_embed", "proj_out", "norm_out", "_mod", "embed_tokens", "patch_embed",
             "looks", "layout")  # fmt: skip
    units = ("PairQwenBlock", "Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock")

    def __init__(
        self,
        data: PairDraws,
        start: Mapping[str, Tensor] | None = None,
        character_weight: float = 5.0,
        identity_weight: float = 0.3,
        memory_noise: float = 0.2,
        t_mean: float = 1.2,
        end_weight: float = 1.0,
        name: str = "pairs",
    ) -> None:
        self.name = name
        self.data, self.start, self.memory_noise, self.t_mean = data, start, memory_noise, t_mean
        self.objective = PairFlow(character_weight, identity_weight, end_weight)
        layouts = [[(s.layout.sky, s.layout.first, s.layout.second) for s in story.shots] for story in data.stories]
        self._layouts = torch.tensor(layouts)

    def build(self) -> PairStudent:
        model = PairStudent()
        if self.start is not None:
            if model.load_state_dict(dict(self.start), strict=False).unexpected_keys:
                raise ValueError("`start` holds weights that the pair student does not have")
        return model

    def inputs(self, batch: PairBatch, step: int) -> PairInputs:
        g = torch.Generator(batch.shot.device).manual_seed(batch.noise_seed)
        tables, captions = self.data.tables, self.data.captions
        row, story, shot = batch.shot.unbind(-1)
        frames = {"pair": [0, 1], "start": [0], "end": [1]}[batch.shown]
        latents = tables.latents[story, shot][:, frames].float()
        ids = captions.ids[row, shot, batch.hidden].long()
        length = int((ids != 0).sum(1).max())
        ids, side = ids[:, :length], captions.side[row, shot, batch.hidden, :length].long()
        about = side.clamp_min(0)
        looks = captions.looks[row, shot].long().gather(1, about[..., None].expand(-1, -1, 3))
        tells = (side >= 0) & ((batch.known[:, None] >> about) & 1).bool()
        chats, first = self._chats(batch, ids)
        layout = self._layouts[story, shot][:, None].expand(-1, length, -1)
        where = captions.setting[row, shot, batch.hidden, :length] & batch.placed[:, None]
        return PairInputs(
            shown=batch.shown,
            given=batch.given,
            packing=batch.packing,
            latents=latents,
            share=tables.share[story, shot][:, frames].float(),
            t=_sample_t(len(latents), g, self.t_mean),
            noise=noise_like(latents.shape, g),
            ids=chats,
            first=first,
            looks=looks.masked_fill(~tells[..., None] | batch.blank, IGNORE),
            layout=layout.masked_fill(~where[..., None] | batch.blank, IGNORE),
            seen=None if batch.previous is None else tables.seen[story, batch.previous],
            memory=self._memories(batch, g),
            remembered=batch.memory[:, :, 0] >= 0,
        )

    def _chats(self, batch: PairBatch, ids: Tensor) -> tuple[Tensor, int]:
        rows = [[int(i) for i in row if i] if not batch.blank else [] for row in ids]
        chats = [
            pair_ids(row, frames, batch.previous is not None) for row, frames in zip(rows, batch.frames, strict=True)
        ]
        longest = max(len(chat) for chat, _ in chats)
        return torch.tensor([chat + [0] * (longest - len(chat)) for chat, _ in chats]), chats[0][1]

    def _memories(self, batch: PairBatch, g: torch.Generator) -> list[Tensor]:
        """Latents of the memory's places, [B, 16, h, w] each, at the sizes that the pack gives them."""
        if batch.packing is None:
            return []
        story, places = batch.shot[:, 1], batch.memory.clamp_min(0)
        full = [self.data.tables.latents[story, p[:, 0], p[:, 1]].float() for p in places.unbind(1)]
        level = self.memory_noise * torch.rand(len(story), 1, 1, 1, generator=g)
        noisy = [x + level * noise_like(x.shape, g) for x in full]
        return [latent for _, latent in PACKS[batch.packing].pack(noisy, GRID)]

    def share(self, inputs: PairInputs, share: Share) -> PairInputs:
        rows = share.rows(len(inputs.latents), "shots")
        return inputs.rows(rows)


def _sample_t(count: int, g: torch.Generator, mean: float) -> Tensor:
    """Logit-normal times leaning to high noise, where text and memory decide (as for keyframes)."""
    return torch.sigmoid(mean + 1.6 * torch.randn(count, generator=g))
