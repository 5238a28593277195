"""Captain Cinema on diffusers' Flux: interleaved pairs, hybrid attention, per-frame timesteps, key/value cache.

`CaptainFlux` has the stock state dict and the stock forward; `forward_pairs` is what it adds (Captain Cinema §3.2):
double-stream blocks see each pair alone, single-stream blocks see all pairs, with a full or a causal-by-pair mask that
is never built as a matrix. All pairs lie in one packed row through both; pairs that all have one shape run as rows of
one batch of the stock double blocks.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from ...layouts.pair_cache import CachePrecision, KVCache
from ...layouts.pairs import Mode, Pairs, Size, buckets, causal_spans, pair_ids, segment_index
from .pair_blocks import PairAttnProcessor, PairDoubleBlock, PairPlan, PairSingleBlock, Streams

__all__ = ["CaptainFlux", "KVCache", "Mode", "PairAttnProcessor", "PairDoubleBlock", "PairSingleBlock", "Pairs"]


class CaptainFlux(FluxTransformer2DModel):
    """FluxTransformer2DModel that also runs interleaved pairs; same config, same state dict, stock
    forward inherited.
    """

    _no_split_modules = ["PairDoubleBlock", "PairSingleBlock"]
    packs = True
    """Whether pairs of different shapes share a row; False takes them a shape at a time, for comparison."""

    _repeated_blocks = ["PairDoubleBlock", "PairSingleBlock"]

    # without `wraps` diffusers' config machinery would see (*args, **kwargs) and drop the whole config
    @functools.wraps(FluxTransformer2DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adopt(self)

    @staticmethod
    def adopt(model: FluxTransformer2DModel) -> CaptainFlux:
        """Turn a loaded stock model (quantised or with LoRA, too) into a CaptainFlux, in place."""
        model.__class__ = CaptainFlux
        for block in model.transformer_blocks:
            block.__class__ = PairDoubleBlock
            block.attn.set_processor(PairAttnProcessor())
        for block in model.single_transformer_blocks:
            block.__class__ = PairSingleBlock
            block.attn.set_processor(PairAttnProcessor())
        return model

    def forward(  # type: ignore[override]
        self, hidden_states: Any = None, *args: Any, pairs: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """The stock forward, or `forward_pairs` when `pairs` holds its arguments (so hooks and wrappers see
        one call).
        """
        if pairs is None:
            return super().forward(hidden_states, *args, **kwargs)
        return self._forward_pairs(**pairs)

    def forward_pairs(self, pairs: Pairs, mode: Mode = "full", past: KVCache | None = None) -> list[Tensor]:
        """Velocity of every pair (Captain Cinema §3.2).

        Args:
            pairs: the pairs to compute, in story order.
            mode: ``full`` (all see all), ``causal`` (a pair sees itself and the ones before) or ``local`` (only
            itself). past: cache of context pairs that come before (from `encode_context`).

        Returns:
            P tensors [B, h·w, C].
        """
        return self(pairs={"pairs": pairs, "mode": mode, "past": past})

    def encode_context(self, pairs: Pairs, mode: Mode = "causal", precision: CachePrecision = "model") -> KVCache:
        """Keys and values of context pairs, kept in `precision`, to be given to `forward_pairs` at every step.

        Where gradients are wanted, they reach the context through its keys and values, which then stay as they are.
        """
        store = KVCache(mask=pairs.key_mask(), precision=precision)
        self(pairs={"pairs": pairs, "mode": mode, "store": store})
        return store

    def _forward_pairs(
        self, pairs: Pairs, mode: Mode = "full", past: KVCache | None = None, store: KVCache | None = None
    ) -> list[Tensor]:
        temb = self._embed_time(pairs)
        hidden = self._double_blocks(pairs, temb)
        lengths = _lengths(pairs)
        plan = PairPlan(lengths, torch.tensor(lengths), mode, segment_index(lengths, hidden.device))
        plan.mask = _joined_mask(pairs, past)
        if store is not None and torch.is_grad_enabled():
            plan.grown = store
        elif store is not None:
            attn = self.single_transformer_blocks[0].attn
            shape = (*hidden.shape[:2], attn.inner_dim // attn.head_dim, attn.head_dim)
            store.reserve(len(self.single_transformer_blocks), shape, hidden.dtype, hidden.device)
        rope = self.pos_embed(torch.cat([pairs.ids(p, hidden.device) for p in range(len(pairs))]))
        run = self._runner()
        for layer, block in enumerate(self.single_transformer_blocks):
            cached = None if past is None else past.layer(layer)
            kept = None if store is None or plan.grown is not None else store.layer(layer)
            hidden = run(block, hidden, None, temb, rope, None, plan, cached, kept)
        if store is not None:
            return []
        scale, shift = self.norm_out.linear(self.norm_out.silu(temb).to(hidden.dtype)).chunk(2, -1)
        hidden = self.norm_out.norm(hidden) * (1 + scale[:, plan.segments]) + shift[:, plan.segments]
        outputs = self.proj_out(hidden).split(lengths, 1)
        return [o[:, t.shape[1] :] for o, t in zip(outputs, pairs.texts, strict=True)]

    def _runner(self):
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func
        return lambda block, *args: block(*args)

    def _embed_time(self, pairs: Pairs) -> Tensor:
        """Modulation vectors [B, P, d]. Times stay fp32: bf16 would round 3.5·1000 to 3504."""
        t = pairs.timestep.float().flatten() * 1000
        pooled = pairs.pooled.flatten(0, 1)
        if self.config.guidance_embeds:
            if pairs.guidance is None:
                raise ValueError("pairs.guidance is missing: this model is guidance-distilled and needs [B, P] values")
            temb = self.time_text_embed(t, pairs.guidance.float().flatten() * 1000, pooled)
        else:
            temb = self.time_text_embed(t, pooled)
        return temb.unflatten(0, pairs.timestep.shape)

    def _double_blocks(self, pairs: Pairs, temb: Tensor) -> Tensor:
        """Hidden states [B, L, d] of all pairs in their order, after the local blocks."""
        shapes = buckets(pairs.sizes, [t.shape[1] for t in pairs.texts])
        if len(shapes) > 1 and self.packs:
            return self._packed(pairs, temb)
        parts: list[Any] = [None] * len(pairs)
        for (h, w, length), index in shapes.items():
            for p, part in zip(index, self._bucket(pairs, temb, index, (h, w), length), strict=True):
                parts[p] = part
        return torch.cat(parts, 1)

    def _bucket(self, pairs: Pairs, temb: Tensor, index: list[int], size: Size, length: int) -> tuple[Tensor, ...]:
        """Pairs of one shape as rows of one batch of the stock blocks: [B, length + h·w, d] of each."""
        image = torch.stack([self.x_embedder(pairs.latents[p]) for p in index], 1).flatten(0, 1)
        text = torch.stack([self.context_embedder(pairs.texts[p]) for p in index], 1).flatten(0, 1)
        rope = self.pos_embed(pair_ids(length, size, 0, pairs.reference, image.device))
        kwargs = _double_mask(pairs, index, image.shape[1])
        modulation = torch.stack([temb[:, p] for p in index], 1).flatten(0, 1)
        run = self._runner()
        for block in self.transformer_blocks:
            text, image = run(block, image, text, modulation, rope, kwargs)
        return torch.cat([text, image], 1).unflatten(0, (-1, len(index))).unbind(1)

    def _packed(self, pairs: Pairs, temb: Tensor) -> Tensor:
        """Pairs of any shapes in one row: all their text tokens, and all their image tokens."""
        image = self.x_embedder(torch.cat(pairs.latents, 1))
        text = self.context_embedder(torch.cat(pairs.texts, 1))
        streams, plan = _local_plan(pairs)
        ids = [
            pair_ids(t.shape[1], size, 0, pairs.reference, image.device)
            for t, size in zip(pairs.texts, pairs.sizes, strict=True)
        ]
        rope = self.pos_embed(torch.cat(ids))
        run = self._runner()
        for block in self.transformer_blocks:
            text, image = run(block, image, text, temb, rope, None, plan)
        return torch.cat([text, image], 1).index_select(1, streams.order)


def _lengths(pairs: Pairs) -> list[int]:
    """Tokens of every pair."""
    return [t.shape[1] + x.shape[1] for t, x in zip(pairs.texts, pairs.latents, strict=True)]


def _local_plan(pairs: Pairs) -> tuple[Streams, PairPlan]:
    """How packed pairs lie in the double blocks. Indices are filled on the device, which nothing waits for."""
    device = pairs.latents[0].device
    texts, images = ([x.shape[1] for x in part] for part in (pairs.texts, pairs.latents))
    lengths = _lengths(pairs)
    spans = causal_spans(lengths)
    arange = functools.partial(torch.arange, device=device)
    order = []
    for (a, b), (c, d) in zip(causal_spans(texts), causal_spans(images), strict=True):
        order += [arange(a, b), arange(sum(texts) + c, sum(texts) + d)]
    streams = Streams(
        segment_index(texts, device),
        torch.cat(order),
        torch.cat([arange(start, start + n) for (start, _), n in zip(spans, texts, strict=True)]),
        torch.cat([arange(end - n, end) for (_, end), n in zip(spans, images, strict=True)]),
    )
    plan = PairPlan(lengths, torch.tensor(lengths), "local", segment_index(images, device), pairs.key_mask(), streams)
    return streams, plan


def _double_mask(pairs: Pairs, index: list[int], image_tokens: int) -> dict[str, Tensor] | None:
    """Attention mask [batch, 1, 1, T + h·w] of one bucket; None when all its tokens are real."""
    masks = [None if pairs.masks is None else pairs.masks[p] for p in index]
    if all(m is None for m in masks):
        return None
    shape = pairs.texts[index[0]].shape[:2]
    device = pairs.texts[index[0]].device
    full = [torch.ones(shape, dtype=torch.bool, device=device) if m is None else m for m in masks]
    text = torch.stack(full, 1).flatten(0, 1)
    image = torch.ones(text.shape[0], image_tokens, dtype=torch.bool, device=device)
    return {"attention_mask": torch.cat([text, image], 1)[:, None, None]}


def _joined_mask(pairs: Pairs, past: KVCache | None) -> Tensor | None:
    """Key mask over cache and pairs; None when every key is real."""
    own = pairs.key_mask()
    if past is None:
        return own
    if own is None and past.mask is None:
        return None
    batch = pairs.latents[0].shape[0]
    device = pairs.latents[0].device
    if own is None:
        tokens = sum(t.shape[1] + x.shape[1] for t, x in zip(pairs.texts, pairs.latents, strict=True))
        own = torch.ones(batch, tokens, dtype=torch.bool, device=device)
    return torch.cat([past.key_mask(batch, device), own], 1)
