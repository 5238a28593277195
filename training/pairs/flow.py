"""The pair model and its text encoder as one module that learns through adapters, and how it predicts velocities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...memory.memory_pack import MemoryPack
from ...models.encoders.qwen_vl import QwenVLEncoder
from ...models.layouts.start_end import PairLayoutName, Segment, pair_ids, patchify, reference_ids, unpatchify
from ...training.objectives import FlowInputs
from ..lora import without_lora

__all__ = ["Conditions", "Encoded", "PairLearner", "PairPredictor", "untrained"]


class Conditions(NamedTuple):
    """What a batch of shots is made from; rows as in `PairBatch`, memory and pictures on the device."""

    prompts: list[str]
    pictures: list[Tensor | None]
    memory: list[Tensor]
    there: Tensor


class Encoded(NamedTuple):
    """The same with encoded prompts: states [B, T, D] and their mask [B, T]."""

    states: Tensor
    mask: Tensor
    memory: list[Tensor]
    there: Tensor


class PairLearner(nn.Module):
    """A transformer over segments and its text encoder.

    Args:
        transformer: a `PairQwen` with adapters.
        encoder: its text encoder, whose model may have adapters, too.
        checkpointing: compute the inside of blocks a second time on the way back, instead of keeping it in memory.
    """

    def __init__(self, transformer: Any, encoder: QwenVLEncoder, checkpointing: bool = False) -> None:
        super().__init__()
        self.transformer, self.text, self.encoder = transformer, encoder.model, encoder
        self.dtype: torch.dtype = transformer.proj_out.weight.dtype
        if checkpointing:
            transformer.enable_gradient_checkpointing()
            # transformers has renamed it
            switch = getattr(self.text, "activation_checkpointing_enable", self.text.gradient_checkpointing_enable)
            switch({"use_reentrant": False})

    def encode(self, conditions: Conditions) -> Encoded:
        """U = E_mu(picture, text) of every row."""
        self.encoder.device = conditions.there.device
        pictures = [None if x is None else x.float() / 255 for x in conditions.pictures]
        (inputs,) = self.encoder.inputs(conditions.prompts, pictures, batch=len(pictures))
        states, mask = self.encoder.states(inputs)
        return Encoded(states.to(self.dtype), mask, conditions.memory, conditions.there)


@contextlib.contextmanager
def untrained(model: PairLearner) -> Iterator[None]:
    """Within the `with` block, the model is what training began with: the reference of preferences."""
    with without_lora(model.transformer, model.text):
        yield


class PairPredictor:
    """Velocities of start and end frame, [B, 2, C, h, w], with times [B, 1, 1, 1, 1].

    Args:
        pack, layout: where memory and frames stand, as the sampler puts them.
    """

    def __init__(self, pack: MemoryPack, layout: PairLayoutName) -> None:
        self.pack, self.layout = pack, layout

    def encode(self, model: PairLearner, conditions: Conditions) -> Encoded:
        """Encode the prompts, once for all predictions with them."""
        return model.encode(conditions)

    def from_text(self, model: PairLearner, noisy: Tensor, inputs: FlowInputs) -> Tensor:
        """Velocity where the conditions still have their texts."""
        return self.from_states(model, noisy, inputs._replace(conditions=model.encode(inputs.conditions)))

    def from_states(self, model: PairLearner, noisy: Tensor, inputs: FlowInputs) -> Tensor:
        """Velocity where the conditions are encoded."""
        told: Encoded = inputs.conditions
        height, width = noisy.shape[-2:]
        grid = height // 2, width // 2
        frames = [patchify(x.to(model.dtype)) for x in noisy.unbind(1)]
        ids = pair_ids(grid, self.layout)
        segments = [Segment(x, i) for x, i in zip(frames, ids, strict=True)]
        there = [x.new_ones(x.shape[:2], dtype=torch.bool) for x in frames]
        for segment, known in zip(self._memory(told, grid, model.dtype), told.there.unbind(1), strict=True):
            segments.append(segment)
            there.append(known[:, None].expand(segment.tokens.shape[:2]))
        mask = None if bool(told.there.all()) else torch.cat(there, 1)
        prompt_mask = None if bool(told.mask.all()) else told.mask
        times = inputs.t.flatten(1)[:, 0]
        made: Sequence[Tensor] = model.transformer.forward_segments(segments, told.states, prompt_mask, times, mask)
        return torch.stack([unpatchify(tokens, (height, width)) for tokens in made], 1)

    def _memory(self, told: Encoded, grid: tuple[int, int], dtype: torch.dtype) -> list[Segment]:
        tiles = self.pack.tiles(len(told.memory), grid)
        ids = reference_ids(tiles, self.pack.canvas(grid), self.layout, self.pack.packing)
        return [Segment(patchify(x.to(dtype)), i, clean=True) for x, i in zip(told.memory, ids, strict=True)]
