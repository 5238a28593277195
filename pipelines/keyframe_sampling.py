"""How keyframes are sampled, each remembering earlier ones (Captain Cinema §3.2); `stages.keyframes` plans them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..execution.stage import Workspace
from ..media.frames import check_finite
from ..media.image import fit_image, read_image, write_image
from ..memory.frame_memory import FrameMemory, MemoryFrame, Recalled
from ..memory.golden_mem import token_report
from ..sampling.frame_encoders import StudioEncoders
from ..sampling.keyframes import sample_keyframes
from ..sampling.noise import seeded
from ..story.stages import attempt_seed, window_seed
from .job import FilmJob, size_tokens
from .stages.keyframes import ATTEMPTS, KeyframePlace, keyframe_file

if TYPE_CHECKING:
    from ..models.encoders.text import TextCond

__all__ = ["KeyframeSampler"]


_Made = tuple[Tensor, dict[str, Any]]
"""An image, and what the manifest reports about it."""


class KeyframeSampler:
    """Makes keyframes in one process.

    Images of earlier ones are read from the run folder when they are needed; only one embedding of each is held, so
    memory does not grow with the film.

    Args:
        job: the film.
        places: (position of the shot, index) of every keyframe of the film, in order.
    """

    def __init__(self, job: FilmJob, places: Sequence[tuple[int, int]]) -> None:
        self._job = job
        self._places = places
        self._workspace: Workspace | None = None

    @cached_property
    def _memory(self) -> FrameMemory[StudioEncoders]:
        """All keyframes of the film, made or not; a new one sees those before it."""
        job, frames = self._job, tuple(self._remembered(position, index) for position, index in self._places)
        return FrameMemory(StudioEncoders(job.studio), job.settings.memory, job.settings.retrieval, frames=frames)

    def _remembered(self, position: int, index: int) -> MemoryFrame:
        """A keyframe as memory keeps it; its prompt is encoded together with the new frames'."""
        job, name = self._job, keyframe_file(self._job.story.shots[position], index)

        def image() -> Tensor:
            assert self._workspace is not None, "read while keyframes are made"
            return read_image(self._workspace.source(name))[None]

        query = job.keyframe_captions[position][index].query
        return MemoryFrame(image, query, (position, index), name, job.keyframe_size)

    def _recall(self, places: Sequence[tuple[int, int]]) -> list[Recalled]:
        """What new keyframes of these places remember, of all before them."""
        before = self._memory.frames[: self._places.index(places[0])]
        queries = [self._job.keyframe_captions[position][index].query for position, index in places]
        return replace(self._memory, frames=before).recall(queries)

    @cached_property
    def _prompts(self) -> list[list[str]]:
        """The keyframes' prompts, by shot, with the names that the text encoder knows."""
        return self._job.aliased(self._job.studio.keyframe_text)[1]

    def make(self, window: Sequence[KeyframePlace], workspace: Workspace) -> list[dict[str, Any]]:
        """Make and write the keyframes of a window; returns the figures of each."""
        job, first = self._job, window[0]
        note = " to ".join(self._name(place) for place in (window[:: len(window) - 1] if len(window) > 1 else window))
        workspace.report(0, note)
        self._workspace = workspace
        shot = job.story.shots[first.position]
        given = job.story.image_path(shot.keyframes[first.index])
        if given is not None:
            field = f"shots[{first.position}].keyframes[{first.index}].image"
            made = [(fit_image(read_image(given, field), job.keyframe_size), {"source": "image", "remembers": []})]
        else:
            made = self._attempt(window, workspace, note)
        for place, (picture, _) in zip(window, made, strict=True):
            write_image(workspace.target(self._file(place)), picture)
        return [{"take": place.take, **figures} for place, (_, figures) in zip(window, made, strict=True)]

    def _file(self, place: KeyframePlace) -> str:
        return keyframe_file(self._job.story.shots[place.position], place.index)

    def _name(self, place: KeyframePlace) -> str:
        shot = self._job.story.shots[place.position]
        return f"{shot.id}, keyframe {place.index + 1} of {len(shot.keyframes)}"

    def _attempt(self, window: Sequence[KeyframePlace], workspace: Workspace, note: str) -> list[_Made]:
        """As `_sample`; checked, the attempt that lacks least of its captions, the first of several such."""
        job, check = self._job, self._job.check
        if check is None:
            return self._sample(window, workspace, note)
        best: list[_Made] = []
        fewest: int | None = None
        for attempt in range(1, ATTEMPTS + 1):
            made = self._sample(window, workspace, note if attempt == 1 else f"{note}, attempt {attempt}", attempt)
            lacks = [
                check.missing(shown, job.keyframe_captions[place.position][place.index].prompt)
                for place, (shown, _) in zip(window, made, strict=True)
            ]
            count = sum(map(len, lacks))
            if fewest is None or count < fewest:
                fewest = count
                best = [(shown, info | {"missing": lack}) for (shown, info), lack in zip(made, lacks, strict=True)]
            if not count:
                break
            workspace.say(f"{note}, attempt {attempt}: missing {'; '.join(word for lack in lacks for word in lack)}")
        return [(picture, info | {"attempts": attempt}) for picture, info in best]

    def _sample(
        self, window: Sequence[KeyframePlace], workspace: Workspace, note: str, attempt: int = 1
    ) -> list[_Made]:
        """The window's pictures, and what the manifest reports about each."""
        job, studio, settings = self._job, self._job.studio, self._job.settings
        vae = studio.image_vae
        height, width = job.keyframe_size
        cell = vae.spatial_compression
        grid = size_tokens(studio, job.keyframe_size)
        places = [(place.position, place.index) for place in window]
        recalled = self._recall(places)
        places += [rank.frame.text for rank in recalled]
        texts = [self._prompts[position][index] for position, index in places]
        captions = studio.keyframe_text.encode(texts).rows()
        prompts, captions = captions[: len(window)], captions[len(window) :]
        seeds = [attempt_seed(place.seed, attempt) for place in window]
        latents = sample_keyframes(
            studio.keyframe,
            prompts,
            (vae.latent_channels, height // cell, width // cell),
            self._memory.context(recalled, captions),
            settings.keyframe,
            seeded(window_seed(seeds)),
            lambda step: workspace.report(step.index + 1, note),
            self._negative,
        )
        report = token_report(
            [rank.slot for rank in recalled],
            grid,
            context_text=[text.tokens.shape[1] for text in captions],
            new_frames=len(window),
            new_text=[text.tokens.shape[1] for text in prompts],
        )
        info = {
            "source": "generated",
            "remembers": [rank.frame.label for rank in recalled],
            "tokens": round(report["total"] / len(window)),
            "tokens_uncompressed": round(report["full"] / len(window)),
        }
        if len(window) > 1:
            info["together"] = [self._file(place) for place in window]
        pictures = [
            check_finite(vae.decode_image(latent)[0].cpu(), "keyframe", self._file(place))
            for place, latent in zip(window, latents, strict=True)
        ]
        return [(picture, info | {"seed": seed}) for seed, picture in zip(seeds, pictures, strict=True)]

    @cached_property
    def _negative(self) -> TextCond | None:
        """What guidance leads away from, if there is any."""
        negative, studio = self._job.settings.negative, self._job.studio
        return None if negative is None else studio.keyframe_text.encode([negative])
