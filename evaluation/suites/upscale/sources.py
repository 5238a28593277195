"""Held-out clips for super-resolution: what is upscaled, and the truth at twice its size."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ....media.degradations import MILD, Degradations, degrade
from ....pocket.bank import to_tensor
from ....pocket.render import render_clip
from ....pocket.world import FPS, ShotSpec
from ....story.timeline import Timeline
from ...stories import MAX_STORIES, held_out_stories
from ..video.run import REQUESTS
from .suite import Source

if TYPE_CHECKING:
    from ....models.studio import Studio

__all__ = ["SCALE", "SourceClip", "held_out_source", "request", "small_frames"]

SCALE = 2


@dataclass(frozen=True)
class SourceClip:
    """A held-out clip of one shot, or one of the user's own.

    Attributes:
        number: counts the clips.
        shot: what it shows; None where nobody knows.
        timeline: its length, and where its keyframes are.
        truth: what upscaling should give, `[T, 3, SCALE·h, SCALE·w]` in 0…1.
        characters: bool `[T, SCALE·h, SCALE·w]`: where the characters are; None where nobody knows.
        frames: what is upscaled, `[T, 3, h, w]` in 0…1.
        latents: of a film: the latents `[1, C, F, h', w']` that `frames` were decoded from, in the timeline's chunks.
        prompt: what the model reads.
        rate: frames per second.
        name: of the user's clip.
    """

    number: int
    shot: ShotSpec | None
    timeline: Timeline
    truth: Tensor
    characters: Tensor | None
    frames: Tensor
    latents: Tensor | None = None
    prompt: str = ""
    rate: Fraction = Fraction(FPS)
    name: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the truth."""
        height, width = self.truth.shape[-2:]
        return height, width

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return float(len(self.truth) / self.rate)

    @property
    def keyframes(self) -> list[int]:
        """Frames that a variant may be given at full size."""
        return self.timeline.keyframe_frames

    @property
    def measured(self) -> list[int]:
        """All other frames: those that no variant is given."""
        return [t for t in range(len(self.truth)) if t not in self.keyframes]

    @property
    def shown(self) -> list[int]:
        """Frames for the sheet: the first keyframe, the frame half-way to the next, and the last one before that."""
        first, end = [*self.keyframes, len(self.truth)][:2]
        return sorted({first, (first + end) // 2, end - 1})

    def sheet(self, video: Tensor) -> Tensor:
        """Of frames of this clip in the truth's size: `shown` whole, and after them a detail at twice the size: a
        character, or the middle where nobody knows of any."""
        height, width = self.size
        box = height // 2, width // 2
        y, x = (min(max(round(m) - b // 2, 0), b) for m, b in zip(self._middle(), box, strict=True))
        whole = video[self.shown]
        detail = whole[..., y : y + box[0], x : x + box[1]]
        return torch.cat([whole, F.interpolate(detail, self.size, mode="nearest")])

    def _middle(self) -> tuple[float, float]:
        """Row and column of a character in the last frame shown."""
        height, width = self.size
        if self.characters is None or self.shot is None:
            return height / 2, width / 2
        rows, columns = torch.nonzero(self.characters[self.shown[-1]], as_tuple=True)
        half = width // 2
        own = columns < half if self.shot.actors and self.shot.actors[0].side == 0 else columns >= half
        if not own.any():
            own = torch.ones_like(own)
        y, x = (float(at[own].double().mean()) if len(at) else 0.0 for at in (rows, columns))
        return y, x


def held_out_source(studio: Studio, seed: int, number: int, shots: int, source: Source) -> SourceClip:
    """Clip `number` of a seed: one shot of that story, with the suite `video`'s lengths and keyframe times in turn.

    Args:
        studio: whose video VAE a `film`'s frames come from.
        seed: which stories, and the degradations.
        number: of the story and of the clip.
        shots: length of the story; a shot of it is taken, the next clip takes its story's next.
        source: `clean`: the same drawing at half the size, which is the truth's mean over squares of pixels;
            `mild`, `strong`: the truth through the degradations that the pocket model is trained with, or through those
            of clips from anywhere, by a seed of the clip's own;
            `film`: the clean frames as the studio's video VAE shows them, chunk by chunk, with their latents.
    """
    story = held_out_stories(seed, number + 1, shots)[number]
    shot = story.shots[number % shots]
    timeline = request(number)
    pictures, masks = render_clip(shot, timeline.frames, scale=SCALE)
    truth = to_tensor(pictures)
    clean = to_tensor(render_clip(shot, timeline.frames)[0])
    frames, latents = small_frames(studio, seed, number, truth, clean, timeline, source)
    characters = torch.from_numpy(masks) > 127
    return SourceClip(number, shot, timeline, truth, characters, frames, latents, shot.prompt)


def request(number: int) -> Timeline:
    """Length and keyframes of clip `number`."""
    seconds, times = REQUESTS[number % len(REQUESTS)]
    return Timeline.plan(FPS, seconds, times)


def small_frames(
    studio: Studio, seed: int, number: int, truth: Tensor, clean: Tensor, timeline: Timeline, source: Source
) -> tuple[Tensor, Tensor | None]:
    """What is upscaled of a clip whose truth and clean small frames are known, and its latents if it has any."""
    if source in ("mild", "strong"):
        settings = MILD if source == "mild" else Degradations()
        return degrade(truth, SCALE, seed * MAX_STORIES + number, settings), None
    if source == "clean":
        return clean, None
    vae = studio.video_vae
    latents = vae.encode_chunks(clean[None], timeline.chunks)
    frames = torch.cat(list(vae.decode_chunks(latents, timeline.latent_chunks)), 1)[0].float().cpu().clamp(0, 1)
    return frames, latents
