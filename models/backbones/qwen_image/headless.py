"""STAGE on diffusers' Qwen-Image: a start and an end frame predicted together, beside remembered frames (STAGE §4.1).

`PairQwen` has the stock state dict and the stock forward; `forward_segments` is what it adds: every image of the
sequence has positions and a noise level of its own, and rows of a batch may remember different numbers of frames.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_qwenimage import (
    QwenDoubleStreamAttnProcessor2_0,
    QwenImageTransformerBlock,
    apply_rotary_emb_qwen,
)
from diffusers.utils import apply_lora_scale
from torch import Tensor

from ....core.errors import InputError
from ...layouts.start_end import ReferenceTimestep, Segment, text_ids, text_start

__all__ = ["PairQwen", "PairQwenBlock", "SegmentAttnProcessor", "rope_table"]

_THETA = 10000
_TABLES_KEPT = 32
"""More than the layouts of one training run."""

Rope = tuple[Tensor, Tensor]


def rope_table(ids: Tensor, axes: Sequence[int]) -> Tensor:
    """Rotary factors of positions `[N, 3]` on three axes of so many dimensions: complex `[N, sum(axes)/2]`.

    Equal to diffusers' tables, which end at 4096; these do not.
    """
    parts = []
    for axis, dim in enumerate(axes):
        frequencies = 1.0 / torch.pow(_THETA, torch.arange(0, dim, 2).to(torch.float32).div(dim))
        angles = torch.outer(ids[:, axis].cpu().to(torch.float32), frequencies)
        parts.append(torch.polar(torch.ones_like(angles), angles))
    return torch.cat(parts, 1)


class SegmentAttnProcessor(QwenDoubleStreamAttnProcessor2_0):
    """Qwen-Image's joint attention, in which image tokens may be masked, too."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        encoder_hidden_states_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        joint_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`joint_mask`: bool `[B, T + N]`, True for tokens that are there; without it this is the stock processor."""
        if joint_mask is None or encoder_hidden_states is None:
            return super().__call__(
                attn,
                hidden_states,
                encoder_hidden_states,
                encoder_hidden_states_mask,
                attention_mask,
                image_rotary_emb,
            )
        text_length, size = encoder_hidden_states.shape[1], attn.inner_dim // attn.heads

        def heads(x: Tensor, norm: Any = None, freqs: Tensor | None = None) -> Tensor:
            x = x.unflatten(-1, (-1, size))
            x = x if norm is None else norm(x)
            return x if freqs is None else apply_rotary_emb_qwen(x, freqs, use_real=False)

        image_freqs, text_freqs = image_rotary_emb
        text = encoder_hidden_states
        q = [heads(attn.add_q_proj(text), attn.norm_added_q, text_freqs)]
        k = [heads(attn.add_k_proj(text), attn.norm_added_k, text_freqs)]
        v = [heads(attn.add_v_proj(text)), heads(attn.to_v(hidden_states))]
        q.append(heads(attn.to_q(hidden_states), attn.norm_q, image_freqs))
        k.append(heads(attn.to_k(hidden_states), attn.norm_k, image_freqs))
        joint = dispatch_attention_fn(
            torch.cat(q, 1),
            torch.cat(k, 1),
            torch.cat(v, 1),
            attn_mask=joint_mask[:, None, None],
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )
        joint = joint.flatten(2, 3).to(q[0].dtype)
        image = attn.to_out[1](attn.to_out[0](joint[:, text_length:].contiguous()))
        return image, attn.to_add_out(joint[:, :text_length].contiguous())


class PairQwenBlock(QwenImageTransformerBlock):
    """Qwen-Image's block in which the last image tokens may be modulated at another t than the first.

    The stock block can do that as well (`zero_cond_t`), but ties it to the first image of `img_shapes` and writes out
    the modulation of every token.
    """

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_mask: Tensor | None,
        temb: Tensor,
        image_rotary_emb: Any = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        modulate_index: Any = None,
        noisy: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """`noisy`: number of leading image tokens at the t of `temb[:B]`; `temb[B:]` is for the rest, if any."""
        if noisy is None:
            return super().forward(
                hidden_states,
                encoder_hidden_states,
                encoder_hidden_states_mask,
                temb,
                image_rotary_emb,
                joint_attention_kwargs,
                modulate_index,
            )
        rows = hidden_states.shape[0]
        lengths = [noisy, hidden_states.shape[1] - noisy] if temb.shape[0] > rows else [hidden_states.shape[1]]
        first, second = self.img_mod(temb).chunk(2, -1)
        text_first, text_second = self.txt_mod(temb[:rows]).chunk(2, -1)
        image, text = hidden_states, encoder_hidden_states
        whole = [text.shape[1]]

        image_out, text_out = self.attn(
            hidden_states=_modulated(self.img_norm1(image), first, lengths),
            encoder_hidden_states=_modulated(self.txt_norm1(text), text_first, whole),
            image_rotary_emb=image_rotary_emb,
            **(joint_attention_kwargs or {}),
        )
        image = _gated(image, image_out, first, lengths)
        text = _gated(text, text_out, text_first, whole)
        image_out = self.img_mlp(_modulated(self.img_norm2(image), second, lengths))
        text_out = self.txt_mlp(_modulated(self.txt_norm2(text), text_second, whole))
        image = _gated(image, image_out, second, lengths)
        text = _gated(text, text_out, text_second, whole)
        if image.dtype == torch.float16:
            image, text = image.clip(-65504, 65504), text.clip(-65504, 65504)
        return text, image


def _modulated(x: Tensor, modulation: Tensor, lengths: list[int]) -> Tensor:
    """x·(1 + scale) + shift, with a row of `modulation` `[runs·B, 3D]` for every run of so many tokens."""
    runs = modulation[:, None].chunk(len(lengths))
    parts = []
    for part, run in zip(x.split(lengths, 1), runs, strict=True):
        shift, scale, _ = run.chunk(3, -1)
        parts.append(part * (1 + scale) + shift)
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _gated(x: Tensor, update: Tensor, modulation: Tensor, lengths: list[int]) -> Tensor:
    """x + gate·update, with gates as in `_modulated`."""
    gates = [run.chunk(3, -1)[2] for run in modulation[:, None].chunk(len(lengths))]
    parts = [gate * part for gate, part in zip(gates, update.split(lengths, 1), strict=True)]
    return x + (parts[0] if len(parts) == 1 else torch.cat(parts, 1))


class PairQwen(QwenImageTransformer2DModel):
    """QwenImageTransformer2DModel that also runs segments; same config, same state dict, stock forward inherited."""

    _no_split_modules = ["PairQwenBlock"]
    _repeated_blocks = ["PairQwenBlock"]

    # Without the stock signature, diffusers would find no arguments to read from a config and drop it whole.
    @functools.wraps(QwenImageTransformer2DModel.__init__)  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _swap_classes(self)

    @classmethod
    def adopt(cls, model: QwenImageTransformer2DModel) -> PairQwen:
        """Turn a loaded stock model (quantised or with LoRA, too) into a `PairQwen`, in place.

        Raises:
            InputError: another class, or a layered model: its sequence is laid out in another way.
        """
        if isinstance(model, cls):
            return model
        if type(model) is not QwenImageTransformer2DModel:
            fix = "give the QwenImageTransformer2DModel itself, before compiling or sharding it"
            raise InputError("model", "must be a QwenImageTransformer2DModel", type(model).__name__, fix)
        for name in ("use_additional_t_cond", "use_layer3d_rope"):
            if model.config.get(name):
                fix = "use Qwen-Image-Edit's transformer"
                raise InputError("model", f"must be trained without {name}", True, fix)
        model.__class__ = cls
        _swap_classes(model)
        return cast("PairQwen", model)

    def forward(  # type: ignore[override]
        self, hidden_states: Any = None, *args: Any, segments: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """The stock forward, or `forward_segments` when `segments` holds its arguments (so hooks and wrappers see one
        call).
        """
        if segments is None:
            return super().forward(hidden_states, *args, **kwargs)
        return self._forward_segments(**segments)

    def forward_segments(
        self,
        segments: Sequence[Segment],
        prompt_embeds: Tensor,
        prompt_mask: Tensor | None,
        timestep: Tensor,
        image_mask: Tensor | None = None,
        *,
        reference_timestep: ReferenceTimestep | None = None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> list[Tensor]:
        """Velocity of every noisy segment (STAGE §4.1).

        Args:
            segments: images in any order, at least one of them noisy; tokens `[B, n, C]`.
            prompt_embeds: `[B, T, D]`.
            prompt_mask: bool `[B, T]`, True for tokens that are there; None: all are.
            timestep: `[B]` in 0…1, kept in fp32: bf16 would move t by up to 0.003.
            image_mask: bool `[B, N]` over the tokens of all segments in the given order; None: all are there.
            reference_timestep: t of clean segments, ``zero`` or ``shared``; None: as the model's config says.
            attention_kwargs: `scale` of a LoRA, as in diffusers.

        Returns:
            v = noise − data, `[B, n, C]` for each noisy segment, in their order.

        Raises:
            InputError: no noisy segment.
        """
        return self(
            segments={
                "segments": segments,
                "prompt_embeds": prompt_embeds,
                "prompt_mask": prompt_mask,
                "timestep": timestep,
                "image_mask": image_mask,
                "reference_timestep": reference_timestep,
                "attention_kwargs": attention_kwargs,
            }
        )

    @apply_lora_scale("attention_kwargs")
    def _forward_segments(
        self,
        segments: Sequence[Segment],
        prompt_embeds: Tensor,
        prompt_mask: Tensor | None,
        timestep: Tensor,
        image_mask: Tensor | None,
        reference_timestep: ReferenceTimestep | None,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> list[Tensor]:
        # Noisy ones first, so that a run of tokens has one t; attention does not care for the order.
        order = sorted(range(len(segments)), key=lambda i: segments[i].clean)
        ordered = [segments[i] for i in order]
        lengths = [s.tokens.shape[1] for s in ordered if not s.clean]
        if not lengths:
            fix = "give a start or an end frame with noise"
            raise InputError("segments", "must have at least one noisy segment", len(segments), fix)
        noisy = sum(lengths)

        image = self.img_in(torch.cat([s.tokens for s in ordered], 1))
        text = self.txt_in(self.txt_norm(prompt_embeds))
        times = timestep.float()
        if noisy < image.shape[1] and self._clean_time(reference_timestep) == "zero":
            times = torch.cat([times, torch.zeros_like(times)])
        temb = self.time_text_embed(times, image)
        rope = self._rope([s.ids for s in ordered], text.shape[1], image.device)
        if image_mask is not None:
            parts = image_mask.split([s.tokens.shape[1] for s in segments], 1)
            image_mask = torch.cat([parts[i] for i in order], 1)
        mask = _joint_mask(text, prompt_mask, image, image_mask)
        attention = {} if mask is None else {"joint_mask": mask}

        run: Callable[..., tuple[Tensor, Tensor]] = lambda block, *args: block(*args)  # noqa: E731
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            run = self._gradient_checkpointing_func
        for block in self.transformer_blocks:
            text, image = run(block, image, text, None, temb, rope, attention, None, noisy)

        out = self.proj_out(self.norm_out(image[:, :noisy], temb[: image.shape[0]]))
        return list(out.split(lengths, 1))

    def _clean_time(self, wanted: ReferenceTimestep | None) -> ReferenceTimestep:
        if wanted not in (None, "zero", "shared"):
            raise InputError("reference_timestep", "must be zero or shared", wanted, "choose one of them")
        return wanted or ("zero" if self.config.zero_cond_t else "shared")

    def _rope(self, ids: list[Tensor], text_length: int, device: torch.device) -> Rope:
        """Rotary factors of the images and of the text. The few tables that are kept serve all steps of a run."""
        ids = [places.cpu() for places in ids]  # waits for a GPU where they lie there
        together = torch.cat(ids)
        key = (together.numpy().tobytes(), together.dtype, text_length, device)
        # Not set up in __init__: loaded models become this class by a class swap, without one.
        tables: OrderedDict[Any, Rope] = self.__dict__.setdefault("_tables", OrderedDict())
        if (found := tables.get(key)) is None:
            axes = self.config.axes_dims_rope
            text = text_ids(text_length, text_start(ids))
            found = tables[key] = (rope_table(together, axes).to(device), rope_table(text, axes).to(device))
            while len(tables) > _TABLES_KEPT:
                tables.popitem(last=False)
        return found


def _joint_mask(text: Tensor, text_mask: Tensor | None, image: Tensor, image_mask: Tensor | None) -> Tensor | None:
    """Bool `[B, T + N]`, text first; None where every token is there, since masked attention is slower."""
    masks = []
    for x, mask in ((text, text_mask), (image, image_mask)):
        full = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        masks.append(full if mask is None else mask.to(x.device, torch.bool))
    if (text_mask is None and image_mask is None) or all(bool(m.all()) for m in masks):
        return None
    return torch.cat(masks, 1)


def _swap_classes(model: QwenImageTransformer2DModel) -> None:
    for block in model.transformer_blocks:
        block.__class__ = PairQwenBlock
        block.attn.set_processor(SegmentAttnProcessor())
