"""Text2Story (§3) with a studio's models: who generates, who looks on, and with what settings."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from ..core.errors import InputError
from ..memory.retrieval import mean_pool
from ..models.encoders.latent_rgb import calibration_pictures, fit_latent_rgb
from ..models.layouts.chunks import latent_length
from ..sampling.text2story.action_similarity import SAR
from ..sampling.text2story.preview import Pictures, decoded_frames, decoded_video
from ..sampling.text2story.segments import StorySampler, StorySettings
from ..sampling.text2story.text_to_video import TextToVideoModel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..models.studio import Studio

__all__ = [
    "Preview",
    "asks_clip",
    "other_choices",
    "sar_encoder",
    "settings_inputs",
    "story_grid",
    "story_model",
    "story_parts",
    "story_pictures",
    "story_sampler",
    "video_settings",
]

Preview = Literal["latent_rgb", "decoded_frame", "decoded_video"]

CALIBRATION_PIXELS = 1 << 17
"""Larger pictures to fit latent → RGB on tell it next to nothing more, at several times the price."""


def story_parts(studio: Studio) -> tuple[str, ...]:
    """What of a studio a story is told with: no keyframe model, no image VAE."""
    text = "keyframe_text" if studio.config.video_text is None else "video_text"
    return "video", "video_vae", text, "clip"


def story_grid(studio: Studio) -> int:
    """The temporal stride of the studio's video model: segments have stride · n + 1 frames."""
    return studio.backbone.temporal_stride


def video_settings(studio: Studio) -> dict[str, Any]:
    """What a segment depends on of the studio's video defaults, as plain JSON."""
    return studio.defaults.video.model_dump(mode="json", exclude=set(studio.backbone.unused_settings))


def settings_inputs(settings: StorySettings) -> dict[str, Any]:
    """What a segment depends on of the settings, as plain JSON.

    Choices that there once were not are left out where they are as they were then, or change nothing: so older folders
    resume with the options that say so (see docs/tell.md).
    """
    inputs = asdict(settings)
    once: list[tuple[dict[str, Any], str, bool]] = [
        (inputs, "action_prompt", settings.dipw is None or settings.action_prompt == "alone"),
        (
            inputs,
            "sar",
            not (settings.semantic and settings.gamma)
            or settings.sar == SAR("text", "actions", centred=False, bounded=True),
        ),
    ]
    if settings.dipw is not None:
        inputs["dipw"]["start"] = str(settings.dipw.start)  # infinity is no JSON
        once += [
            (inputs["dipw"], "prior_shift", settings.dipw.prior_shift == 1),
            (inputs["dipw"], "prior_clock", settings.dipw.prior_clock == "steps"),
        ]
    for part, name, same in once:
        if same:
            del part[name]
    return inputs


def other_choices(recorded: object, wanted: Mapping[str, Any]) -> str | None:
    """What to tell people whose folder was made with the choices of once, and is now asked for with today's."""
    if not isinstance(recorded, dict) or not any(n in wanted and n not in recorded for n in ("action_prompt", "sar")):
        return None
    return (
        "this folder was told with --prior-clock steps --action-prompt alone --sar-bounded (once the only choice); "
        "add them to keep what is there"
    )


def story_model(studio: Studio, frames: int, size: tuple[int, int]) -> TextToVideoModel:
    """The studio's video model with its defaults.

    Args:
        frames: length of a segment, see `story_grid`.
        size: (height, width) in pixels.

    Raises:
        InputError: a length off the grid, or model files that cannot be used.
    """
    defaults = studio.defaults.video
    latent_length(frames, "frames", story_grid(studio))  # refused before gigabytes are loaded
    return TextToVideoModel(
        studio.backbone,
        studio.video_model,
        studio.video_vae,
        studio.video_text,
        frames,
        size,
        defaults.sampling,
        defaults.negative,
    )


def story_pictures(model: TextToVideoModel, preview: Preview = "latent_rgb", frames: int = 1) -> Pictures:
    """How CLIP is shown the predicted x0, from the cheapest to the most exact; see `sampling.text2story.preview`.

    Raises:
        InputError: no such preview, or a VAE without an encoder for `latent_rgb`.
    """
    vae = model.vae
    if preview == "latent_rgb":
        if not vae.can_encode:
            fix = "use decoded_frame, or a VAE file with its encoder"
            raise InputError("preview", "needs the VAE's encoder", preview, fix)
        pictures = calibration_pictures(*_calibration_size(model.size, vae.spatial_compression)).to(vae.device)
        return replace(fit_latent_rgb(vae.encode_image(pictures), pictures), frames=frames)
    if preview == "decoded_frame":
        return decoded_frames(vae.decode_image, frames)
    if preview == "decoded_video":
        return decoded_video(model.decode, frames, model.temporal_stride)
    raise InputError("preview", f"must be one of {', '.join(get_args(Preview))}", preview, "latent_rgb is the cheapest")


def _calibration_size(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """`size`, made smaller where it is large, in steps of what the VAE takes."""
    height, width = size
    scale = min(1.0, (CALIBRATION_PIXELS / (height * width)) ** 0.5)
    return max(1, int(height * scale / multiple)) * multiple, max(1, int(width * scale / multiple)) * multiple


def story_sampler(
    studio: Studio,
    model: TextToVideoModel,
    settings: StorySettings,
    pictures: Pictures | None = None,
) -> StorySampler:
    """Text2Story's sampler with the studio's CLIP.

    Args:
        pictures: see `story_pictures`; None takes the cheapest where DIPW is on.
    """
    clip = studio.clip
    if pictures is None and settings.dipw is not None:
        pictures = story_pictures(model)
    return StorySampler(model, settings, clip.embed_texts, clip.embed_images, pictures, sar_encoder(studio, settings))


def asks_clip(settings: StorySettings) -> bool:
    """Whether these settings need the studio's CLIP."""
    return settings.dipw is not None or bool(settings.semantic and settings.gamma and settings.sar.encoder == "clip")


def sar_encoder(studio: Studio, settings: StorySettings) -> Callable[[Sequence[str]], Tensor]:
    """The text encoder that SAR compares prompts with, texts → unit vectors [N, D]."""
    return studio.clip.embed_texts if settings.sar.encoder == "clip" else mean_states(studio)


def mean_states(studio: Studio) -> Callable[[Sequence[str]], Tensor]:
    """Texts → unit vectors: the mean state of the video model's text encoder."""

    def embed(texts: Sequence[str]) -> Tensor:
        encoder = studio.video_text
        cond = encoder.encode(encoder.alias(list(texts)))
        return torch.nn.functional.normalize(mean_pool(cond.tokens, cond.mask), dim=1)

    return embed
