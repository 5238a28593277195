"""What one patched clone knows about its frames in ComfyUI's packed latent, without importing ComfyUI.

Core packs a NestedTensor of frames into one [B, 1, N] row of numbers: which are context, what is put in their place,
and how much memory they take when the model runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...layouts.pairs import PairLayout

__all__ = ["PairRun", "seeded"]

_SEED: ContextVar[int] = ContextVar("anchorshot_pair_seed", default=0)
"""Seed of the sampling run that is under way: not all that core asks of a clone comes with it."""


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Within the `with` block, context frames have the noise levels of a sampling run's seed."""
    token = _SEED.set(seed or 0)
    try:
        yield
    finally:
        _SEED.reset(token)


@dataclass(frozen=True, eq=False)
class PairRun:
    """The frames of one clone, and the model's methods that they change. Nothing in it changes: clones share it.

    Attributes:
        layout: the frames.
        channels: latent channels.
        context: clean latents of the context [B or 1, C, h, w], as given (not yet in the model's scale).
        cache_bytes: bytes of keys and values per context token.
        stock: the model's own methods that are patched.
    """

    layout: PairLayout
    channels: int
    context: list[Tensor]
    cache_bytes: int
    stock: dict[str, Callable[..., Any]]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Latent shape of every listed frame, batch of one."""
        return [(1, self.channels, 2 * h, 2 * w) for h, w in self.layout.sizes]

    @property
    def new_numbers(self) -> int:
        """Numbers per row that the new frames take, at the front of the packed latent."""
        return sum(math.prod(shape) for shape in self.shapes[: self.layout.new])

    def pin(
        self, noise: Tensor, latent: Tensor, mask: Tensor | None, seed: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The context as it was laid out, whatever happened to its part of noise, latent and mask (all [B, 1, N]).

        Between two samplers it may have been changed, and the second may get no noise at all (KSampler Advanced); the
        model must still see it clean but for its own small noise.
        """
        new, latent = self.new_numbers, self.with_context(latent)
        if not noise[..., new:].any():
            drawn = torch.randn(noise[..., new:].shape, generator=torch.Generator().manual_seed(seed or 0))
            noise = torch.cat([noise[..., :new], drawn.to(noise)], -1)
        mask = torch.ones_like(latent) if mask is None else mask.clone()
        mask[..., new:] = 0
        return noise, latent, mask

    def with_context(self, latent: Tensor) -> Tensor:
        """The packed latent with the context as it was given: samplers that stop early would leave it noisy."""
        rows = latent.shape[0]
        clean = [frame.to(latent).expand(rows, -1, -1, -1).reshape(rows, 1, -1) for frame in self.context]
        return torch.cat([latent[..., : self.new_numbers], *clean], -1) if clean else latent

    def scale_latent_inpaint(self, sigma: Tensor, noise: Tensor, latent_image: Tensor, **kwargs: Any) -> Tensor:
        """What stands where the mask is 0: context at its own noise level, parts of new frames at the sampler's."""
        new, levels = self.new_numbers, self.levels()
        stock = self.stock["scale_latent_inpaint"](sigma=sigma, noise=noise, latent_image=latent_image, **kwargs)
        if not self.layout.context:
            return stock
        numbers = torch.tensor([math.prod(shape) for shape in self.shapes[self.layout.new :]])
        keep, t = ((x.repeat_interleave(numbers).to(latent_image)) for x in (1 - levels, levels))
        return torch.cat([stock[..., :new], keep * latent_image[..., new:] + t * noise[..., new:]], -1)

    def levels(self) -> Tensor:
        """t of every context frame in the run under way, in the layout's order: fp64 [context]."""
        return self.layout.levels(_SEED.get())

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Any = None) -> float:
        """Bytes for one call of the model; `input_shape` may be the packed [B, 1, N]."""
        return self.stock["memory_required"](self.true_shape(input_shape), cond_shapes=cond_shapes or {})

    def true_shape(self, shape: Sequence[int]) -> list[int]:
        """The packed shape as [B, C, cells]: latent cells that run at once, 4 to a token, the cache counted in cells.

        Core would take [B, 1, N] for N cells, C times too many. Its estimate knows one picture and no text (the factor
        covers one caption), so further captions count like picture tokens.
        """
        if len(shape) != 3 or shape[1] != 1:
            return list(shape)
        new, context = self.layout.tokens
        tokens = max(new, context) if self.layout.cached else new + context
        cells = 4 * (tokens - sum(self.layout.text_lengths[:1]))
        if self.layout.cached:
            per_cell = self.stock["memory_required"]([1, self.channels, 1])
            cells += math.ceil(context * self.cache_bytes / per_cell)
        return [shape[0], self.channels, cells]
