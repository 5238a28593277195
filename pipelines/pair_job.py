"""What the stages of a film of start and end frames share: its storyboard, settings and prompts (STAGE §4.3)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..memory.golden_mem import GoldenMem, Size
from ..sampling.flow import dynamic_shift
from ..sampling.keyframes import KeyframeSettings
from ..sampling.pairs import PairSettings
from ..story.shot import Keyframe, Shot
from ..story.storyboard import Caption, Storyboard
from .job import FilmJob, FilmSettings

if TYPE_CHECKING:
    from ..agents.client import Client
    from ..models.studio import Studio
    from ..models.studio_config import PairDefaults
    from .join import Transition

__all__ = ["PAIR_MODELS", "PairFilmSettings", "PairJob", "pair_story"]

PAIR_MODELS = ("pair_text", "pair", "pair_vae", "clip")
"""Parts of the studio that make start and end frames."""

BASE_MU, MAX_MU, MAX_TOKENS = 0.5, 0.9, 8192
"""Qwen-Image's own numbers for `dynamic_shift`."""


def pair_story(story: Storyboard) -> Storyboard:
    """The storyboard whose every shot has a keyframe on its first and on its last frame.

    Pictures of the user's stay: one on the first or last frame is that frame, others lie between. Keyframes that were
    to be generated are left out: the pair takes their place.

    Raises:
        InputError: a shot of less than two frames.
    """
    shots = [_framed(shot, story.fps, f"shots[{i}]") for i, shot in enumerate(story.shots)]
    return story.model_copy(update={"shots": shots})


def _framed(shot: Shot, fps: float, where: str) -> Shot:
    timeline = shot.timeline(fps, where)
    length = (timeline.requested or timeline.length).position
    if length < 2:
        field = "frames" if shot.frames is not None else "seconds"
        value = shot.frames if shot.frames is not None else shot.seconds
        raise InputError(f"{where}.{field}", "must have room for a start and an end frame", value, "make it longer")
    own = [
        (key.frame, key.requested.position, own) for key, own in zip(timeline.keyframes, shot.keyframes, strict=True)
    ]
    given: dict[str, str | None] = {"start": None, "end": None}
    between = []
    for frame, position, keyframe in own:
        if keyframe.image is None:
            continue
        if frame == 0:
            given["start"] = keyframe.image
        elif position >= length - Fraction(3, 2):
            given["end"] = keyframe.image
        else:
            between.append(keyframe)
    start, end = (
        Keyframe(at=0.0, image=given["start"]),
        Keyframe(at=float((length - 1) / timeline.rate), image=given["end"]),
    )
    framed = shot.model_copy(update={"keyframes": [start, *between, end]})
    framed.timeline(fps, where)  # a picture too near an end is refused here
    return framed


@dataclass(frozen=True)
class PairFilmSettings:
    """How start and end frames are sampled.

    Attributes:
        defaults: the studio's.
        sampling: as the sampler takes them.
    """

    defaults: PairDefaults
    sampling: PairSettings

    @classmethod
    def of(cls, studio: Studio, frame_size: Size) -> PairFilmSettings:
        """The studio's defaults for frames of (height, width) px; a shift of null becomes that of one frame."""
        d, side = studio.defaults.pair, studio.pair_vae.pixels_per_token
        tokens = (frame_size[0] // side) * (frame_size[1] // side)
        shift = d.shift
        if shift is None:
            shift = dynamic_shift(tokens, max_tokens=MAX_TOKENS, base_mu=BASE_MU, max_mu=MAX_MU)
        sampling = PairSettings(
            d.steps, shift, d.last_level, d.guidance, d.rescale, d.layout, d.joint, d.guidance_against
        )
        return cls(d, sampling)

    def inputs(self) -> dict[str, Any]:
        """Everything that a pair depends on, as plain JSON; `PairDefaults.unset` is left out."""
        return self.defaults.model_dump(mode="json", exclude=self.defaults.unset) | {"shift": self.sampling.shift}


@dataclass
class PairJob(FilmJob):
    """A film whose shots are made from a start and an end frame each; its storyboard is a `pair_story`.

    Attributes:
        pair: how these are sampled.
        refiner: writes the prompts of the shots' videos; None takes their captions. It stays in the driver's process.
        refined: who does, for what a prompt was made from; empty without a refiner.
    """

    pair: PairFilmSettings | None = None
    refiner: Client | None = None
    refined: str = ""

    @classmethod
    def of(
        cls, story: Storyboard, chosen: list[int], studio: Studio, checked: bool, refiner: Client | None = None
    ) -> PairJob:
        """The job of a film of `story`, a `pair_story`, with the studio's settings."""
        refined = "" if refiner is None else _identity(refiner)
        settings = FilmSettings(KeyframeSettings(), GoldenMem(), "clip", studio.defaults.video)
        pair = PairFilmSettings.of(studio, story.frame_size)
        return cls(story, chosen, studio, settings, checked, pair=pair, refiner=refiner, refined=refined)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what refers to loaded models, or to a language model."""
        return {**super().__getstate__(), "refiner": None}

    def prompt_file(self, position: int) -> str | None:
        """Where the refiner's prompt for a shot lies."""
        return f"prompts/{self.story.shots[position].id}.txt" if self.refined else None

    @property
    def pair_settings(self) -> PairFilmSettings:
        """`pair`."""
        assert self.pair is not None
        return self.pair

    @cached_property
    def pair_captions(self) -> list[Caption]:
        """One caption per shot: every character's looks are told in each, so that a shot can be read alone."""
        return [self.story.caption(shot, set()) for shot in self.story.shots]

    @cached_property
    def pair_prompts(self) -> list[str]:
        """What the text encoder is to read for each shot, before names are put into its vocabulary."""
        prompts = []
        for shot, caption in zip(self.story.shots, self.pair_captions, strict=True):
            timeline = shot.timeline(self.story.fps)
            length = timeline.requested or timeline.length
            frames = max(1, round(length.position))
            prompts.append(self.pair_settings.defaults.told(caption.prompt, length.seconds, frames))
        return prompts

    @cached_property
    def pair_hash(self) -> str:
        """What identifies the models of the pairs."""
        return self.studio.fingerprint(*PAIR_MODELS)

    def transition(self, position: int) -> Transition:
        """How the clip of the shot at a position joins the one before it; at a match they share a frame."""
        return self.story.shots[position].transition

    def sampling_inputs(self) -> dict[str, Any]:
        """How everything is sampled, as plain JSON."""
        return {"pair": self.pair_settings.inputs(), "video": self.settings.video_inputs()}


def _identity(refiner: Client) -> str:
    """What tells one refiner from another: its name, and a hash of its settings where it has some."""
    settings = getattr(refiner, "identity", None)
    if settings is None:
        return refiner.who
    text = json.dumps(settings(), sort_keys=True, default=str)
    return f"{refiner.who} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
