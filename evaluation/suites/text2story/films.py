"""Films of a set as they are made, and what is kept of each."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ....sampling.noise import noise_source
from ....sampling.text2story.segments import Made, StorySampler
from ...metrics.cost import clock, peak_bytes
from .scores import StoryMetrics, film_row, scene_weights, shown_frames
from .storytelling_set import SetStory, prompt_pair

__all__ = ["SHEET_STORIES", "Figures", "FilmRunner", "films_row"]

SHEET_STORIES, _SHEET_HEIGHT = 4, 96
"""Of so many stories pictures are kept, so high."""

Figures = dict[str, Tensor]
"""All that is kept of a film: `FilmScores.measurements`; `weights` of its scenes (`scene_weights`); `seconds` of its
segments; `peak` bytes; and `pictures` `[3·segments, 3, h, w]` of the first stories. Not measured: not there."""


class FilmRunner:
    """Makes one variant's films.

    Args:
        sampler: the variant.
        frames: of a segment.
        metrics: scores the films.
        device: where they are made; on CUDA peak memory is measured, too.
    """

    def __init__(self, sampler: StorySampler, frames: int, metrics: StoryMetrics, device: torch.device) -> None:
        self.sampler, self.frames, self.metrics, self.device = sampler, frames, metrics, device

    def film(self, story: SetStory, number: int, seed: int, tick: Callable[[], None]) -> Figures:
        """Make, score and forget the film of a story, number `number` of the run; `tick` after each segment."""
        pairs = [prompt_pair([story], i) for i in range(len(story.pairs))]
        noise = [[noise_source(seed, number, i)] for i in range(len(pairs))]
        made: list[Made] = []
        seconds: list[float] = []
        start = clock(self.device)

        def on_segment(index: int, segment: Made) -> None:
            nonlocal start
            now = clock(self.device)
            # The first segment blends with nothing, so its time is another's.
            if index or len(pairs) == 1:
                seconds.append(now - start)
            start = now
            tick()

        def sample() -> None:
            made.extend(self.sampler.story(pairs, noise, on_segment=on_segment))

        kept: Figures = {}
        # On the CPU the peak would have to be counted allocation by allocation, at a price.
        if self.device.type == "cuda":
            kept["peak"] = torch.tensor(peak_bytes(sample, self.device))
        else:
            sample()
        scores, pictures = self.metrics.film(), []
        for shot, segment in enumerate(made):
            shown, three = self._decoded(segment.latents)
            scores.add(shown, three[:, :, [0, 2]], number, shot)
            pictures.append(_small(three[0, 0]))
        if number < SHEET_STORIES:
            kept["pictures"] = torch.cat(pictures)
        kept["weights"] = torch.cat([scene_weights(segment.record) for segment in made])
        return {**scores.measurements(), "seconds": torch.tensor(seconds, dtype=torch.float64), **kept}

    def _decoded(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Of a segment's frames those that are scored, `[1, 1, t, 3, H, W]`, and its first, middle and last."""
        shown, three = shown_frames(self.frames), [0, self.frames // 2, self.frames - 1]
        kept: dict[int, Tensor] = {}
        at = 0
        for part in self.sampler.model.decode(latents):
            kept |= {i: part[0, i - at].cpu() for i in {*shown, *three} if at <= i < at + part.shape[1]}
            at += part.shape[1]
        return torch.stack([kept[i] for i in shown])[None, None], torch.stack([kept[i] for i in three])[None, None]


def films_row(films: Sequence[Figures]) -> dict[str, float | None]:
    """Scores, median seconds of a segment and peak bytes of a variant's films; None where nothing was measured."""
    seconds = [value for film in films if "seconds" in film for value in film["seconds"].tolist()]
    peaks = [int(film["peak"]) for film in films if "peak" in film]
    cost = {"seconds": statistics.median(seconds) if seconds else None, "peak": max(peaks) if peaks else None}
    return film_row(films) | cost


def _small(frames: Tensor) -> Tensor:
    """`[n, 3, H, W]`, brought down to the height that a sheet shows."""
    height, width = frames.shape[-2:]
    if height <= _SHEET_HEIGHT:
        return frames
    target = (_SHEET_HEIGHT, round(width * _SHEET_HEIGHT / height))
    return F.interpolate(frames, target, mode="bilinear", antialias=True).clamp(0, 1)
