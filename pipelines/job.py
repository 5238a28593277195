"""What all stages of one film share, how they sample, and the seeds they draw from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..execution.driver import Progress
from ..execution.pool import Runner
from ..execution.stage import Stage
from ..memory.golden_mem import GoldenMem
from ..memory.retrieval import Retrieval
from ..sampling.flow import check_sigmas, dynamic_shift
from ..sampling.keyframes import KeyframeSettings
from ..story.storyboard import Caption, Storyboard

if TYPE_CHECKING:
    from ..models.encoders.text import TextEncoder
    from ..models.studio import Studio
    from ..models.studio_config import VideoDefaults
    from .join import Transition
    from .upscale.film_job import FilmUpscale

__all__ = [
    "FilmCrew", "FilmJob", "FilmSettings", "Job", "KeyframeCheck", "Progress", "size_tokens",
]  # fmt: skip


class KeyframeCheck(Protocol):
    """Tells what of its caption a keyframe does not show.

    Attributes:
        identity: tells one check from another.
    """

    identity: str

    def missing(self, picture: torch.Tensor, caption: str) -> list[str]:
        """What a picture ``[3, H, W]`` in 0…1 lacks, in words; empty if nothing."""
        ...


@dataclass(frozen=True)
class FilmSettings:
    """How a film is sampled.

    Attributes:
        keyframe: steps, shift, context noise and attention mode of the keyframes.
        memory: how many earlier keyframes a new one remembers, and how large.
        retrieval: how they are ranked: `clip` (text to image), `text` (text to text) or `recency`.
        video: steps, shift, guidance and method of the clips.
        negative: the prompt that guidance leads keyframes away from; None zeroes it.
        window: keyframes that are made together.
        unset: settings that are left out of what a keyframe was made from (see `KeyframeDefaults.unset`).
    """

    keyframe: KeyframeSettings
    memory: GoldenMem
    retrieval: Retrieval
    video: VideoDefaults
    negative: str | None = None
    window: int = 1
    unset: frozenset[str] = frozenset()

    @classmethod
    def of(cls, studio: Studio, frame_size: tuple[int, int], keyframe: Mapping[str, Any] | None = None) -> FilmSettings:
        """The studio's defaults for frames of (height, width) px; a shift of null becomes `dynamic_shift` of that size.

        Args:
            studio: gives the defaults.
            frame_size: of the film.
            keyframe: other values for some of the studio's `defaults.keyframe`.

        Raises:
            InputError: a value that the studio file could not have either.
        """
        d = studio.defaults.keyframe.changed(keyframe or {})
        height, width = size_tokens(studio, frame_size)
        shift = dynamic_shift(height * width) if d.shift is None else d.shift
        sigmas = None if d.sigmas is None else tuple(check_sigmas(d.sigmas, "defaults.keyframe.sigmas").tolist())
        steps = d.steps if sigmas is None else len(sigmas) - 1
        settings = KeyframeSettings(
            steps,
            shift,
            d.context_noise,
            d.mode,
            d.guidance,
            cfg=d.cfg,
            sampler=d.sampler,
            sigmas=sigmas,
            cache_precision=d.cache,
        )
        # a studio's `cache` says in which precision, the sampler's whether at all
        unset = frozenset("cache_precision" if name == "cache" else name for name in d.unset)
        memory = GoldenMem(d.groups, d.images, d.first_tier, d.level)
        return cls(settings, memory, d.retrieval, studio.defaults.video, d.negative, d.window, unset)

    def keyframe_inputs(self) -> dict[str, Any]:
        """Everything that a keyframe depends on, as plain JSON."""
        found = asdict(self.keyframe) | asdict(self.memory)
        found |= {"retrieval": self.retrieval, "negative": self.negative, "window": self.window}
        return {name: value for name, value in found.items() if name not in self.unset}

    def video_inputs(self) -> dict[str, Any]:
        """Everything that a clip depends on, as plain JSON."""
        return self.video.model_dump(mode="json")


@dataclass
class Job:
    """What all stages of one film share. It says what to make, not where, and can be sent to another process.

    Attributes:
        story: the whole storyboard.
        chosen: positions of the shots to render, in film order.
        studio: the models.
    """

    story: Storyboard
    chosen: list[int]
    studio: Studio

    @cached_property
    def captions(self) -> list[Caption]:
        """One caption per shot of the whole film."""
        return self.story.captions()

    @cached_property
    def keyframe_captions(self) -> list[list[Caption]]:
        """One caption per keyframe of the whole film, by shot."""
        return self.story.keyframe_captions()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what refers to loaded models."""
        return {name: value for name, value in vars(self).items() if name != "check"}

    def aliased(self, text: TextEncoder) -> tuple[list[str], list[list[str]]]:
        """The prompts of shots and of keyframes, by shot, with the names that `text` knows: the same in both."""
        shots = [caption.prompt for caption in self.captions]
        keyframes = [[caption.prompt for caption in captions] for captions in self.keyframe_captions]
        known = text.alias([*shots, *(prompt for prompts in keyframes for prompt in prompts)])
        rest = iter(known[len(shots) :])
        return known[: len(shots)], [[next(rest) for _ in prompts] for prompts in keyframes]

    @cached_property
    def studio_hash(self) -> str:
        """What identifies the studio's settings and weights."""
        return self.studio.fingerprint()

    def transition(self, position: int) -> Transition:
        """How the clip of the shot at a position joins the one before it."""
        return self.story.shots[position].joined

    def frames(self, position: int) -> int:
        """Frames of the shot at a position."""
        return self.story.shots[position].timeline(self.story.fps).frames


@dataclass
class FilmJob(Job):
    """A film whose shots are made through keyframes.

    Attributes:
        settings: how to sample.
        checked: whether keyframes are compared with their captions, and made again where they lack something.
        upscale: how the finished clips are made larger; None: they are not.
    """

    settings: FilmSettings
    checked: bool = False
    upscale: FilmUpscale | None = None

    @cached_property
    def check(self) -> KeyframeCheck | None:
        """Compares keyframes with their captions; None leaves them as they come.

        Raises:
            InputError: the studio has no recogniser, or its file cannot be used.
        """
        return self.studio.keyframe_check(self.story.characters) if self.checked else None

    def sampling_inputs(self) -> dict[str, Any]:
        """How everything is sampled, as plain JSON."""
        return {"keyframe": self.settings.keyframe_inputs(), "video": self.settings.video_inputs()}

    @property
    def keyframe_size(self) -> tuple[int, int]:
        """(height, width) that keyframes are made in: the film's, or that of the upscaled film."""
        from .upscale.target import target_size

        size = self.story.frame_size
        return target_size(size, self.upscale.scale) if self.upscale is not None and self.upscale.sharp else size

    def prompt_file(self, position: int) -> str | None:
        """Where the film has a prompt for the video of the shot at a position; None: its caption is the prompt."""
        return None

    @property
    def remembered(self) -> range:
        """Positions of the shots whose keyframes are needed: the chosen ones and, as their memory, all before them.

        A shot rendered alone therefore looks as it does in the whole film.
        """
        return range(self.chosen[-1] + 1)


def size_tokens(studio: Studio, frame_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a keyframe in tokens of the keyframe model."""
    side = studio.image_vae.pixels_per_token
    return frame_size[0] // side, frame_size[1] // side


@dataclass(frozen=True)
class FilmCrew:
    """Makes the runner of a film in any process; see `execution.pool.Crew`.

    Attributes:
        job: the film.
        stages: the classes of its stages, which all take the job.
    """

    job: Job
    stages: tuple[type[Stage], ...]

    @property
    def device(self) -> str:
        """The kind of device that the studio's models compute on."""
        return self.job.studio.device.type

    def __call__(self, device: str | None = None) -> Runner:
        """A runner whose models compute on `device`, by default where the studio's do."""
        if device is not None:
            self.job.studio.device = torch.device(device)
        return Runner([stage(self.job) for stage in self.stages], self.job.studio.release)  # type: ignore[call-arg]
