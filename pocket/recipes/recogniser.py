"""Recipe: the recogniser, on rendered pictures softened the way a VAE and a sampler soften them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from ...training.objectives import Ratio
from ...training.processes import Share
from ...training.recipe import Recipe
from ..bank import random_shots, to_tensor
from ..recogniser import IGNORE, Recogniser, labels
from ..render import render
from ..world import ShotSpec


def label_tensors(shots: list[ShotSpec]) -> dict[str, torch.Tensor]:
    """Ground truth of many shots: [N, 2] for side heads, [N] for frame heads."""
    rows = [labels(s) for s in shots]
    return {k: torch.tensor([r[k] for r in rows]).squeeze(-1) for k in rows[0]}


class LabelledImages(NamedTuple):
    """Images [N, 3, 80, 160] in 0…1, and their labels per head: [N, 2] for side heads, [N] for frame heads."""

    images: torch.Tensor
    truth: dict[str, torch.Tensor]


class RenderedShots:
    """Renders of random shots; half of a batch is blurred, noisy and shifted in colour."""

    def __init__(self, seed: int, batch_size: int, bank: int) -> None:
        self.seed, self.batch_size, self.bank = seed, batch_size, bank

    def __len__(self) -> int:
        return self.bank

    @cached_property
    def _bank(self) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        rng = np.random.default_rng(self.seed)
        shots = random_shots(self.bank, "train", 70_000_000)
        pictures = np.stack([render(s, float(rng.uniform(0, 1)) * (rng.random() < 0.5))[0] for s in shots])
        return pictures, label_tensors(shots)

    def draw(self, step: int) -> LabelledImages:
        """The images of a step."""
        pictures, truth = self._bank
        rng = np.random.default_rng([self.seed, step])
        index = rng.integers(len(pictures), size=self.batch_size)
        images = to_tensor(pictures[index])
        noise = torch.Generator().manual_seed(step)
        half = images[::2]
        small = F.interpolate(half, scale_factor=float(rng.uniform(0.4, 1.0)), mode="bicubic", antialias=True)
        half = F.interpolate(small, images.shape[-2:], mode="bicubic")
        half = half + 0.05 * torch.randn(half.shape, generator=noise)
        half = half + 0.03 * torch.randn(half.shape[0], 3, 1, 1, generator=noise)
        images = torch.cat([half, images[1::2]]).clamp(0, 1)
        order = torch.from_numpy(np.concatenate([index[::2], index[1::2]]))
        return LabelledImages(images, {k: v[order] for k, v in truth.items()})


class Classification:
    """Cross-entropy summed over the heads of a recogniser; logs the mean and the worst accuracy of them."""

    def sums(self, model: Recogniser, inputs: LabelledImages) -> dict[str, Ratio]:
        """Cross-entropy and accuracy of every head, over the labels that are known."""
        logits = model(inputs.images)
        sums = {}
        for head, truth in inputs.truth.items():
            flat, target = logits[head].flatten(0, -2).float(), truth.flatten()
            known = target != IGNORE
            error = F.cross_entropy(flat, target, ignore_index=IGNORE, reduction="sum")
            sums[head] = Ratio(error, known.sum())
            sums[f"accuracy_{head}"] = Ratio(((flat.argmax(-1) == target) & known).sum(), known.sum())
        return sums

    def loss(self, means: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The sum over the heads."""
        heads = [head for head in means if f"accuracy_{head}" in means]
        total = means[heads[0]].new_zeros(())
        for head in heads:
            total = total + means[head]
        each = torch.stack([means[f"accuracy_{head}"] for head in heads])
        return total, {"accuracy": each.mean(), "worst": each.min()}


class RecogniserRecipe(Recipe[LabelledImages, LabelledImages]):
    """A recogniser that learns from renders, half of them spoilt."""

    name = "recogniser"
    objective = Classification()

    def __init__(self, seed: int = 0, batch_size: int = 64, bank: int = 12000, width: int = 24) -> None:
        self.width = width
        self.data = RenderedShots(seed, batch_size, bank)

    def build(self) -> Recogniser:
        return Recogniser(self.width)

    def inputs(self, batch: LabelledImages, step: int) -> LabelledImages:
        return batch

    def share(self, inputs: LabelledImages, share: Share) -> LabelledImages:
        rows = share.rows(len(inputs.images), "images")
        return LabelledImages(rows.of(inputs.images), {head: rows.of(truth) for head, truth in inputs.truth.items()})


def held_out_accuracy(model: Recogniser, count: int = 512) -> float:
    """Share of all labels read right on renders of held-out stories."""
    shots = random_shots(count, "test", 1000)
    reading = model.read(to_tensor(np.stack([render(s)[0] for s in shots])))
    right = known = 0
    for head, truth in label_tensors(shots).items():
        valid = truth != IGNORE
        right += int((reading[head] == truth)[valid].sum())
        known += int(valid.sum())
    return right / known
