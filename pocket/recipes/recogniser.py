"""Recipe: the recogniser, on rendered pictures softened the way a VAE and a sampler soften them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ...training.recipe import Recipe
from ..bank import random_shots, to_tensor
from ..recogniser import IGNORE, Recogniser, labels
from ..render import render
from ..world import ShotSpec


def label_tensors(shots: list[ShotSpec]) -> dict[str, torch.Tensor]:
    """Ground truth of many shots: [N, 2] for side heads, [N] for frame heads."""
    rows = [labels(s) for s in shots]
    return {k: torch.tensor([r[k] for r in rows]).squeeze(-1) for k in rows[0]}


class RecogniserRecipe(Recipe):
    """Cross-entropy summed over the heads; half of the pictures are blurred, noisy and shifted in colour."""

    name = "recogniser"
    edges = ()

    def __init__(self, seed: int = 0, size: int = 64, bank: int = 12000, width: int = 24) -> None:
        self.seed, self.size, self.bank, self.width = seed, size, bank, width

    @cached_property
    def _bank(self) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
        rng = np.random.default_rng(self.seed)
        shots = random_shots(self.bank, "train", 70_000_000)
        pictures = np.stack([render(s, float(rng.uniform(0, 1)) * (rng.random() < 0.5))[0] for s in shots])
        return pictures, label_tensors(shots)

    def build(self) -> Recogniser:
        return Recogniser(self.width)

    def batch(self, step: int) -> dict[str, Any]:
        pictures, truth = self._bank
        rng = np.random.default_rng([self.seed, step])
        index = rng.integers(len(pictures), size=self.size)
        images = to_tensor(pictures[index])
        noise = torch.Generator().manual_seed(step)
        half = images[::2]
        small = F.interpolate(half, scale_factor=float(rng.uniform(0.4, 1.0)), mode="bicubic", antialias=True)
        half = F.interpolate(small, images.shape[-2:], mode="bicubic")
        half = half + 0.05 * torch.randn(half.shape, generator=noise)
        half = half + 0.03 * torch.randn(half.shape[0], 3, 1, 1, generator=noise)
        images = torch.cat([half, images[1::2]]).clamp(0, 1)
        order = torch.from_numpy(np.concatenate([index[::2], index[1::2]]))
        return {"images": images, "truth": {k: v[order] for k, v in truth.items()}}

    def loss(self, model: Recogniser, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits = model(batch["images"])
        total = torch.zeros((), device=batch["images"].device)
        hits = []
        for head, truth in batch["truth"].items():
            flat, target = logits[head].flatten(0, -2).float(), truth.flatten()
            total = total + F.cross_entropy(flat, target, ignore_index=IGNORE)
            known = target != IGNORE
            hits.append(((flat.argmax(-1) == target) & known).sum() / known.sum().clamp_min(1))
        each = torch.stack(hits)
        return total, {"accuracy": each.mean(), "worst": each.min()}


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
