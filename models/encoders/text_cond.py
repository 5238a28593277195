"""Encoded prompts; apart from the encoders, so that whoever only mixes or passes them on need not import these."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["TextCond"]


@dataclass
class TextCond:
    """Conditioning of B texts.

    Attributes:
        tokens: [B, T, D] fp32; rows past a text's length are zero.
        mask: [B, T] bool, true where a model may look.
        pooled: [B, P] fp32, or None without a pooling text model.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each text."""
        return self.mask.sum(1).tolist()

    def rows(self) -> list[TextCond]:
        """Each text on its own, [1, t, D] at its own length."""
        pooled = [None] * len(self) if self.pooled is None else list(self.pooled.split(1))
        return [
            TextCond(self.tokens[i : i + 1, :n], self.mask[i : i + 1, :n], pooled[i])
            for i, n in enumerate(self.lengths)
        ]

    def expand(self, batch: int) -> TextCond:
        """One text as `batch` equal ones; that many are left as they are."""
        pooled = None if self.pooled is None else self.pooled.expand(batch, -1)
        return TextCond(self.tokens.expand(batch, -1, -1), self.mask.expand(batch, -1), pooled)

    def to(self, device: torch.device | str) -> TextCond:
        """The same conditioning on another device."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return TextCond(self.tokens.to(device), self.mask.to(device), pooled)
