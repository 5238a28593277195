"""The blocks of diffusers' Flux over packed pairs (Captain Cinema §3.2): all pairs of a row lie one after the other.

Every block has its stock forward, and computes pairs when it is given a `PairPlan`. Rows of different lengths are not
padded and not computed one at a time: matrix products see all tokens at once, only attention goes from pair to pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import (
    FluxAttnProcessor,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
    _get_qkv_projections,
)
from torch import Tensor, nn

from ....kernels.launch import chosen
from ....kernels.modulation import segment_gate_residual, segment_norm_modulate
from ....kernels.pair_attention import Cache
from ....kernels.rotary import qk_norm_rope, takes
from ...layouts.pair_cache import KVCache, write
from ...layouts.pairs import Mode
from .attend_pairs import attend_pairs

__all__ = ["PairAttnProcessor", "PairDoubleBlock", "PairPlan", "PairSingleBlock", "Streams"]


class Streams(NamedTuple):
    """Where text and image tokens of double blocks stand, which are two rows there.

    Attributes:
        text_segments: the pair that a text token belongs to.
        order: of each token of the packed row its place among all text tokens followed by all image tokens.
        text_at, image_at: the inverse, where text and image tokens stand in the packed row.
    """

    text_segments: Tensor
    order: Tensor
    text_at: Tensor
    image_at: Tensor


@dataclass
class PairPlan:
    """How the pairs of a row lie, the same for all blocks of a kind.

    Attributes:
        lengths: tokens of every pair.
        counted: the same as int64 [P] on the CPU, for compiled blocks: other lengths are no other graph.
        mode: which pairs a pair sees.
        segments: [L], the pair that a token belongs to (single blocks, and double blocks' image tokens).
        mask: bool [B, keys], which keys are real, cached ones first; None: all.
        streams: of double blocks.
        grown: takes keys and values where they need gradients; otherwise they are written in place.
    """

    lengths: list[int]
    counted: Tensor
    mode: Mode
    segments: Tensor
    mask: Tensor | None = None
    streams: Streams | None = None
    grown: KVCache | None = None


class PairAttnProcessor(FluxAttnProcessor):
    """Flux attention over packed pairs: full, causal by pair or local, with cached context in front."""

    def __call__(  # type: ignore[override]
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        plan: PairPlan | None = None,
        past: Cache | None = None,
        store: Cache | None = None,
    ) -> Any:
        if plan is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        q, k, v, *text = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        q, k, v = (x.unflatten(-1, (-1, attn.head_dim)) for x in (q, k, v))
        if plan.streams is not None:
            more = [x.unflatten(-1, (-1, attn.head_dim)) for x in text]
            q, k = attn.norm_q(q), attn.norm_k(k)
            more[0], more[1] = attn.norm_added_q(more[0]), attn.norm_added_k(more[1])
            joint = (
                torch.cat(both, 1).index_select(1, plan.streams.order) for both in zip(more, (q, k, v), strict=True)
            )
            q, k, v = joint
            q = apply_rotary_emb(q, image_rotary_emb, sequence_dim=1)
            k = apply_rotary_emb(k, image_rotary_emb, sequence_dim=1)
        elif takes(q, attn.norm_q, attn.norm_k):
            table = (image_rotary_emb[0][:, ::2], image_rotary_emb[1][:, ::2])
            q, k = qk_norm_rope(q, k, attn.norm_q.weight, attn.norm_k.weight, table, eps=attn.norm_q.eps)
        else:
            q = apply_rotary_emb(attn.norm_q(q), image_rotary_emb, sequence_dim=1).to(v.dtype)
            k = apply_rotary_emb(attn.norm_k(k), image_rotary_emb, sequence_dim=1).to(v.dtype)
        if store is not None:
            write(store, k, v)
        elif plan.grown is not None:
            plan.grown.keys.append(k)
            plan.grown.values.append(v)
        out = attend_pairs(
            q, k, v, plan.lengths, plan.counted, plan.mode, past, plan.mask, self._attention_backend,
            self._parallel_config,
        )  # fmt: skip
        out = out.flatten(2, 3).to(hidden_states.dtype)
        if plan.streams is None:
            return out
        image = attn.to_out[1](attn.to_out[0](out.index_select(1, plan.streams.image_at)))
        return image, attn.to_add_out(out.index_select(1, plan.streams.text_at))


class PairDoubleBlock(FluxTransformerBlock):
    """Double-stream block over packed pairs: a pair's text and picture see each other and no other pair."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: Any = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        plan: PairPlan | None = None,
    ) -> Any:
        """With a plan: all image tokens [B, ΣI, d], all text tokens [B, ΣT, d], modulation vectors [B, P, d]."""
        if plan is None or plan.streams is None:
            return super().forward(hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs)
        image, text = hidden_states, encoder_hidden_states
        at_image, at_text = plan.segments, plan.streams.text_segments
        shift, scale, gate, *of_image = self.norm1.linear(self.norm1.silu(temb)).chunk(6, -1)
        c_shift, c_scale, c_gate, *of_text = self.norm1_context.linear(self.norm1_context.silu(temb)).chunk(6, -1)
        attended, c_attended = self.attn(
            hidden_states=_modulated(self.norm1.norm, image, scale, shift, at_image),
            encoder_hidden_states=_modulated(self.norm1_context.norm, text, c_scale, c_shift, at_text),
            image_rotary_emb=image_rotary_emb,
            plan=plan,
        )
        image = _gated(image, attended, gate, at_image)
        text = _gated(text, c_attended, c_gate, at_text)
        shift, scale, gate = of_image
        image = _gated(image, self.ff(_modulated(self.norm2, image, scale, shift, at_image)), gate, at_image)
        shift, scale, gate = of_text
        update = self.ff_context(_modulated(self.norm2_context, text, scale, shift, at_text))
        text = _gated(text, update, gate, at_text)
        return text.clip(-65504, 65504) if text.dtype == torch.float16 else text, image


class PairSingleBlock(FluxSingleTransformerBlock):
    """Single-stream block whose modulation is gathered per pair (every frame has its own timestep)."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        temb: Tensor | None = None,
        image_rotary_emb: Any = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        plan: PairPlan | None = None,
        past: Cache | None = None,
        store: Cache | None = None,
    ) -> Any:
        """With a plan: all tokens [B, L, d], modulation vectors [B, P, d]; `past` are the cached keys and values of
        this block, `store` is where it writes its own.
        """
        if plan is None:
            return super().forward(hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs)
        shift, scale, gate = self.norm.linear(self.norm.silu(temb)).chunk(3, -1)
        x = _modulated(self.norm.norm, hidden_states, scale, shift, plan.segments)
        attended = self.attn(hidden_states=x, image_rotary_emb=image_rotary_emb, plan=plan, past=past, store=store)
        mlp = self.act_mlp(self.proj_mlp(x))
        update = self.proj_out(torch.cat([attended, mlp], 2))
        out = _gated(hidden_states, update, gate, plan.segments)
        return out.clip(-65504, 65504) if out.dtype == torch.float16 else out


def _modulated(norm: nn.LayerNorm, x: Tensor, scale: Tensor, shift: Tensor, segments: Tensor) -> Tensor:
    if chosen(x):
        return segment_norm_modulate(x, scale, shift, segments, eps=norm.eps)
    # in the model's precision, as the stock block
    return norm(x) * (1 + scale[:, segments]) + shift[:, segments]


def _gated(x: Tensor, update: Tensor, gate: Tensor, segments: Tensor) -> Tensor:
    if chosen(x):
        return segment_gate_residual(x, update, gate, segments)
    return x + gate[:, segments] * update
