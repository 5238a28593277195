"""Small models as ComfyUI's own objects: MODEL, VAE, CLIP and CLIP_VISION, ready for core nodes.

ComfyUI's model detection takes the published widths for granted; here the classes are built from the configurations
that the files carry, of any width. Weights are the files', scaled fp8 multiplied out. Small models compute in fp32.

LATENTs of these VAEs are already normalised by the statistics in the VAE's configuration, as everywhere outside
`models.encoders.vae`; so the MODELs' `process_latent_in` and `process_latent_out` change nothing.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import comfy.clip_vision
import comfy.latent_formats
import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.text_encoders.flux
import comfy.text_encoders.t5
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from ..core.errors import InputError
from ..models.encoders.latent_rgb import calibration_pictures, fit_latent_rgb
from ..models.encoders.prompt_text import literal
from ..models.encoders.tokenizer import TextTokenizer
from ..models.io.checkpoint import Checkpoint
from ..models.layouts.video_latents import NATIVE_SIZE
from ..story.timeline import TEMPORAL_STRIDE
from ..story.vocabulary import Vocabulary
from .native_files import Config, File, Words, flux_unet, open_clip, open_model, open_t5, wan_unet, wan_vae_arguments
from .world import HEIGHT, WIDTH

__all__ = [
    "PocketVAE",
    "load_clip_vision",
    "load_keyframe_clip",
    "load_keyframe_model",
    "load_retrieval_clip",
    "load_video_clip",
    "load_video_model",
    "load_video_vae",
    "preview_factors",
]

DTYPE = torch.float32


# --- MODEL


class _Latents(comfy.latent_formats.LatentFormat):
    """Normalised latents of a pocket VAE: nothing to scale; previews by a fitted linear map."""

    def __init__(self, channels: int, dimensions: int, previews: tuple[Tensor, Tensor] | None) -> None:
        self.scale_factor = 1.0
        self.latent_channels, self.latent_dimensions = channels, dimensions
        self.temporal_downscale_ratio = TEMPORAL_STRIDE if dimensions == 3 else 1
        if previews is not None:
            self.latent_rgb_factors, self.latent_rgb_factors_bias = (t.tolist() for t in previews)


def load_keyframe_model(path: File, shift: float = 1.0, previews: tuple[Tensor, Tensor] | None = None) -> ModelPatcher:
    """A Flux-class file in Black Forest Labs' names as MODEL.

    Args:
        path: safetensors with its configuration in the metadata.
        shift: of the noise schedule that core schedulers make.
        previews: of `preview_factors`.

    Raises:
        InputError: another kind of file, or broken weights.
    """
    checkpoint, state, config = open_model("flux", path)
    guided = bool(config["guidance_embeds"])
    model_config = (comfy.supported_models.Flux if guided else comfy.supported_models.FluxSchnell)(flux_unet(config))
    # FLUX.1-dev's schedule takes the logarithm of the shift, schnell's the shift itself.
    model_config.sampling_settings["shift"] = math.log(shift) if guided else shift
    return _model(model_config, _Latents(config["in_channels"] // 4, 2, previews), checkpoint, state)


def load_video_model(path: File, shift: float = 3.0, previews: tuple[Tensor, Tensor] | None = None) -> ModelPatcher:
    """A Wan-class text-to-video file in the original names as MODEL. Arguments and errors as `load_keyframe_model`."""
    checkpoint, state, config = open_model("wan", path)
    model_config = comfy.supported_models.WAN21_T2V(wan_unet(config))
    model_config.sampling_settings["shift"] = shift
    return _model(model_config, _Latents(config["out_channels"], 3, previews), checkpoint, state)


def _model(model_config: Any, latents: _Latents, checkpoint: Checkpoint, state: dict[str, Tensor]) -> ModelPatcher:
    model_config.latent_format = latents
    model_config.set_inference_dtype(DTYPE, None)
    model = model_config.get_model({}, "")
    own = model_config.process_unet_state_dict(state)
    _fill(model.diffusion_model, own, checkpoint)
    device, waiting = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    patcher = ModelPatcher(model, load_device=device, offload_device=waiting)
    patcher.set_attachments(NATIVE_SIZE, (HEIGHT, WIDTH))
    return patcher


def preview_factors(vae: PocketVAE) -> tuple[Tensor, Tensor]:
    """The linear map from latents to RGB in −1…1 that ComfyUI's previews draw with: factors `[C, 3]` and bias `[3]`.

    Fitted as headless, so that prompts are weighted alike in both.
    """
    shown = calibration_pictures(HEIGHT, WIDTH)
    fitted = fit_latent_rgb(vae.encode(shown.movedim(1, -1)).float().cpu(), shown)
    return fitted.factors * 2, fitted.bias * 2 - 1


# --- VAE


def _fits(values: Tensor, channels: int, field: str, what: str, fix: str) -> None:
    """Core's VAE nodes look at nothing, and torch would name no input."""
    if values.ndim not in (4, 5) or values.shape[1] != channels:
        rule = f"must be {what} [B, {channels}, H, W] or [B, {channels}, F, H, W], which the pocket studio's VAE reads"
        raise InputError(field, rule, tuple(values.shape), fix)


def _filled(values: Any, field: str) -> None:
    if not isinstance(values, Tensor) or not values.numel():
        seen = tuple(values.shape) if isinstance(values, Tensor) else f"a value of type {type(values).__name__}"
        raise InputError(field, "must not be empty", seen, "look at the node before")


class _Normalised(nn.Module):
    """In front of a Wan VAE class: latents in unit scale, and pictures `[B, 3, H, W]` besides clips."""

    latents_mean: Tensor
    latents_std: Tensor

    def set_statistics(self, config: Config) -> None:
        """Take mean and standard deviation per channel; they stay out of the state dict, whose names are public."""
        for name in ("latents_mean", "latents_std"):
            value = torch.tensor(config[name], dtype=DTYPE).view(1, -1, 1, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def encode(self, x: Tensor) -> Tensor:
        """`[B, 3, T, H, W]` or `[B, 3, H, W]` in −1…1 → normalised latents with as many dimensions."""
        _fits(x, 3, "pixels", "pictures", "connect pictures with three channels")
        z = super().encode(x if x.ndim == 5 else x[:, :, None])  # type: ignore[misc]
        z = (z - self.latents_mean.to(z)) / self.latents_std.to(z)
        return z if x.ndim == 5 else z[:, :, 0]

    def decode(self, z: Tensor) -> Tensor:
        """The inverse: normalised latents → −1…1."""
        _fits(z, self.latents_mean.shape[1], "samples", "latents", "connect a latent that the same studio made")
        video = z if z.ndim == 5 else z[:, :, None]
        x = super().decode(video * self.latents_std.to(z) + self.latents_mean.to(z))  # type: ignore[misc]
        return x if z.ndim == 5 else x[:, :, 0]


class _ResidualVAE(_Normalised, comfy.ldm.wan.vae2_2.WanVAE):
    """The class of Wan 2.2."""


class _PlainVAE(_Normalised, comfy.ldm.wan.vae.WanVAE):
    """The class of Wan 2.1."""


class PocketVAE(comfy.sd.VAE):
    """ComfyUI's VAE object around a Wan VAE of any width, for VAE Encode, VAE Decode and all that take a VAE.

    Args:
        network: the VAE's module, `[B, 3, T, H, W]` in −1…1 to normalised latents and back.
        channels: of a latent.
        cell: pixels per latent cell and side.
        width: channels of the widest full-size layer, for the memory estimate.
    """

    def __init__(self, network: nn.Module, channels: int, cell: int, width: int) -> None:
        root = logging.getLogger()
        root.addFilter(_quiet)
        try:
            super().__init__(sd={})  # sets all that core reads to its default, and finds no weights
        finally:
            root.removeFilter(_quiet)
        self.first_stage_model = network
        self.device, waiting = comfy.model_management.vae_device(), comfy.model_management.vae_offload_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype, self.working_dtypes = DTYPE, [DTYPE]
        self.patcher = ModelPatcher(network, load_device=self.device, offload_device=waiting)
        self.latent_channels, self.latent_dim, self._cell = channels, 3, cell
        self.upscale_ratio = (lambda latents: max(0, latents * TEMPORAL_STRIDE - TEMPORAL_STRIDE + 1), cell, cell)
        self.downscale_ratio = (lambda frames: max(0, (frames + TEMPORAL_STRIDE - 1) // TEMPORAL_STRIDE), cell, cell)
        self.upscale_index_formula = self.downscale_index_formula = (TEMPORAL_STRIDE, cell, cell)
        per_pixel = 32 * width  # as core's estimates for the published Wan VAEs, which are this many times as wide
        self.memory_used_encode = lambda shape, dtype: per_pixel * shape[-1] * shape[-2] * DTYPE.itemsize
        self.memory_used_decode = lambda shape, dtype: per_pixel * shape[-1] * shape[-2] * cell**2 * DTYPE.itemsize
        self.model_size()

    def encode(self, pixel_samples: Any, *args: Any, **kwargs: Any) -> Any:
        """As core's, which says nothing of an empty batch or of pictures smaller than a latent cell."""
        _filled(pixel_samples, "pixels")
        if pixel_samples.ndim > 2 and min(pixel_samples.shape[-3:-1]) < self._cell:
            seen = "{1}x{0}".format(*pixel_samples.shape[-3:-1])
            raise InputError("pixels", f"must be at least {self._cell} pixels a side", seen, "connect a larger picture")
        return super().encode(pixel_samples, *args, **kwargs)

    def decode(self, samples_in: Any, *args: Any, **kwargs: Any) -> Any:
        """As core's, which says nothing of an empty batch."""
        _filled(samples_in, "samples")
        return super().decode(samples_in, *args, **kwargs)

    def for_images(self) -> PocketVAE:
        """The same VAE (and the same weights) for pictures: batches are pictures, LATENTs `[B, C, h, w]`."""
        other: Any = copy.copy(self)
        cell = self.spacial_compression_encode()
        other.latent_dim, other.upscale_ratio, other.downscale_ratio = 2, cell, cell
        other.upscale_index_formula = other.downscale_index_formula = None
        return other


def _quiet(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("WARNING: No VAE weights")


def load_video_vae(path: File) -> PocketVAE:
    """A Wan VAE in the original names as VAE for video; its latent statistics come from its configuration.

    Raises:
        InputError: another kind of file, broken weights, or a VAE that ComfyUI's classes cannot build.
    """
    checkpoint, state, config = open_model("wan_vae", path)
    residual, arguments = wan_vae_arguments(config, checkpoint.name)
    network = (_ResidualVAE if residual else _PlainVAE)(**arguments)
    network.set_statistics(config)
    _fill(network, state, checkpoint)
    widest = max(arguments["dim"], arguments.get("dec_dim", 0)) * max(arguments["dim_mult"])
    cell = 2 ** (len(arguments["dim_mult"]) - 1) * (2 if residual else 1)
    return PocketVAE(network, arguments["z_dim"], cell, widest)


# --- CLIP and CLIP_VISION


class _T5Tokenizer(comfy.sd1_clip.SDTokenizer):
    """The tokenizer that a text encoder's file carries. Parentheses are text, not weights, as they are headless."""

    def __init__(self, words: TextTokenizer, length: int | None = None, **kwargs: Any) -> None:
        super().__init__(
            words,
            tokenizer_class=Words,
            has_start_token=False,
            pad_with_end=False,
            pad_to_max_length=False,
            max_length=99999999,
            min_length=length or 1,
            embedding_key="t5",
            disable_weights=True,
            **kwargs,
        )


class _Literal:
    """In front of ComfyUI's tokenizers: text as headless."""

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **kwargs: Any) -> Any:
        return super().tokenize_with_weights(literal(text), return_word_ids, **kwargs)  # type: ignore[misc]


class _RetrievalTokenizer(_Literal, comfy.sd1_clip.SD1Tokenizer):
    """CLIP's own."""


class _KeyframeTokenizer(_Literal, comfy.text_encoders.flux.FluxTokenizer):
    def __init__(self, words: TextTokenizer, names: list[str], context: int, **kwargs: Any) -> None:
        self.names = names
        self.clip_l = comfy.sd1_clip.SDTokenizer(max_length=context, disable_weights=True, **kwargs)
        self.t5xxl = _T5Tokenizer(words, **kwargs)


class _VideoTokenizer(_Literal, comfy.sd1_clip.SD1Tokenizer):
    def __init__(self, words: TextTokenizer, names: list[str], length: int | None, **kwargs: Any) -> None:
        self.names = names
        super().__init__(name="t5", tokenizer=partial(_T5Tokenizer, words, length), **kwargs)


class _KeyframeText(comfy.text_encoders.flux.FluxClipModel):
    def __init__(self, t5: Config, clip: Config, device: Any, dtype: Any, model_options: Config) -> None:
        nn.Module.__init__(self)  # FLUX.1's own would build its two encoders at full size
        self.clip_l = _clip_text(clip, False, device=device, dtype=dtype, model_options=model_options)
        self.t5xxl = _t5(t5, device=device, dtype=dtype, model_options=model_options)
        self.dtypes = {dtype}


class _VideoText(comfy.sd1_clip.SD1ClipModel):
    def __init__(self, t5: Config, length: int | None, **kwargs: Any) -> None:
        super().__init__(name="t5", clip_model=partial(_t5, t5), **kwargs)
        self.length = length

    def encode_token_weights(self, token_weight_pairs: Any) -> Any:
        """States of at most `length` tokens; the tokenizer has filled shorter texts up."""
        tokens, *rest = super().encode_token_weights(token_weight_pairs)
        return (tokens[:, : self.length], *rest)


def load_keyframe_clip(t5: File, clip: File) -> comfy.sd.CLIP:
    """CLIP for a Flux-class model from a T5 file, which carries its tokenizer, and an open_clip file."""
    checkpoint, state, config, words, names = open_t5(t5)
    clip_file, clip_config, _ = open_clip(clip)
    context = clip_config["max_position_embeddings"]
    target = ClipTarget(partial(_KeyframeTokenizer, words, names, context), partial(_KeyframeText, config, clip_config))
    made = _clip(target)
    _fill(made.cond_stage_model.t5xxl.transformer, state, checkpoint)
    made.tokenizer.words = Vocabulary.read(checkpoint.metadata)
    _fill_clip_text(made.cond_stage_model.clip_l, clip_file)
    return made


def load_video_clip(t5: File, length: int | None = None) -> comfy.sd.CLIP:
    """CLIP for a Wan-class model from a T5 file, padded with zeros (and cut) to `length` tokens."""
    checkpoint, state, config, words, names = open_t5(t5)
    target = ClipTarget(partial(_VideoTokenizer, words, names, length), partial(_VideoText, config, length))
    made = _clip(target)
    _fill(made.cond_stage_model.t5.transformer, state, checkpoint)
    made.tokenizer.words = Vocabulary.read(checkpoint.metadata)
    return made


def load_retrieval_clip(path: File) -> comfy.sd.CLIP:
    """CLIP from an open_clip file, its pooled output projected into the space of `load_clip_vision`'s embeddings."""
    checkpoint, config, _ = open_clip(path)
    tokenizer = partial(comfy.sd1_clip.SDTokenizer, max_length=config["max_position_embeddings"], disable_weights=True)
    target = ClipTarget(
        partial(_RetrievalTokenizer, tokenizer=tokenizer),
        partial(comfy.sd1_clip.SD1ClipModel, clip_model=partial(_clip_text, config, True)),
    )
    made = _clip(target)
    _fill_clip_text(made.cond_stage_model.clip_l, checkpoint)
    return made


class _WholeFrame(comfy.clip_vision.ClipVisionModel):
    """CLIP_VISION that sees the whole frame: who stands at the edge of a wide one must not be cropped away."""

    def encode_image(self, image: Tensor, crop: bool = True) -> Any:
        """As core's, without cropping whatever is asked for."""
        if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[-1] < 3 or not image.numel():
            seen = tuple(image.shape) if isinstance(image, Tensor) else None
            raise InputError(
                "image", "must be pictures [B, H, W, 3]", seen, "connect an IMAGE; the node before gave none"
            )
        return super().encode_image(image, crop=False)


def load_clip_vision(path: File) -> comfy.clip_vision.ClipVisionModel:
    """CLIP_VISION from an open_clip file with its configuration in the metadata."""
    checkpoint, _, config = open_clip(path)
    squash = config.pop("resize_mode") == "squash"
    made = (_WholeFrame if squash else comfy.clip_vision.ClipVisionModel)(config)
    visual = {key: value for key, value in checkpoint.state.items() if key.startswith("visual.")}
    state = comfy.clip_vision.convert_to_transformers(visual, "visual.")
    _fill(made.model, state, checkpoint)
    return made


def _clip(target: ClipTarget) -> comfy.sd.CLIP:
    return comfy.sd.CLIP(target, model_options={"dtype": DTYPE}, disable_dynamic=True)


def _t5(config: Config, **kwargs: Any) -> comfy.sd1_clip.SDClipModel:
    return comfy.sd1_clip.SDClipModel(
        textmodel_json_config=config,
        model_class=comfy.text_encoders.t5.T5,
        special_tokens={"end": 1, "pad": 0},
        enable_attention_masks=True,
        zero_out_masked=True,
        **kwargs,
    )


def _clip_text(config: Config, projected: bool, **kwargs: Any) -> comfy.sd1_clip.SDClipModel:
    made = comfy.sd1_clip.SDClipModel(
        textmodel_json_config=config,
        max_length=config["max_position_embeddings"],
        return_projected_pooled=projected,
        **kwargs,
    )
    # Core's projection is square; here the joint space has its own width.
    size = config["hidden_size"], config["projection_dim"]
    made.transformer.text_projection = made.operations.Linear(*size, bias=False, dtype=DTYPE)
    return made


def _fill_clip_text(encoder: comfy.sd1_clip.SDClipModel, checkpoint: Checkpoint) -> None:
    other = ("visual.", "logit_scale", "attn_mask")
    text = {key: value for key, value in checkpoint.state.items() if not key.startswith(other)}
    state = comfy.utils.clip_text_transformers_convert(text, "", "")
    _fill(encoder.transformer, state, checkpoint)


def _fill(module: nn.Module, state: Mapping[str, Tensor], checkpoint: Checkpoint) -> None:
    """Load all of a state dict in fp32; ComfyUI's layers may not have their weights before.

    Raises:
        InputError: missing or surplus tensors, other shapes, or values that are not finite.
    """
    fix = "give a whole file of the right kind, with its own configuration"
    own = {key: tensor.to(DTYPE, copy=True) for key, tensor in state.items()}
    for key, tensor in own.items():
        if not torch.isfinite(tensor).all():
            raise InputError(checkpoint.name, "weights must be finite numbers", f"{key}: NaN or infinity", fix)
    try:
        missing, surplus = module.load_state_dict(own, strict=False, assign=True)
    except RuntimeError as error:
        seen = str(error).strip().splitlines()[-1].strip()
        raise InputError(checkpoint.name, "tensors must have the shapes of the configuration", seen, fix) from error
    for keys, rule in ((missing, "tensors must be complete"), (surplus, "tensors must all belong to the model")):
        if keys:
            raise InputError(checkpoint.name, rule, f"{keys[0]} and {len(keys) - 1} more", fix)
    module.requires_grad_(False).eval()
