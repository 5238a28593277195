"""The rows of the suite: resampling, and super-resolution with as many keyframes as a row is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ....core.errors import InputError
from ....pipelines.upscale.colour import keep_colour
from ....pipelines.upscale.hold import hold_still
from ....pipelines.upscale.upscalers import Interpolation
from ....pipelines.upscale.windows import plan_windows
from ....sampling.noise import noise_source
from ....sampling.super_resolution import upscale_clip
from .sources import SourceClip
from .suite import UpscaleSuite

if TYPE_CHECKING:
    from ....models.layouts.upscale import UpscaleSettings
    from ....models.studio import Studio

__all__ = ["Upscaler", "Variant", "chosen_variants", "load_models", "upscaler"]

Kind = Literal["truth", "bicubic", "lanczos", "model", "training_free"]
Upscaler = Callable[[SourceClip], Tensor]
"""Makes `[T, 3, H, W]` in 0…1, on the CPU, of a clip."""

_GIVEN = {"no_keyframes": 0, "one_keyframe": 1, "all_keyframes": None, "training_free": None}
_ASKED = ("near:N", "steps:N", "training_free:T", "own_colour", "not_held")


@dataclass(frozen=True)
class Variant:
    """One row's way of upscaling.

    Attributes:
        name: what the row is called.
        kind: `truth`: true frames after the VAE; `model`: the
            studio's for super-resolution; `training_free`: its video model.
        given: so many of a clip's keyframes, from the first; None: all.
        near, steps, strength: of the sampler, where it is not the studio's.
        colour: keep the colours of the source, as the command does for models (`keep_colour`).
        held: stand still where the source does, as the command does for models (`hold_still`).
    """

    name: str
    kind: Kind
    given: int | None = 0
    near: int | None = None
    steps: int | None = None
    strength: float | None = None
    colour: bool = True
    held: bool = True

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Read a variant's name.

        Raises:
            InputError: no such variant.
        """
        head, _, number = name.partition(":")
        if not number and ":" not in name:
            plain: dict[str, Kind] = {"ground_truth": "truth", "bicubic": "bicubic", "lanczos": "lanczos"}
            if head in plain:
                return cls(name, plain[head], colour=head == "ground_truth")
            if head == "corrected_bicubic":
                return cls(name, "bicubic")
            if head == "own_colour":
                return cls(name, "model", None, colour=False)
            if head == "not_held":
                return cls(name, "model", None, held=False)
            if head in _GIVEN:
                return cls(name, "training_free" if head == "training_free" else "model", _GIVEN[head])
        elif head == "near" and number.isascii() and number.isdigit() and len(number) < 5:
            return cls(name, "model", None, near=int(number))
        elif head == "steps" and number.isascii() and number.isdigit() and 0 < int(number) <= 1000:
            return cls(name, "model", None, steps=int(number))
        elif head == "training_free" and (level := _level(number)) is not None:
            return cls(name, "training_free", None, strength=level)
        known = ", ".join((*UpscaleSuite.variants, *_ASKED))
        raise InputError("variants", f"must be among {known}", name, "choose some of them")

    def settings(self, own: UpscaleSettings) -> UpscaleSettings:
        """The studio's settings with what the row changes."""
        changed = {name: value for name in ("near", "steps", "strength") if (value := getattr(self, name)) is not None}
        return replace(own, mode="training_free" if self.kind == "training_free" else own.mode, **changed)

    def depends_on(self, studio: Studio, source: str) -> tuple[tuple[str, ...], dict[str, Any]]:
        """The studio's parts that a row's clips depend on, and the settings, as plain JSON."""
        parts = {"video_vae"} if source == "film" else set()
        settings: dict[str, Any] = {}
        if self.kind == "training_free":
            text = "keyframe_text" if studio.config.video_text is None else "video_text"
            parts |= {"video", "video_vae", text}
        elif self.kind == "model":
            parts |= {*studio.upscale_parts}
        elif self.kind == "truth":
            parts |= {"video_vae" if studio.config.upscale_vae is None else "upscale_vae"}
        if self.kind in ("model", "training_free"):
            own = studio.defaults.upscale
            settings = asdict(self.settings(own.sampling)) | {"window": own.window, "overlap": own.overlap}
            settings["hold"] = own.hold if self.held else 0
            if settings["near"] is not None:  # until keyframes beyond the nearest were left out, this was not there
                settings["keyframes"] = "nearest"
        if self.colour:
            settings["colour_cell"] = studio.defaults.upscale.colour_cell
        return tuple(sorted(parts)), settings


def _level(text: str) -> float | None:
    """A noise level above 0, up to 1."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value <= 1 else None


def chosen_variants(studio: Studio, names: Sequence[str] | None) -> list[Variant]:
    """The rows that are run; by default all that this studio can do.

    Raises:
        InputError: no such variant, or one that needs a model which the studio does not have.
    """
    able = studio.config.upscale is not None
    found = [Variant.parse(name) for name in dict.fromkeys(UpscaleSuite.variants if names is None else names)]
    if names is None:
        # A studio whose model was not trained for this has that row under another name.
        free = able and studio.defaults.upscale.mode == "training_free"
        left = {"training_free"} if free else set() if able else {"model"}
        return [variant for variant in found if variant.kind not in left]
    for variant in found:
        if variant.kind == "model" and not able:
            rule = "needs a studio with a model for super-resolution"
            raise InputError("variants", f"{variant.name} {rule}", variant.name, "name one as `upscale` in its file")
    return found


def load_models(studio: Studio, variants: Sequence[Variant]) -> None:
    """Load what the variants upscale with."""
    kinds = {variant.kind for variant in variants}
    if kinds & {"truth", "model"}:
        _ = studio.upscale_vae
    if "model" in kinds:
        _ = studio.upscale_model, studio.upscale_text
    if "training_free" in kinds:
        _ = studio.video_model, studio.video_vae, studio.video_text


def upscaler(studio: Studio, variant: Variant, seed: int) -> Upscaler:
    """How a variant upscales.

    Args:
        studio: models and defaults.
        variant: the row.
        seed: with a clip's number it fixes the noise, where there is any.
    """
    make, defaults = _maker(studio, variant, seed), studio.defaults.upscale
    hold = defaults.hold / 255 if variant.held and variant.kind in ("model", "training_free") else 0

    def upscale(clip: SourceClip) -> Tensor:
        made = make(clip)
        if variant.colour:
            made = keep_colour(made, clip.frames, defaults.colour_cell)
        return torch.stack([*hold_still(made, clip.frames, hold, (), clip.keyframes[: variant.given])])

    return upscale


def _maker(studio: Studio, variant: Variant, seed: int) -> Upscaler:
    if variant.kind == "truth":
        return lambda clip: _through_vae(studio, clip)
    if variant.kind == "bicubic" or variant.kind == "lanczos":
        enlarge = Interpolation(variant.kind)
        return lambda clip: torch.cat([*enlarge(clip.frames, {}, clip.size, lambda share: None)])
    return lambda clip: _super_resolved(studio, variant, clip, seed)


def _through_vae(studio: Studio, clip: SourceClip) -> Tensor:
    """The true clip after the VAE, chunk by chunk: what no model can surpass but by guessing the VAE's errors."""
    vae = studio.upscale_vae
    latents = vae.encode_chunks(clip.truth[None], clip.timeline.chunks)
    return torch.cat(list(vae.decode_chunks(latents, clip.timeline.latent_chunks)), 1)[0].float().cpu().clamp(0, 1)


def _super_resolved(studio: Studio, variant: Variant, clip: SourceClip, seed: int) -> Tensor:
    """A clip in windows as the command makes them, blended where they overlap, or as a film's latents in one piece."""
    free, defaults = variant.kind == "training_free", studio.defaults.upscale
    model = studio.video_model if free else studio.upscale_model
    vae, encoder = (studio.video_vae, studio.video_text) if free else (studio.upscale_vae, studio.upscale_text)
    text = encoder.encode(encoder.alias([clip.prompt]))
    keys = clip.keyframes[: variant.given]
    given = {key: clip.truth[key] for key in keys}
    settings, frames = variant.settings(defaults.sampling), len(clip.frames)
    windows = plan_windows(frames, [], keys, defaults.window, defaults.overlap)
    made = torch.zeros(frames, 3, *clip.size)
    for window in windows:
        # A film's latents lie in the chunks of all its keyframes, and of the whole clip.
        own = clip.latents if len(windows) == 1 and keys == clip.keyframes and vae is studio.video_vae else None
        parts = upscale_clip(
            model,
            vae,
            text,
            clip.frames[window.start : window.stop],
            {key - window.start: given[key] for key in window.keyframes},
            clip.size,
            settings,
            before=[] if window.before is None else [given[window.before]],
            after=[] if window.after is None else [given[window.after]],
            latents=own,
            generator=[noise_source(seed, clip.number, window.start)],
        )
        new = torch.cat([part.float().cpu() for part in parts])
        weight = torch.ones(len(new), 1, 1, 1)
        weight[: window.unused] = 0
        blended = slice(window.unused, window.unused + window.blend)
        weight[blended, 0, 0, 0] = torch.arange(1, window.blend + 1) / (window.blend + 1)
        made[window.start : window.stop] = torch.lerp(made[window.start : window.stop], new, weight)
    return made.clamp(0, 1)
