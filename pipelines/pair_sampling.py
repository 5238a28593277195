"""How the start and the end frame of a shot are sampled beside earlier ones (STAGE §4.1); `stages.pairs` plans them."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ..execution.stage import Workspace
from ..media.frames import check_finite
from ..media.image import fit_image, read_image, write_image
from ..memory.frame_memory import FrameMemory, MemoryFrame
from ..memory.memory_pack import PackTile
from ..models.encoders.text_cond import TextCond
from ..sampling.frame_encoders import StudioEncoders
from ..sampling.noise import seeded
from ..sampling.pairs import memory_segments, sample_pair
from ..story.stages import attempt_seed
from .pair_job import PairJob
from .stages.keyframes import ATTEMPTS, keyframe_file
from .stages.pairs import PairPlace, end_file, start_file

__all__ = ["PairFrameSampler"]

_Made = tuple[dict[int, Tensor], dict[str, Any]]
"""Pictures by number of the keyframe, and what the manifest reports about each."""


class PairEncoders(StudioEncoders):
    """`FrameEncoders` with the VAE of the pair model."""

    @property
    def pixels_per_token(self) -> int:
        """Pixels along a side of one token of the pair model."""
        return self._studio.pair_vae.pixels_per_token

    def encode(self, images: Tensor) -> Tensor:
        """Latents `[B, C, h, w]`, unit scale, of images `[B, 3, H, W]` in 0…1."""
        return self._studio.pair_vae.encode_image(images)


class PairFrameSampler:
    """Makes pairs in one process.

    Pictures of earlier ones are read from the run folder when they are needed; only one embedding of each is held.

    Args:
        job: the film.
    """

    def __init__(self, job: PairJob) -> None:
        self._job = job
        self._workspace: Workspace | None = None

    @cached_property
    def _memory(self) -> FrameMemory[PairEncoders]:
        """Start and end frames of the whole film, made or not; a pair sees those before it."""
        job, names = self._job, [(start_file(shot), end_file(shot)) for shot in self._job.story.shots]
        frames = tuple(self._remembered(name) for pair in names for name in pair)
        defaults = job.pair_settings.defaults
        return FrameMemory(PairEncoders(job.studio), defaults.pack, defaults.rank_by, frames=frames)

    def _remembered(self, name: str) -> MemoryFrame:
        def image() -> Tensor:
            assert self._workspace is not None, "read while pairs are made"
            return read_image(self._workspace.source(name))[None]

        return MemoryFrame(image, label=name, size=self._job.story.frame_size)

    @cached_property
    def _prompts(self) -> list[str]:
        """The shots' prompts with the names that the text encoder knows."""
        return self._job.studio.pair_text.alias(self._job.pair_prompts)

    def make(self, place: PairPlace, matches: bool, workspace: Workspace) -> list[dict[str, Any]]:
        """Make and write the keyframes of a shot; returns the figures of each.

        Args:
            place: of the shot.
            matches: it begins with the end frame of the one before it.
            workspace: where to read and write.
        """
        job, shot = self._job, self._job.story.shots[place.position]
        self._workspace = workspace
        workspace.report(0, shot.id)
        last = len(shot.keyframes) - 1
        figures: dict[int, dict[str, Any]] = {}
        pictures: dict[int, Tensor] = {}
        for k, keyframe in enumerate(shot.keyframes):
            path = job.story.image_path(keyframe)
            if path is not None:
                field = f"shots[{place.position}].keyframes[{k}].image"
                pictures[k] = fit_image(read_image(path, field), job.story.frame_size)
                figures[k] = {"source": "image", "remembers": []}
        if matches:
            name = end_file(job.story.shots[place.position - 1])
            pictures[0] = read_image(workspace.source(name))
            figures[0] = {"source": "match", "remembers": [], "sees": [name]}
        if wanted := [k for k in (0, last) if k not in pictures]:
            made, info = self._attempt(place, {k: pictures[k] for k in (0, last) if k in pictures}, wanted)
            pictures |= made
            figures |= {k: info for k in wanted}
        for k, picture in pictures.items():
            write_image(workspace.target(keyframe_file(shot, k)), picture)
        return [{"take": place.take, **figures[k]} for k in range(last + 1)]

    def _attempt(self, place: PairPlace, given: dict[int, Tensor], wanted: list[int]) -> _Made:
        """As `_sample`; checked, the attempt that lacks least of its caption, the first of several such."""
        check = self._job.check
        if check is None:
            return self._sample(place, given, wanted, 1)
        shot, caption = self._job.story.shots[place.position], self._job.pair_captions[place.position].prompt
        best: _Made | None = None
        fewest = 0
        for attempt in range(1, ATTEMPTS + 1):
            pictures, info = self._sample(place, given, wanted, attempt)
            lack = list(dict.fromkeys(word for k in wanted for word in check.missing(pictures[k], caption)))
            if best is None or len(lack) < fewest:
                best, fewest = (pictures, info | {"missing": lack}), len(lack)
            if not lack:
                break
            if self._workspace is not None:
                self._workspace.say(f"{shot.id}, attempt {attempt}: missing {'; '.join(lack)}")
        assert best is not None
        return best[0], best[1] | {"attempts": attempt}

    def _sample(self, place: PairPlace, given: dict[int, Tensor], wanted: list[int], attempt: int) -> _Made:
        """The pictures that are wanted of a pair, and what the manifest reports about them."""
        job, studio, settings = self._job, self._job.studio, self._job.pair_settings
        shot, vae, defaults = job.story.shots[place.position], studio.pair_vae, settings.defaults
        height, width = job.story.frame_size
        cell, side = vae.spatial_compression, vae.pixels_per_token
        shape, grid = (vae.latent_channels, height // cell, width // cell), (height // side, width // side)
        before = self._memory.frames[: 2 * place.position]
        recalled = replace(self._memory, frames=before).recall([job.pair_captions[place.position].query])
        text, negative = self._encode(place.position, before[-1] if before else None)
        tiles: list[tuple[PackTile, Tensor]] = [
            (tile, frame.latent)
            for tile, frame in zip(
                defaults.pack.tiles(len(before), grid),
                self._memory.context(recalled, [None] * len(recalled)),
                strict=True,
            )
        ]
        memory = memory_segments(tiles, defaults.pack, grid, defaults.layout, studio.pair.device, studio.pair.dtype)
        seed, last = attempt_seed(place.seed, attempt), len(shot.keyframes) - 1
        pinned = {k: vae.encode_image(picture[None]) for k, picture in given.items()}
        latents = sample_pair(
            studio.pair,
            text,
            shape,
            memory,
            settings.sampling,
            seeded(seed),
            lambda step: self._report(step.index + 1, shot.id),
            negative,
            pinned.get(0),
            pinned.get(last),
        )
        own = 2 * grid[0] * grid[1] + text.tokens.shape[1]
        info: dict[str, Any] = {
            "source": "generated",
            "packing": defaults.packing,
            "remembers": [rank.frame.label for rank in recalled],
            "sees": [before[-1].label] if before else [],
            "tokens": round((own + sum(tile.tokens for tile, _ in tiles)) / 2),
            "tokens_uncompressed": round((own + len(tiles) * grid[0] * grid[1]) / 2),
            "seed": seed,
        }
        ends = dict(zip((0, last), latents, strict=True))
        pictures = {
            k: check_finite(vae.decode_image(ends[k])[0].cpu(), "frame", keyframe_file(shot, k)) for k in wanted
        }
        return pictures, info

    def _encode(self, position: int, seen: MemoryFrame | None) -> tuple[TextCond, TextCond | None]:
        """U: the shot's prompt with the end of the shot before it, and the same picture with a blank where needed."""
        job, encoder = self._job, self._job.studio.pair_text
        defaults = job.pair_settings.defaults
        prompts = [self._prompts[position], *([" "] if job.pair_settings.sampling.negative_prompt else [])]
        images = None if seen is None else [seen.image[0]] * len(prompts)
        states, mask = encoder.encode(
            prompts, images, system_prompt=defaults.system_prompt, drop_tokens=defaults.drop_tokens
        )
        text, *negative = TextCond(states, mask).rows()
        return text, negative[0] if negative else None

    def _report(self, done: float, note: str) -> None:
        if self._workspace is not None:
            self._workspace.report(done, note)
