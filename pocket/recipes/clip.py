"""Recipe: the pocket CLIP (open_clip class), contrastive on rendered pictures and their retrieval captions."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import open_clip
import torch
from torch import nn
from torch.nn import functional as F

from ...models.encoders.clip import ClipScorer, build_clip
from ...training.objectives import Ratio
from ...training.processes import Rows, Share, gather_rows
from ...training.recipe import Recipe
from ..bank import draw_all, random_shots, to_tensor
from ..configs import CLIP
from ..recogniser import FRAME_HEADS, IGNORE, SIDE_HEADS, labels
from ..render import render
from ..world import ACTIONS, Actor, ShotSpec, make_story
from .captions import tell_shots

__all__ = ["ClipRecipe", "ClipStudent"]

_VARIANTS = 4
_SHOTS = 4
#: what a caption tells of a still picture
_FACTS = {
    **{head: 2 * size for head, size in SIDE_HEADS.items()},
    **{head: FRAME_HEADS[head] for head in ("place", "scale")},
}
_SHARPNESS = 12.0
#: sharpness of the ranking by shared content, and of what it should be
_RANKING, _RELEVANCE = 8.0, 6.0


class ClipStudent(nn.Module):
    """CLIP, and a layer that reads from either embedding what is told; the layer is thrown away after training.

    Contrast alone finds the places and colours in a few hundred steps and the actions, a few pixels of arms and legs,
    not in thousands: asked for them, both towers learn to look.
    """

    def __init__(self, clip: open_clip.CLIP, dim: int) -> None:
        super().__init__()
        self.clip = clip
        self.told = nn.Linear(dim, sum(_FACTS.values()))

    def read(self, embedding: torch.Tensor) -> dict[str, torch.Tensor]:
        """Unit embeddings [N, D] to logits: side heads [N, 2, classes], frame heads [N, classes]."""
        parts = (_SHARPNESS * self.told(embedding)).split(list(_FACTS.values()), -1)
        found = dict(zip(_FACTS, parts, strict=True))
        return {k: v.unflatten(-1, (2, -1)) if k in SIDE_HEADS else v for k, v in found.items()}


class ClipInputs(NamedTuple):
    """Images and captions of which some are the same, N in all.

    Attributes:
        images: [n, 3, 96, 96], those that this process embeds.
        texts: [n, 77] their captions' token ids.
        rows: which of the N they are.
        shown: [N] numbers of what the images show: equal where they show the same.
        shared: [N, N] how much of what a caption tells an image shows.
        facts: labels of all images, [N, 2] or [N].
    """

    images: torch.Tensor
    texts: torch.Tensor
    rows: Rows
    shown: torch.Tensor
    shared: torch.Tensor
    facts: dict[str, torch.Tensor]


class CaptionedImages:
    """Images of shots with several captions each. Every shot comes with its twin, which differs in one action.

    Args:
        scorer: how images and captions become a CLIP's inputs.
        seed: of everything.
        batch_size: images in a batch.
        bank: images to draw.
    """

    def __init__(self, scorer: ClipScorer, seed: int, batch_size: int, bank: int) -> None:
        self.scorer, self.seed, self.batch_size, self.bank = scorer, seed, batch_size, bank

    def __len__(self) -> int:
        return self.bank

    @cached_property
    def _bank(self) -> tuple[np.ndarray, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Pictures [N, 80, 160, 3]; texts [N, variants, 77]; what each shows, as a number [N] and as labels. Pairs lie
        together.
        """
        rng = random.Random(self.seed)
        shots: list[ShotSpec] = []
        texts: list[list[str]] = []
        while len(shots) < self.bank:
            story = make_story(50_000_000 + len(shots), _SHOTS, "train")
            both = [twin for shot in story.shots for twin in (shot, _other_action(shot, rng))]
            variants = [tell_shots(replace(story, shots=tuple(both)), rng) for _ in range(_VARIANTS - 1)]
            shots += both
            texts += [[shot.query, *(variant[n].query for variant in variants)] for n, shot in enumerate(both)]
        times = [rng.uniform(0, 1) for _ in shots]
        pictures = np.stack(draw_all(_draw, list(zip(shots, times, strict=True))))
        ids = self.scorer.tokenizer([text for row in texts for text in row]).unflatten(0, (-1, _VARIANTS))
        kinds: dict[object, int] = {}
        self._content = [_content(shot) for shot in shots]
        shown = torch.tensor([kinds.setdefault(_shown(shot), len(kinds)) for shot in shots])
        truth = [labels(shot) for shot in shots]
        facts = {head: torch.tensor([row[head] for row in truth]).squeeze(-1) for head in _FACTS}
        return pictures, ids, shown, facts

    def used_tokens(self) -> torch.Tensor:
        """Every token id that a caption has."""
        return torch.unique(self._bank[1])

    def draw(self, step: int) -> ClipInputs:
        """Several shots of a few stories."""
        pictures, texts, shown, facts = self._bank
        rng = np.random.default_rng([self.seed, step])
        each = 2 * _SHOTS  # pictures of a story: its shots, each with its twin
        stories = rng.integers(len(pictures) // each, size=max(1, self.batch_size // each))
        index = (each * stories[:, None] + np.arange(each)).ravel()
        images = to_tensor(pictures[index])
        if step % 2:  # GoldenMem and the VAE soften pictures; retrieval must not mind
            factor = float(rng.uniform(0.3, 1.0))
            small = F.interpolate(images, scale_factor=factor, mode="bicubic", antialias=True)
            images = F.interpolate(small, images.shape[-2:], mode="bicubic").clamp(0, 1)
        captions = texts[index, rng.integers(texts.shape[1], size=len(index))]
        return ClipInputs(
            images=self.scorer.preprocess(images),
            texts=captions,
            rows=Share().rows(len(index), "images"),
            shown=shown[index],
            shared=torch.tensor([[_shared(self._content[i], self._content[j]) for j in index] for i in index]),
            facts={head: label[index] for head, label in facts.items()},
        )


class ContrastAndFacts:
    """Symmetric contrast, ranking by shared content, and facts read from either embedding (see `ClipRecipe`).

    Every image is compared with every caption, so each process gathers all embeddings and computes the whole loss.
    """

    def sums(self, model: ClipStudent, inputs: ClipInputs) -> dict[str, Ratio]:
        """The parts of the loss, which are means over the whole batch already."""
        image, text, scale = model.clip(inputs.images, inputs.texts)[:3]
        image, text = gather_rows(image, inputs.rows), gather_rows(text, inputs.rows)
        logits = scale.clamp(max=50.0) * image.float() @ text.float().T
        same = (inputs.shown[:, None] == inputs.shown[None]).float()
        target = same / same.sum(1, keepdim=True)
        contrast = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        hits = (target.gather(1, logits.argmax(1, keepdim=True)) > 0).float().mean()
        # two texts of one shot that differ in what is done
        likeness = (text[0::2].float() * text[1::2].float()).sum(-1)
        apart = likeness.sub(0.7).clamp_min(0).mean()
        found = {"contrast": contrast, "apart": apart, "accuracy": hits, "twins": likeness.mean().detach()}
        for name, embedding in (("image", image), ("text", text)):
            read = model.read(embedding.float())
            found |= {f"{name}_{k}": _cross_entropy(read[k], inputs.facts[k]) for k in _FACTS}
        ranks = F.log_softmax(_RANKING * text.float() @ image.float().T, -1)
        found["ranking"] = F.kl_div(ranks, F.softmax(_RELEVANCE * inputs.shared, -1), reduction="batchmean")
        return {name: Ratio(value, 1.0) for name, value in found.items()}

    def loss(self, means: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Their sum; logs accuracy, how alike twin captions are, and how well actions are read."""
        facts = means["contrast"].new_zeros(())
        for name in ("image", "text"):
            facts = facts + torch.stack([means[f"{name}_{k}"] for k in _FACTS]).mean()
        logged = ("accuracy", "twins", "image_action", "text_action", "ranking")
        return means["contrast"] + means["apart"] + facts + means["ranking"], {name: means[name] for name in logged}


class ClipRecipe(Recipe[ClipInputs, ClipInputs]):
    """Symmetric contrastive loss on (picture, caption with the looks written out).

    Every shot comes as a pair that differs in one character's action only: nothing else teaches a small model to tell
    ``waves`` from ``dances``, which ranking by action and SAR live on. Captions come in many words and orders. Two that
    show the same are no negatives: their targets share the probability. And since a memory is searched for frames that
    show the same place or people, not for the shot itself, a batch holds several shots of each story, and texts also
    learn to rank pictures by how much of what they tell is in them.
    """

    name = "clip"
    data: CaptionedImages
    objective = ContrastAndFacts()
    edges = ("positional_embedding", "conv1", "class_embedding", "told")

    def __init__(
        self, seed: int = 0, batch_size: int = 64, bank: int = 6000, start: dict[str, torch.Tensor] | None = None
    ):
        """`batch_size`: pictures a step, two of each shot; `bank`: pictures to draw; `start`: weights to go on from."""
        self.start = start
        self.scorer = ClipScorer(build_clip(CLIP), CLIP)
        self.data = CaptionedImages(self.scorer, seed, batch_size, bank)

    def build(self) -> ClipStudent:
        model = copy.deepcopy(self.scorer.model)
        # the unused rows of the standard vocabulary must not be noise that no training ever touches
        used = self.data.used_tokens()
        with torch.no_grad():
            rows = torch.zeros_like(model.token_embedding.weight)
            rows[used] = 0.02 * torch.randn(len(used), CLIP["text_cfg"]["width"])
            model.token_embedding.weight.copy_(rows)
            if self.start is not None:
                model.load_state_dict(self.start, strict=False)
                fresh = rows.any(1) & ~model.token_embedding.weight.any(1)
                model.token_embedding.weight[fresh] = rows[fresh]
        return ClipStudent(model, CLIP["embed_dim"])

    def inputs(self, batch: ClipInputs, step: int) -> ClipInputs:
        return batch

    def share(self, inputs: ClipInputs, share: Share) -> ClipInputs:
        rows = share.rows(len(inputs.images), "images")
        return inputs._replace(images=rows.of(inputs.images), texts=rows.of(inputs.texts), rows=rows)

    @torch.no_grad()
    def held_out(self, weights: dict[str, torch.Tensor], count: int = 64) -> float:
        """Share of held-out captions whose own picture is the nearest of `count`, with these weights of the CLIP."""
        self.scorer.model.load_state_dict(weights)
        shots = random_shots(count, "test", 2000)
        images = self.scorer.embed_images(to_tensor(np.stack([render(s)[0] for s in shots])))
        texts = self.scorer.embed_texts([s.query for s in shots])
        best = (texts @ images.T).argmax(1)
        return float(np.mean([_shown(shots[i]) == _shown(shots[int(b)]) for i, b in enumerate(best)]))


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, -2), target.flatten(), ignore_index=IGNORE)


def _draw(moment: tuple[ShotSpec, float]) -> np.ndarray:
    return render(*moment)[0]


def _other_action(shot: ShotSpec, rng: random.Random) -> ShotSpec:
    """The same shot with another action of one of its characters."""
    who = rng.randrange(len(shot.actors))
    actor = shot.actors[who]
    action = (actor.action + rng.randrange(1, len(ACTIONS))) % len(ACTIONS)
    actors: list[Actor] = list(shot.actors)
    actors[who] = replace(actor, action=action)
    return replace(shot, actors=tuple(actors))


def _shown(shot: ShotSpec) -> object:
    """What a caption tells of a still picture."""
    actors = frozenset((actor.look, actor.side, actor.action) for actor in shot.actors)
    return shot.layout.place, shot.scale, actors


def _content(shot: ShotSpec) -> frozenset[object]:
    """What a memory of this shot is good for: its place, and who is in it."""
    return frozenset([shot.layout.place, *(actor.look for actor in shot.actors)])


def _shared(wanted: frozenset[object], there: frozenset[object]) -> float:
    """How much of what a shot wants another one shows; a character counts as two places, for it is asked for by less:
    a place fills the whole picture.
    """
    weight = {part: 1.0 if isinstance(part, int) else 2.0 for part in wanted}
    return sum(weight[part] for part in wanted & there) / sum(weight.values())
