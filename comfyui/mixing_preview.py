"""What CLIP is shown and says during a run on native models: `text2story.preview` behind CLIP, CLIP_VISION and VAE."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.clip_model
import comfy.model_management
import torch
from torch import Tensor

from ..core.errors import InputError
from ..models.encoders.latent_rgb import LatentRGB, calibration_pictures, fit_latent_rgb
from ..models.encoders.prompt_text import from_prompt
from ..sampling.text2story.preview import Pictures, decoded_frames, decoded_video, picture_scorer
from ..sampling.text2story.prompt_mixing import Scorer
from .fits import fit_vae
from .images import encode_frames
from .similarity import embed_images, embed_query

__all__ = ["DECODED", "preview_images", "preview_scorer"]

DECODED = ("decoded_frame", "decoded_video")
"""Previews that need the VAE during the run."""

_CALIBRATION = (128, 256)
_TILE = 256
"""Pixels of a side, as core's own tiles."""


def preview_scorer(model: Any, preview: str, texts: tuple[str, str], clip: Any, clip_vision: Any, vae: Any) -> Scorer:
    """CLIP's scores of the predicted x0; what must be loaded for its set-up is loaded here, before sampling."""
    for name, text in zip(("scene_text", "action_text"), texts, strict=True):
        if not text.strip():
            raise InputError(name, "is needed to score pictures", text, "write the prompt here too, or take CLIP out")
    dim = embed_images(clip_vision, torch.zeros(1, 3, 32, 32)).shape[1]
    try:
        embeds = [embed_query(clip, from_prompt(text), dim) for text in texts]
    except InputError as error:  # this node's own name for it, and no ranking to fall back on
        fix = "connect a CLIP whose file holds text_projection and that belongs to clip_vision, or take both out"
        raise InputError("clip", error.rule, error.value, fix) from error
    prompts = torch.nn.functional.normalize(torch.stack(embeds), dim=1)
    return picture_scorer(preview_images(model, preview, vae), _seeing(clip_vision), prompts[None])


def preview_images(model: Any, preview: str, vae: Any) -> Pictures:
    """From latents as the model has them to images."""
    form = model.model.latent_format
    if preview in DECODED:
        if vae is None:
            raise InputError("vae", f"is needed for {preview}", None, "connect the model's VAE, or use latent_rgb")
        fit_vae(vae, model)
        decode = _decoding(vae, model.model.process_latent_out)
        if preview == "decoded_video":
            return decoded_video(lambda z: iter([decode(z)]))
        return decoded_frames(lambda z: decode(z[:, :, None])[:, 0])
    if form.latent_rgb_factors is not None and form.latent_rgb_factors_reshape is None:
        factors = torch.tensor(form.latent_rgb_factors)
        bias = torch.tensor(form.latent_rgb_factors_bias or (0.0, 0.0, 0.0))
        return LatentRGB(factors / 2, (bias + 1) / 2)  # published for colours in −1…1
    if vae is None:
        fix = "connect the model's VAE; the colours are measured with it once"
        raise InputError("vae", "is needed for latent_rgb: this model's latents have no published colours", None, fix)
    fit_vae(vae, model)
    shown = calibration_pictures(*_CALIBRATION)
    latents = encode_frames(vae, shown)
    return fit_latent_rgb(model.model.process_latent_in(latents[:, :, None])[:, :, 0], shown)


def _seeing(clip_vision: Any) -> Callable[[Tensor], Tensor]:
    """Images → unit vectors, as CLIP_VISION's own encode_image, but loading nothing: the model holds it loaded."""

    def see(images: Tensor) -> Tensor:
        shown = comfy.clip_model.clip_preprocess(
            images.movedim(1, -1).float().to(clip_vision.load_device),
            size=clip_vision.image_size,
            mean=clip_vision.image_mean,
            std=clip_vision.image_std,
            crop=False,
        )
        embedded = clip_vision.model(pixel_values=shown.float(), intermediate_output=-2)[2]
        return torch.nn.functional.normalize(embedded.float(), dim=-1)

    return see


def _decoding(vae: Any, process_out: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Latents [B, C, F, h, w] → frames [B, T, 3, H, W] in 0…1, as the VAE's own decode, but loading nothing.

    Loading, or making room, between steps could evict the model. So where memory is short, tiles are decoded.
    """

    def whole(z: Tensor) -> Tensor:
        return vae.process_output(vae.first_stage_model.decode(z).float())

    def tiles(z: Tensor) -> Tensor:
        if vae.handles_tiling:
            side = max(1, _TILE // vae.spacial_compression_decode())
            return vae._decode_tiled_owned(z, tile_x=side, tile_y=side, overlap=side // 4)
        return vae.decode_tiled_3d(z) if vae.latent_dim == 3 else vae.decode_tiled_(z)

    def decode(latents: Tensor) -> Tensor:
        z = process_out(latents.float()).to(vae.device, vae.vae_dtype)
        batch = len(z)
        z = z if vae.latent_dim == 3 else z.movedim(2, 1).flatten(0, 1)
        out = None
        if vae.memory_used_decode(z.shape, vae.vae_dtype) <= comfy.model_management.get_free_memory(vae.device):
            try:
                out = whole(z)
            except Exception as error:
                comfy.model_management.raise_non_oom(error)
        if out is None:  # outside of `except`, which would keep what was allocated
            comfy.model_management.soft_empty_cache()
            out = tiles(z)
        out = out.float().clamp(0, 1)
        return out.movedim(2, 1) if vae.latent_dim == 3 else out.unflatten(0, (batch, -1))

    return decode
