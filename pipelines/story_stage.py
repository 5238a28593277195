"""Text2Story (§3) with a studio's models: who generates, who looks on, and with what settings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from ..memory.retrieval import mean_pool
from ..sampling.preview import Pictures, calibration_pictures, decoded_frames, decoded_video, fit_latent_rgb
from ..sampling.story import StorySampler, StorySettings
from ..sampling.story_wan import WanStory
from ..sampling.video import Experts
from ..story.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..models.studio import Studio

__all__ = ["Preview", "story_model", "story_pictures", "story_sampler"]

Preview = Literal["latent_rgb", "decoded_frame", "decoded_video"]


def story_model(studio: Studio, frames: int, size: tuple[int, int]) -> WanStory:
    """The studio's video model with its defaults; segments of `frames` (4n+1) at (height, width) `size`."""
    settings = studio.defaults.video
    low = studio.video_low
    guidance = settings.guidance
    return WanStory(
        studio.video if low is None else Experts(studio.video, low, settings.boundary),
        studio.video_vae,
        studio.video_text,
        frames,
        size,
        settings.steps,
        settings.shift,
        settings.text_length,
        guidance if settings.guidance_low is None else (guidance, settings.guidance_low),
        settings.negative,
    )


def story_pictures(model: WanStory, preview: Preview = "latent_rgb", frames: int = 1) -> Pictures:
    """How CLIP is shown what the model foresees, from cheap to dear; see `sampling.preview`.

    Raises:
        InputError: no such preview.
    """
    vae = model.vae
    if preview == "latent_rgb":
        pictures = calibration_pictures(*model.size).to(vae.device)
        return replace(fit_latent_rgb(vae.encode_image(pictures), pictures), frames=frames)
    if preview == "decoded_frame":
        return decoded_frames(vae.decode_image, frames)
    if preview == "decoded_video":
        return decoded_video(model.decode, frames)
    raise InputError("preview", f"must be one of {', '.join(get_args(Preview))}", preview, "latent_rgb is the cheapest")


def story_sampler(
    studio: Studio,
    model: WanStory,
    settings: StorySettings,
    pictures: Pictures | None = None,
    sar: Literal["text", "clip"] = "text",
) -> StorySampler:
    """Text2Story's sampler with the studio's CLIP.

    Args:
        pictures: see `story_pictures`; None takes the cheapest where DIPW is on.
        sar: whose text encoder tells how alike two actions are: the video model's own (mean of its states), or CLIP's.
    """
    clip = studio.clip
    if pictures is None and settings.dipw is not None:
        pictures = story_pictures(model)
    actions = clip.embed_texts if sar == "clip" else mean_states(studio)
    return StorySampler(model, settings, clip.embed_texts, clip.embed_images, pictures, actions)


def mean_states(studio: Studio) -> Callable[[Sequence[str]], Tensor]:
    """Texts → unit vectors: the mean state of the video model's text encoder."""

    def embed(texts: Sequence[str]) -> Tensor:
        encoder = studio.video_text
        cond = encoder.encode(encoder.alias(list(texts)))
        return torch.nn.functional.normalize(mean_pool(cond.tokens, cond.mask), dim=1)

    return embed
