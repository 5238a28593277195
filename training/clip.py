"""Recipe: the pocket CLIP (open_clip class), contrastive on rendered pictures and their retrieval captions."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import open_clip
import torch
from torch.nn import functional as F

from ..models.clip import ClipScorer, build_clip
from ..models.pocket.bank import random_shots, to_tensor
from ..models.pocket.configs import CLIP
from ..models.pocket.render import render
from .recipe import Recipe


class ClipRecipe(Recipe):
    """Symmetric contrastive loss on (picture, caption with the looks written out).

    Captions with the same words in one batch are no negatives: their targets share the probability.
    """

    name = "clip"
    edges = ()

    def __init__(self, seed: int = 0, size: int = 64, bank: int = 6000) -> None:
        self.seed, self.size, self.bank = seed, size, bank
        self.scorer = ClipScorer(build_clip(CLIP), CLIP)

    @cached_property
    def _bank(self) -> tuple[np.ndarray, torch.Tensor]:
        rng = np.random.default_rng(self.seed)
        shots = random_shots(self.bank, "train", 50_000_000)
        pictures = np.stack([render(s, float(rng.uniform(0, 1)))[0] for s in shots])
        return pictures, self.scorer.tokenizer([s.query for s in shots])

    def build(self) -> open_clip.CLIP:
        model = self.scorer.model
        # the unused rows of the standard vocabulary must not be noise that no training ever touches
        torch.nn.init.zeros_(model.token_embedding.weight)
        used = torch.unique(self._bank[1])
        with torch.no_grad():
            model.token_embedding.weight[used] = 0.02 * torch.randn(len(used), CLIP["text_cfg"]["width"])
        return model

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        pictures, texts = self._bank
        rng = np.random.default_rng([self.seed, step])
        index = rng.integers(len(pictures), size=self.size)
        images = to_tensor(pictures[index])
        if step % 2:  # GoldenMem and the VAE soften pictures; retrieval must not mind
            factor = float(rng.uniform(0.3, 1.0))
            small = F.interpolate(images, scale_factor=factor, mode="bicubic", antialias=True)
            images = F.interpolate(small, images.shape[-2:], mode="bicubic").clamp(0, 1)
        return {"images": self.scorer.preprocess(images), "texts": texts[index]}

    def loss(self, model: open_clip.CLIP, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        image, text, scale = model(batch["images"], batch["texts"])[:3]
        logits = scale.clamp(max=50.0) * image.float() @ text.float().T
        same = (batch["texts"][:, None] == batch["texts"][None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        loss = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        hits = (target.gather(1, logits.argmax(1, keepdim=True)) > 0).float().mean()
        return loss, {"accuracy": hits}

    @torch.no_grad()
    def held_out(self, weights: dict[str, torch.Tensor], count: int = 64) -> float:
        """Share of held-out captions whose own picture is the nearest of `count`."""
        model = self.scorer.model
        model.load_state_dict(weights)
        shots = random_shots(count, "test", 2000)
        images = self.scorer.embed_images(to_tensor(np.stack([render(s)[0] for s in shots])))
        texts = self.scorer.embed_texts([s.query for s in shots])
        best = (texts @ images.T).argmax(1)
        return float(np.mean([shots[i].query == shots[int(b)].query for i, b in enumerate(best)]))
