"""The recipes of super-resolution from the family so far to their weight files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ...core.files import atomic_path
from ...models.encoders.text import TextEncoder
from ...models.layouts.upscale import UpscaleSettings
from ...models.studio import Studio
from ..bank import clip_bank, to_tensor
from ..world import DATA_VERSION
from . import export
from .upscale import PLANS, UpscaleLatents, UpscaleRecipe, encode_pairs, from_video_model, seen_errors
from .upscale_pixels import DrawnFrames, PixelDraws, UpscalePixelsRecipe
from .upscale_vae import UpscaleVaeRecipe, reconstruction

if TYPE_CHECKING:
    from .family import _Run

__all__ = ["train_upscale", "train_upscale_pixels", "train_upscale_vae"]


def train_upscale_vae(folder: Path, run: _Run) -> None:
    """The VAE of super-resolution, from the family's own."""
    narrow = cast(nn.Module, run.studio().video_vae.model)
    start = folder / "upscale_vae_start.safetensors"
    with run.processes.main_process_first():
        if run.processes.is_main_process:
            with atomic_path(start) as temporary:
                save_file({k: v.cpu().float().contiguous().clone() for k, v in narrow.state_dict().items()}, temporary)
    recipe = UpscaleVaeRecipe(pictures=6 * run.scale.vae_multiplier, bank=run.scale.bank, start=start)
    weights = run.train(recipe)
    if not run.exports:
        return
    model = recipe.build()
    model.load_state_dict(weights)
    model.to(run.device).eval()
    figures = {"steps": run.config(recipe.name).steps, **reconstruction(model)}
    export.export_upscale_vae(run.weights, weights, *_statistics(model), 0, figures)


@torch.no_grad()
def _statistics(model: nn.Module, clips: int = 8) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of large clips' latents."""
    x = to_tensor(clip_bank(clips, 9, "train", 777, scale=2)).movedim(2, 1) * 2 - 1
    device = next(model.parameters()).device
    z = torch.cat([model.encode(part.to(device)).latent_dist.mode().cpu() for part in x.split(2)])  # type: ignore[operator]
    return z.mean((0, 2, 3, 4)).tolist(), z.std((0, 2, 3, 4)).tolist()


def train_upscale(folder: Path, run: _Run) -> None:
    """The super-resolution model, from the family's video model and on latents of its `upscale_vae`."""
    studio = run.studio()
    vae, pairs = studio.upscale_vae, _pairs(folder, run, studio)
    metric = seen_errors(vae, pairs.high[0][:2, :, :2].float().to(run.device)).cpu()
    video = cast(nn.Module, studio.video).state_dict()
    recipe = UpscaleRecipe(
        pairs,
        lambda texts: padded(studio.upscale_text, texts, _length(studio)),
        batch_size=2 * run.scale.batch_multiplier,
        start=from_video_model({k: v.cpu() for k, v in video.items()}),
        metric=metric,
    )
    weights = run.train(recipe)
    if run.exports:
        export.export_upscale(run.weights, weights, 0, {"steps": run.config(recipe.name).steps})


def train_upscale_pixels(folder: Path, run: _Run) -> None:
    """The super-resolution model and its VAE's decoder, together on what the studio's steps come to."""
    studio = run.studio()
    pairs, length = _pairs(folder, run, studio), _length(studio)
    text = [padded(studio.upscale_text, texts, length)[0].cpu().half() for texts in pairs.captions]
    model, vae = cast(nn.Module, studio.upscale_model), cast(nn.Module, studio.upscale_vae.model)
    parts = {"transformer.": model.state_dict(), "vae.": vae.state_dict()}
    mean, std = (list(vae.config[f"latents_{name}"]) for name in ("mean", "std"))  # type: ignore[index]
    frames = [DrawnFrames(plan, run.scale.upscaled) for plan in range(len(PLANS))]
    recipe = UpscalePixelsRecipe(
        PixelDraws(pairs, frames, rows=2 * run.scale.vae_multiplier),
        text,
        padded(studio.upscale_text, [""], length)[0].cpu().half(),
        {k: v.cpu().float() for k, v in export.joined(parts).items()},
        mean,
        std,
        UpscaleSettings(steps=studio.defaults.upscale.steps, shift=studio.defaults.upscale.shift),
    )
    weights = run.train(recipe)
    if not run.exports:
        return
    figures = {"steps": run.config("upscale").steps, "pixel_steps": run.config(recipe.name).steps}
    export.export_upscale(run.weights, export.part(weights, "transformer."), 0, figures)
    figures = {"steps": run.config("upscale_vae").steps, "decoder_steps": run.config(recipe.name).steps}
    export.export_upscale_vae(run.weights, export.part(weights, "vae."), mean, std, 0, figures)


def _pairs(folder: Path, run: _Run, studio: Studio) -> UpscaleLatents:
    """Encoded clips; the main process draws them and keeps them in `folder`."""
    cache = folder / f"upscale_pairs_{DATA_VERSION}.safetensors"
    with run.processes.main_process_first():
        return encode_pairs(studio.upscale_vae, run.scale.upscaled, cache=cache)


def _length(studio: Studio) -> int:
    length = studio.defaults.upscale.text_length
    assert length is not None
    return length


def padded(encoder: TextEncoder, texts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
    """States [N, length, D] and mask of texts."""
    found = encoder.encode(list(texts))
    missing = length - found.tokens.shape[1]
    return F.pad(found.tokens, (0, 0, 0, missing)), F.pad(found.mask, (0, missing))
