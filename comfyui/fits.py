"""Whether inputs fit each other: latents, prompts and VAEs to the MODEL that reads them. Said before sampling."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from ..core.errors import InputError
from ..models.backbones.native_fit import fit_tokens
from .checks import finite

__all__ = ["fit_prompt", "fit_sigmas", "fit_vae", "sampled", "video_latent"]


def fit_vae(vae: Any, model: Any, name: str = "model") -> None:
    """The VAE must make latents of as many channels as the MODEL, an input called `name`, samples.

    Raises:
        InputError: it makes others.
    """
    wanted, found = _channels(model), int(vae.latent_channels)
    if found != wanted:
        fix = "load the VAE that belongs to this model"
        raise InputError("vae", f"must have {wanted} latent channels, as the {name}", found, fix)


def fit_prompt(prompt: Any, field: str, width: int | None) -> None:
    """A CONDITIONING's tokens must be `width` wide, as the MODEL reads them; None where nobody knows.

    Raises:
        InputError: encoded by another model's text encoder.
    """
    for tokens, _ in prompt:
        fit_tokens(tokens, field, width)


def fit_sigmas(sigmas: Tensor, model: Any, field: str = "sigmas") -> None:
    """Noise levels must not lie above the MODEL's highest.

    Raises:
        InputError: they do: a schedule of another kind of model.
    """
    highest = float(model.get_model_object("model_sampling").sigma_max)
    if float(sigmas[0]) > highest * 1.001:
        fix = "use a scheduler that asks for the model (Basic Scheduler)"
        raise InputError(field, f"must start at the model's {highest:g} or below", f"{float(sigmas[0]):g}", fix)


def video_latent(latent: Mapping[str, Any], field: str, channels: int | None = None) -> Tensor:
    """The samples `[B, C, F, h, w]` of a LATENT that must be one of a video.

    Raises:
        InputError: a nested latent, one of pictures, or of another number of channels.
    """
    samples: Any = latent["samples"]
    nested = getattr(samples, "is_nested", False) is True
    if nested or samples.ndim != 5 or channels not in (None, samples.shape[1]):
        rule = f"must be a video's latent [B, {'C' if channels is None else channels}, F, h, w]"
        seen = "a nested latent" if nested else tuple(samples.shape)
        raise InputError(field, rule, seen, "connect the latent of a video sampler, of the same model")
    return samples


def sampled(latents: Iterable[Tensor], field: str = "model") -> None:
    """What a MODEL has made must be finite; else the film would be black.

    Raises:
        InputError: NaN or infinities.
    """
    for latent in latents:
        finite(latent, field, "values in what it samples")


def _channels(model: Any) -> int:
    return int(model.get_model_object("latent_format").latent_channels)
