"""Wan's transformer with SmartDirector's conditioning (§3.2): a clean timestep per keyframe and MC-RoPE.

`DirectorWan` is the stock diffusers class with its rotary embedding and its blocks swapped and two arguments more.
Parameters and their names are the stock ones, and a call without the new arguments runs the stock code.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import (
    WanAttention,
    WanAttnProcessor,
    WanRotaryPosEmbed,
    WanTransformerBlock,
)
from diffusers.utils import apply_lora_scale
from einops import rearrange
from torch import Tensor

from ....core.errors import InputError
from ....kernels.modulation import segment_gate_residual, segment_norm_modulate
from ....kernels.rotary import qk_norm_rope, takes
from ...layouts.chunks import rope_table
from ...layouts.neighbourhood import Neighbourhood, attend_near

__all__ = ["NUM_TRAIN_TIMESTEPS", "DirectorWan", "DirectorWanBlock", "MCRope"]

NUM_TRAIN_TIMESTEPS = 1000
"""Wan's time embedding takes t · 1000."""

_TABLES_KEPT = 32
"""More than the layouts of one training run: a CUDA graph goes on reading the table that it was captured with."""


class MCRope(WanRotaryPosEmbed):
    """Wan's rotary embedding with a temporal index given per call (MC-RoPE, SmartDirector §3.2, Eq. 4).

    Same module and outputs as the stock class. A table depends on nothing but its key, so the few that are kept
    serve all steps of a run and two interleaved runs alike.
    """

    def forward(self, hidden_states: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`hidden_states` `[B, C, F, H, W]`, `index` `[F]` or `[B, F]` (None: 0, 1, 2, …) → cos, sin."""
        if index is None:
            return super().forward(hidden_states)
        _, _, _, height, width = hidden_states.shape
        _, ph, pw = self.patch_size
        key = (tuple(index.shape), tuple(index.flatten().tolist()), height // ph, width // pw, hidden_states.device)
        # Not set up in __init__: modules of loaded models become MCRope by a class swap, without one.
        tables: OrderedDict[Any, tuple[Tensor, Tensor]] = self.__dict__.setdefault("_tables", OrderedDict())
        if (found := tables.get(key)) is None:
            cos, sin = rope_table(index, height // ph, width // pw, (self.t_dim, self.h_dim, self.w_dim))
            found = tables[key] = (cos.to(hidden_states.device), sin.to(hidden_states.device))
            while len(tables) > _TABLES_KEPT:
                tables.popitem(last=False)
        return found


class DirectorWanBlock(WanTransformerBlock):
    """Wan's block whose modulation may come per segment of tokens, `temb` `[B, S, 6, D]`.

    The stock block wants one modulation per sample or per token; per token it holds [B, L, 6, D] in fp32, about 9 GB
    per block of the 14B model at 720p and 81 frames. A latent frame's tokens share their timestep, so S = F is enough.
    """

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: tuple[Tensor, Tensor],
        near: Neighbourhood | None = None,
    ) -> Tensor:
        """The stock block; `near` limits self-attention, and then `temb` must come per segment."""
        tokens = hidden_states.shape[1]
        if near is None and (temb.ndim != 4 or temb.shape[1] == tokens):
            return super().forward(hidden_states, encoder_hidden_states, temb, rotary_emb)
        modulation = self.scale_shift_table[None] + temb.float()  # [B, S, 6, D]
        shift, scale, gate, c_shift, c_scale, c_gate = modulation.unbind(2)
        x = segment_norm_modulate(hidden_states, scale, shift, eps=self.norm1.eps)
        if near is None and not _fuses(self.attn1, x):
            x = self.attn1(x, None, None, rotary_emb)
        else:
            x = _attend(self.attn1, x, rotary_emb, near)
        hidden_states = segment_gate_residual(hidden_states, x, gate)
        x = self.norm2(hidden_states.float()).type_as(hidden_states)
        hidden_states = hidden_states + self.attn2(x, encoder_hidden_states, None, None)
        x = segment_norm_modulate(hidden_states, c_scale, c_shift, eps=self.norm3.eps)
        return segment_gate_residual(hidden_states, self.ffn(x), c_gate)


def _fuses(attn: WanAttention, x: Tensor) -> bool:
    """Whether a kernel takes the norm and the rotary embedding of stock self-attention on one device."""
    stock = type(attn.processor) is WanAttnProcessor and attn.processor._parallel_config is None
    return stock and takes(x, attn.norm_q, attn.norm_k)


def _attend(attn: WanAttention, x: Tensor, rotary_emb: tuple[Tensor, Tensor], near: Neighbourhood | None) -> Tensor:
    """Self-attention of diffusers' `WanAttnProcessor`, within a neighbourhood or to all."""
    q, k, v = _queries_keys_values(attn, x)
    q, k, v = (each.unflatten(2, (attn.heads, -1)) for each in (q, k, v))
    cos, sin = rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]

    def turned(y: Tensor, norm: torch.nn.Module) -> Tensor:
        y = norm(y.flatten(2)).view_as(y)
        a, b = y.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).type_as(y)

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        backend = getattr(attn.processor, "_attention_backend", None)
        return cast(Tensor, dispatch_attention_fn(q, k, v, backend=backend))

    if takes(x, attn.norm_q, attn.norm_k):
        table = (cos.squeeze(2), sin.squeeze(2))
        q, k = qk_norm_rope(q, k, attn.norm_q.weight, attn.norm_k.weight, table, eps=attn.norm_q.eps)
    else:
        q, k = turned(q, attn.norm_q), turned(k, attn.norm_k)
    out = attention(q, k, v) if near is None else attend_near(attention, q, k, v, near)
    return cast(Tensor, attn.to_out[0](out.flatten(2, 3).type_as(q)))


def _queries_keys_values(attn: WanAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if attn.fused_projections:
        return attn.to_qkv(x).chunk(3, dim=-1)
    return attn.to_q(x), attn.to_k(x), attn.to_v(x)


class DirectorWan(WanTransformer3DModel):
    """diffusers' Wan transformer that takes keyframes (SmartDirector §3.2).

    Build or load it as the stock class (`from_pretrained`, `from_single_file`), or turn a loaded model into one with
    `adopt`. Everything a call needs comes with the call; nothing about a video stays on the module.
    """

    _no_split_modules = ["DirectorWanBlock"]
    _repeated_blocks = ["DirectorWanBlock"]

    # Without the stock signature, diffusers would find no arguments to read from a config and drop it whole.
    @functools.wraps(WanTransformer3DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _swap_classes(self)

    @classmethod
    def adopt(cls, model: WanTransformer3DModel) -> DirectorWan:
        """Turn a loaded stock model into a `DirectorWan` in place; weights, adapters and quantised layers stay.

        Raises:
            InputError: another class, or a model that offloading or sharding already took hold of: their hooks keep
                calling the stock code, so they have to come after.
        """
        if isinstance(model, cls):
            return model
        if type(model) is not WanTransformer3DModel:
            fix = "give the WanTransformer3DModel itself, before compiling or sharding it"
            raise InputError("model", "must be a WanTransformer3DModel", type(model).__name__, fix)
        swapped = {"model": model, "rope": model.rope, **{f"blocks.{i}": b for i, b in enumerate(model.blocks)}}
        hooked = [name for name, module in swapped.items() if "forward" in vars(module)]
        if hooked:
            raise InputError("model", "must be free of offloading hooks", hooked[0], "adopt first, then offload")
        model.__class__ = cls
        _swap_classes(model)
        return cast("DirectorWan", model)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | None,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        *,
        frame_timestep: Tensor | None = None,
        rope_index: Tensor | None = None,
        near: Neighbourhood | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """The stock forward with three arguments more.

        Args:
            frame_timestep: `[B, F]` in 0…1000, fp32, one per latent frame, in the place of `timestep`.
            rope_index: `[F]`, or `[B, F]` where the rows' chunks differ; temporal index of `mc_index`. Keep it on the
                CPU: reading it from a GPU would wait for the GPU at every step.
            near: which latent frames attend to which; None: all to all.
        """
        if frame_timestep is None and rope_index is None and near is None:
            return super().forward(
                hidden_states,
                timestep,
                encoder_hidden_states,
                encoder_hidden_states_image,
                return_dict=return_dict,
                attention_kwargs=attention_kwargs,
            )
        frames = hidden_states.shape[2]
        for name, value in (("frame_timestep", frame_timestep), ("rope_index", rope_index)):
            if value is not None and value.shape[-1] != frames:
                fix = "give one value per latent frame"
                raise InputError(name, f"must have {frames} latent frames", list(value.shape), fix)
        t = frame_timestep if frame_timestep is not None else timestep
        if t is None:
            raise InputError("timestep", "is needed without frame_timestep", None, "give one of the two")
        x = self._per_segment(
            hidden_states,
            t if t.ndim == 2 else t[:, None],
            encoder_hidden_states,
            encoder_hidden_states_image,
            rope_index,
            near,
            attention_kwargs=attention_kwargs,
        )
        return Transformer2DModelOutput(sample=x) if return_dict else (x,)

    def forward_chunks(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        rope_index: Tensor | None = None,
        near: Neighbourhood | None = None,
    ) -> Tensor:
        """Velocity of multi-chunk latents, in fp32.

        Args:
            latents: `[B, C, F, h, w]`, all chunks one after the other.
            timestep: `[B, F]` in 0…1, 0 at keyframes (`frame_timesteps`).
            text: `[B, T, D]`, padded as `pad_text` does.
            rope_index: `mc_index` of the chunks; None for the stock index.
            near: which latent frames attend to which; None: all to all.

        Returns:
            v = noise − data, shape of `latents`.
        """
        # t stays fp32 into the sinusoids: bf16 has steps of 4 near 1000.
        t: dict[str, Tensor] = {"frame_timestep": timestep.float() * NUM_TRAIN_TIMESTEPS}
        if getattr(self._parallel_config, "context_parallel_config", None) is not None:
            # Each device then holds a slice of the tokens that need not end with a frame; diffusers' plan cuts a
            # per-token `timestep` the same way.
            if near is not None:
                fix = "leave near out: the devices share the work already"
                raise InputError("near", "goes with one device for a video", "several devices", fix)
            tokens = latents.shape[3] * latents.shape[4] // (self.config.patch_size[1] * self.config.patch_size[2])
            t = {"timestep": t["frame_timestep"].repeat_interleave(tokens, dim=1)}
        t.setdefault("timestep", None)  # type: ignore[arg-type]
        dtype = self.dtype
        limits = {} if near is None else {"near": near}
        out = self(
            latents.to(dtype),
            encoder_hidden_states=text.to(dtype),
            rope_index=rope_index,
            return_dict=False,
            **t,
            **limits,
        )
        return cast(Tensor, out[0]).float()

    @apply_lora_scale("attention_kwargs")
    def _per_segment(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        text: Tensor,
        image: Tensor | None,
        rope_index: Tensor | None,
        near: Neighbourhood | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """Forward with `timestep` `[B, S]` for S equal runs of tokens: frames, single tokens, or all."""
        _, _, frames, height, width = hidden_states.shape
        pt, ph, pw = self.config.patch_size
        if pt != 1:
            raise InputError("patch_size", "must not merge latent frames", pt, "use a model with patch_size (1, …, …)")
        rope = self.rope(hidden_states, rope_index)
        x = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()
        segments = timestep.shape[1]
        temb, modulation, text, image = self.condition_embedder(
            timestep.flatten(), text, image, timestep_seq_len=segments
        )
        modulation = modulation.unflatten(2, (6, -1))
        if image is not None:
            text = torch.cat([image, text], dim=1)

        run: Callable[..., Tensor] = lambda block, *args: block(*args)  # noqa: E731
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            run = self._gradient_checkpointing_func
        for block in self.blocks:
            x = run(block, x, text, modulation, rope, near)

        shift, scale = (self.scale_shift_table[None].to(temb.device) + temb[:, :, None]).to(x.device).unbind(2)
        y = self.norm_out(x.float()).unflatten(1, (segments, -1)) * (1 + scale[:, :, None]) + shift[:, :, None]
        x = self.proj_out(y.flatten(1, 2).type_as(x))
        return rearrange(
            x,
            "b (f h w) (ph pw c) -> b c f (h ph) (w pw)",
            f=frames,
            h=height // ph,
            w=width // pw,
            ph=ph,
            pw=pw,
        )


def _swap_classes(model: WanTransformer3DModel) -> None:
    model.rope.__class__ = MCRope
    for block in model.blocks:
        block.__class__ = DirectorWanBlock
