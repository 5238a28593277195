"""Captain Cinema's hybrid attention run on the blocks of ComfyUI's own Flux (§3.2), without importing ComfyUI.

The counterpart of `CaptainFlux._forward_pairs`: every block is called as the stock forward calls it, so what has been
done to its weights (LoRA, fp8, GGUF, offload) stays in force; only what is put together, and which keys a query sees,
differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...layouts.pair_cache import KVCache
from ...layouts.pairs import Mode, Pairs, buckets, causal_spans, pair_ids

__all__ = ["ContextCaches", "run_pairs"]

Options = dict[str, Any]
"""ComfyUI's `transformer_options`."""

OVERRIDE = "optimized_attention_override"


def run_pairs(
    flux: Any,
    pairs: Pairs,
    vec: Tensor,
    options: Options,
    mode: Mode = "full",
    past: KVCache | None = None,
    store: KVCache | None = None,
) -> list[Tensor]:
    """Velocity of every pair, or with `store` the keys and values of every single-stream block.

    Args:
        flux: `comfy.ldm.flux.model.Flux`.
        pairs: the pairs in the order of the sequence; captions of any lengths, all tokens seen (no masks).
        vec: modulation vectors [B, P, d], one per pair.
        options: `transformer_options` of the call.
        mode: ``full``, ``causal`` or ``local``.
        past: keys and values of context that comes before.
        store: filled instead of computing velocities.

    Returns:
        P tensors [B, h·w, C]; none with `store`.
    """
    parts = _double_blocks(flux, pairs, vec, options)
    hidden = torch.cat(parts, 1)
    if hidden.dtype == torch.float16:  # as the stock forward does between the two kinds of blocks
        hidden = torch.nan_to_num(hidden, nan=0.0, posinf=65504, neginf=-65504)
    spans = causal_spans([part.shape[1] for part in parts])
    ids = torch.cat([pairs.ids(p, hidden.device) for p in range(len(pairs))])
    rope = _rope(flux, ids, hidden.shape[0])
    # One pair is the stock call; of several, each segment takes its own row of `vec`.
    modulation: dict[str, Any] = {"vec": vec[:, 0]}
    if len(pairs) > 1:
        modulation = {"vec": vec, "modulation_dims": [(start, end, p) for p, (start, end) in enumerate(spans)]}
    options = options | {"block_type": "single", "total_blocks": len(flux.single_blocks)}
    for layer, block in enumerate(flux.single_blocks):
        attention = _Attention(spans, mode, layer, past, store, options.get(OVERRIDE))
        hidden = block(
            hidden,
            pe=rope,
            attn_mask=None,
            transformer_options=options | {"block_index": layer, OVERRIDE: attention},
            **modulation,
        )
    if store is not None:
        return []
    out = []
    for p, (start, end) in enumerate(spans):
        out.append(flux.final_layer(hidden[:, start + pairs.texts[p].shape[1] : end], vec[:, p]))
    return out


def _double_blocks(flux: Any, pairs: Pairs, vec: Tensor, options: Options) -> list[Tensor]:
    """Local blocks: pairs of one shape are rows of one batch, so the block-diagonal mask costs nothing."""
    parts: list[Any] = [None] * len(pairs)
    options = options | {"block_type": "double", "total_blocks": len(flux.double_blocks)}
    for (h, w, length), index in buckets(pairs.sizes, [t.shape[1] for t in pairs.texts]).items():
        image = flux.img_in(torch.stack([pairs.latents[p] for p in index], 1).flatten(0, 1))
        text = torch.stack([pairs.texts[p] for p in index], 1).flatten(0, 1)
        if getattr(flux, "txt_norm", None) is not None:
            text = flux.txt_norm(text)
        text = flux.txt_in(text)
        rope = _rope(flux, pair_ids(length, (h, w), 0, pairs.reference, image.device), image.shape[0])
        rows = vec[:, index].flatten(0, 1)
        for layer, block in enumerate(flux.double_blocks):
            here = options | {"block_index": layer}
            image, text = block(img=image, txt=text, vec=rows, pe=rope, attn_mask=None, transformer_options=here)
        joined = torch.cat([text, image], 1).unflatten(0, (-1, len(index)))
        for j, p in enumerate(index):
            parts[p] = joined[:, j]
    return parts


def _rope(flux: Any, ids: Tensor, rows: int) -> Tensor:
    """Rotations for [L, 3] ids, once per batch row: the stock forward never leaves that to broadcasting either."""
    return flux.pe_embedder(ids.expand(rows, -1, -1))


@dataclass
class _Attention:
    """ComfyUI's attention override of one single-stream block: which keys, cached ones in front, each pair sees.

    It is called after RoPE with q, k, v [B, heads, L, d] and gives [B, L, heads·d]. No L×L mask is ever built.
    """

    spans: list[tuple[int, int]]
    mode: Mode
    layer: int
    past: KVCache | None
    store: KVCache | None
    outer: Callable[..., Tensor] | None
    """Someone else's override (another attention kernel, say), which still does the computing."""

    def __call__(self, func: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
        attend = func if self.outer is None else partial(self.outer, func)
        if self.store is not None:
            # v is a view into the projection that also holds q, k and the MLP's input: keep the values only
            self.store.keys.append(k.transpose(1, 2).contiguous())
            self.store.values.append(v.transpose(1, 2).contiguous())
        before = 0
        if self.past is not None:
            before = self.past.tokens
            k, v = (x.transpose(1, 2) for x in self.past.before(self.layer, k.transpose(1, 2), v.transpose(1, 2)))
        out = []
        for start, end in [(0, q.shape[2])] if self.mode == "full" else self.spans:
            first, last = (before + start if self.mode == "local" else 0), before + end
            out.append(attend(q[:, :, start:end], k[:, :, first:last], v[:, :, first:last], *args, **kwargs))
        return out[0] if len(out) == 1 else torch.cat(out, 1)


@dataclass
class _Entry:
    inputs: list[Tensor]
    cache: KVCache


@dataclass
class ContextCaches:
    """The context's keys and values during ONE sampling run, by the conditionings that they belong to.

    ComfyUI runs positive and negative as rows of one batch or one after the other, as memory allows, and may change
    its mind between two steps; an entry is dropped as soon as one of its conditionings is cached in another company.
    """

    entries: dict[tuple[Any, ...], _Entry] = field(default_factory=dict)

    def get(self, key: tuple[Any, ...], inputs: list[Tensor], encode: Callable[[], KVCache]) -> KVCache:
        """The cache of `key`, computed by `encode` unless what it was computed from is still the same.

        Args:
            key: the uuids of the call's conditionings, then the device.
            inputs: all that the cache depends on, weights excepted. They are compared, because samplers, guiders and
                other nodes may change what should be constant.
            encode: computes the cache.
        """
        entry = self.entries.get(key)
        if entry is not None and len(entry.inputs) == len(inputs):
            if all(torch.equal(a, b) for a, b in zip(entry.inputs, inputs, strict=True)):
                return entry.cache
        for other in [other for other in self.entries if set(other[:-1]) & set(key[:-1])]:
            del self.entries[other]
        self.entries[key] = _Entry(inputs, encode())
        return self.entries[key].cache

    def clear(self) -> None:
        """Release everything."""
        self.entries.clear()
