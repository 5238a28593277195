"""Small models as ComfyUI's own objects: MODEL, VAE, CLIP and CLIP_VISION, ready for core nodes.

ComfyUI's model detection takes the published widths for granted; here the classes are built from the configurations
that the files carry, of any width. Weights are the files', scaled fp8 multiplied out. Small models compute in fp32.

LATENTs of these VAEs are already normalised by the statistics in the VAE's configuration, as everywhere outside
`models.encoders.vae`; so the MODELs' `process_latent_in` and `process_latent_out` change nothing.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import comfy.clip_vision
import comfy.latent_formats
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.text_encoders.flux
import comfy.text_encoders.t5
import comfy.utils
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
from .native_files import DTYPE, Config, File, Words, flux_unet, open_clip, open_model, open_t5, wan_unet
from .native_files import fill as _fill
from .native_vae import PocketVAE, load_video_vae
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
