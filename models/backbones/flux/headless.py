"""Captain Cinema on diffusers' Flux: interleaved pairs, hybrid attention, per-frame timesteps, key/value cache.

`CaptainFlux` has the stock state dict and the stock forward; `forward_pairs` is what it adds (Captain Cinema §3.2):
double-stream blocks see each pair alone (equal shapes run as one batch), single-stream blocks see all pairs, with a
full or a causal-by-pair mask that is never built as a matrix.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import (
    FluxAttnProcessor,
    FluxSingleTransformerBlock,
    _get_qkv_projections,
)
from torch import Tensor

from ....kernels.launch import chosen
from ....kernels.modulation import segment_gate_residual, segment_norm_modulate
from ....kernels.rotary import qk_norm_rope, takes
from ...layouts.pairs import KVCache, Mode, Pairs, buckets, causal_spans, pair_ids, segment_index

__all__ = ["CaptainFlux", "KVCache", "Mode", "PairAttnProcessor", "PairSingleBlock", "Pairs"]


@dataclass
class _Plan:
    """What the single-stream blocks of one forward need to know."""

    lengths: list[int]
    mode: Mode
    segments: Tensor
    mask: Tensor | None
    past: KVCache | None = None
    store: KVCache | None = None


class PairAttnProcessor(FluxAttnProcessor):
    """Flux attention over packed pairs: full, causal by pair or local, with cached context in front."""

    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        plan: _Plan | None = None,
        layer: int = 0,
    ) -> Any:
        if plan is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        q, k, v, *_ = _get_qkv_projections(attn, hidden_states, None)
        q, k, v = (x.unflatten(-1, (-1, attn.head_dim)) for x in (q, k, v))
        if takes(q, attn.norm_q, attn.norm_k):
            table = (image_rotary_emb[0][:, ::2], image_rotary_emb[1][:, ::2])
            q, k = qk_norm_rope(q, k, attn.norm_q.weight, attn.norm_k.weight, table, eps=attn.norm_q.eps)
        else:
            q = apply_rotary_emb(attn.norm_q(q), image_rotary_emb, sequence_dim=1).to(v.dtype)
            k = apply_rotary_emb(attn.norm_k(k), image_rotary_emb, sequence_dim=1).to(v.dtype)
        if plan.store is not None:
            plan.store.keys.append(k)
            plan.store.values.append(v)
        before, mask = 0, plan.mask
        if plan.past is not None:
            before = plan.past.tokens
            k, v = plan.past.before(layer, k, v)
        out = []
        for start, end in [(0, q.shape[1])] if plan.mode == "full" else causal_spans(plan.lengths):
            first = before + start if plan.mode == "local" else 0
            out.append(self._attend(q[:, start:end], k, v, mask, first, before + end))
        return torch.cat(out, 1).flatten(2, 3).to(hidden_states.dtype)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, first: int, last: int) -> Tensor:
        return dispatch_attention_fn(
            q,
            k[:, first:last],
            v[:, first:last],
            attn_mask=None if mask is None else mask[:, None, None, first:last],
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )


class PairSingleBlock(FluxSingleTransformerBlock):
    """Single-stream block whose modulation is gathered per pair (every frame has its own timestep)."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        temb: Tensor | None = None,
        image_rotary_emb: Any = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        plan: _Plan | None = None,
        layer: int = 0,
    ) -> Any:
        if plan is None:
            return super().forward(hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs)
        shift, scale, gate = self.norm.linear(self.norm.silu(temb)).chunk(3, -1)
        fused = chosen(hidden_states)
        if fused:
            x = segment_norm_modulate(hidden_states, scale, shift, plan.segments, eps=self.norm.norm.eps)
        else:  # in the model's precision, as the stock block
            x = self.norm.norm(hidden_states) * (1 + scale[:, plan.segments]) + shift[:, plan.segments]
        attended = self.attn(hidden_states=x, image_rotary_emb=image_rotary_emb, plan=plan, layer=layer)
        mlp = self.act_mlp(self.proj_mlp(x))
        update = self.proj_out(torch.cat([attended, mlp], 2))
        if fused:
            out = segment_gate_residual(hidden_states, update, gate, plan.segments)
        else:
            out = hidden_states + gate[:, plan.segments] * update
        return out.clip(-65504, 65504) if out.dtype == torch.float16 else out


class CaptainFlux(FluxTransformer2DModel):
    """FluxTransformer2DModel that also runs interleaved pairs; same config, same state dict, stock
    forward inherited.
    """

    _no_split_modules = ["FluxTransformerBlock", "PairSingleBlock"]
    _repeated_blocks = ["FluxTransformerBlock", "PairSingleBlock"]

    # without `wraps` diffusers' config machinery would see (*args, **kwargs) and drop the whole config
    @functools.wraps(FluxTransformer2DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.adopt(self)

    @staticmethod
    def adopt(model: FluxTransformer2DModel) -> CaptainFlux:
        """Turn a loaded stock model (quantised or with LoRA, too) into a CaptainFlux, in place."""
        model.__class__ = CaptainFlux
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

    def encode_context(self, pairs: Pairs, mode: Mode = "causal") -> KVCache:
        """Keys and values of context pairs, to be given to `forward_pairs` at every step."""
        store = KVCache(mask=pairs.key_mask())
        self(pairs={"pairs": pairs, "mode": mode, "store": store})
        return store

    def _forward_pairs(
        self, pairs: Pairs, mode: Mode = "full", past: KVCache | None = None, store: KVCache | None = None
    ) -> list[Tensor]:
        temb = self._embed_time(pairs)
        parts = self._double_blocks(pairs, temb)
        lengths = [p.shape[1] for p in parts]
        device = parts[0].device
        plan = _Plan(lengths, mode, segment_index(lengths, device), _joined_mask(pairs, past), past, store)
        rope = self.pos_embed(torch.cat([pairs.ids(p, device) for p in range(len(pairs))]))
        hidden = torch.cat(parts, 1)
        run = self._runner()
        for layer, block in enumerate(self.single_transformer_blocks):
            hidden = run(block, hidden, None, temb, rope, None, plan, layer)
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

    def _double_blocks(self, pairs: Pairs, temb: Tensor) -> list[Tensor]:
        """Local blocks: pairs of one shape are rows of one batch, so the block-diagonal mask costs nothing."""
        parts: list[Any] = [None] * len(pairs)
        run = self._runner()
        for (h, w, length), index in buckets(pairs.sizes, [t.shape[1] for t in pairs.texts]).items():
            image = torch.stack([self.x_embedder(pairs.latents[p]) for p in index], 1).flatten(0, 1)
            text = torch.stack([self.context_embedder(pairs.texts[p]) for p in index], 1).flatten(0, 1)
            rope = self.pos_embed(pair_ids(length, (h, w), 0, pairs.reference, image.device))
            kwargs = _double_mask(pairs, index, h * w)
            modulation = torch.stack([temb[:, p] for p in index], 1).flatten(0, 1)
            for block in self.transformer_blocks:
                text, image = run(block, image, text, modulation, rope, kwargs)
            joined = torch.cat([text, image], 1).unflatten(0, (-1, len(index)))
            for j, p in enumerate(index):
                parts[p] = joined[:, j]
        return parts


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
