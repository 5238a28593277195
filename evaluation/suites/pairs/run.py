"""Suite `pairs`: what each part of STAGE does for start and end frames (§5.4, Table 1).

All variants have the same stories, captions and noise. A pair's memory is what was generated before it, so errors add
up as they do in a film. Figures are taken story by story: rows have their means with standard errors, and beside them
what each variant differs from `full` on the same stories.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....pipelines.job import Progress
from ....pocket.recogniser import Recogniser
from ...metrics.networks import MetricModels
from ...metrics.paired import mean_of, paired_difference
from ...stories import held_out_stories
from ...suite import Row
from .clips import CLIP_FIGURES, clip_figures, film_pairs
from .figures import FIGURES, PairFigures
from .judges import Judges
from .rollout import PairModels, PairPolicy, RollOut, roll_out
from .stories import ToldStory, true_pairs
from .variants import Variant, without_dpo

if TYPE_CHECKING:
    from ....models.studio import Studio

__all__ = ["BATCH", "REFERENCE", "run_pairs"]

BATCH = 16
"""Stories that are rolled out together; bounds memory, changes no result."""

SHEET_STORIES = 3

REFERENCE = "full"
"""What the other variants are compared with."""

COLUMNS = (*FIGURES, *CLIP_FIGURES)

Values = list[float | None]


def run_pairs(
    studio: Studio,
    recogniser: Recogniser,
    seed: int,
    stories: int,
    shots: int,
    variants: Sequence[Variant],
    films: int = 4,
    networks: MetricModels | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Run the suite.

    Args:
        studio: models and sampler defaults.
        recogniser: reads who and what a frame shows.
        seed: which held-out stories, and the noise.
        stories: how many.
        shots: of each.
        variants: the rows.
        films: of so many stories every shot is filmed as well.
        networks: of the metrics, from files.
        progress: called with how many shots of all variants are done.

    Returns:
        ({"rows": one per variant, "paired": what each differs by from `full`, "by_shot": identity, tokens and seconds
        along the story, "films", and who judged}, pairs of a few stories `[n, 2·P, 3, H, W]` per variant).
    """
    told = [ToldStory(story) for story in held_out_stories(seed, stories, shots)]
    models = PairModels.of(studio)
    judges = Judges.of(recogniser, models.clip, networks)
    true = true_pairs(told)
    figures = PairFigures(told, true, judges, recogniser)
    filmed = min(films, stories)
    work = _Work(progress, stories * shots, filmed * shots, variants)
    found: dict[str, dict[str, Values]] = {}
    rows: list[Row] = []
    by_shot: dict[str, Any] = {}
    pictures = {"truth": true[:SHEET_STORIES].flatten(1, 2)}
    for variant in variants:
        work.begin(variant.name)
        begin = time.perf_counter()
        run = None if variant.policy is None else _pairs(studio, models, variant, variant.policy, told, seed, work)
        frames = _through_vae(models, true) if run is None else run.frames
        values = figures(frames)
        if filmed:
            clips = film_pairs(studio, told[:filmed], frames[:filmed], seed, work.filmed)
            values |= clip_figures(clips, judges)
        found[variant.name] = values
        taken = time.perf_counter() - begin
        rows.append({"variant": variant.name, **_row(values), **_cost(run, stories), "taken": taken})
        by_shot[variant.name] = _along(run, figures.identity_by_shot(frames), stories)
        pictures[variant.name] = frames[:SHEET_STORIES].flatten(1, 2).clone()
    return {
        "rows": rows,
        "paired": _paired(found),
        "by_shot": by_shot,
        "films": filmed,
        **judges.facts,
    }, pictures


class _Work:
    """Tells how much of all variants is done, in shots that are made and shots that are filmed."""

    def __init__(self, progress: Progress | None, made: int, filmed: int, variants: Sequence[Variant]) -> None:
        self._progress, self._each, self._made = progress, made + filmed, made
        self._total = self._each * len(variants)
        self._before, self._note = -self._each, ""

    def begin(self, variant: str) -> None:
        """The next variant."""
        self._before, self._note = self._before + self._each, variant
        self.made(0)

    def made(self, shots: int) -> None:
        """So many shots of this variant have their pair."""
        if self._progress is not None:
            self._progress("evaluate", self._before + shots, self._total, self._note)

    def filmed(self, shots: int) -> None:
        """So many are filmed."""
        self.made(self._made + shots)


def _pairs(
    studio: Studio,
    models: PairModels,
    variant: Variant,
    policy: PairPolicy,
    stories: Sequence[ToldStory],
    seed: int,
    work: _Work,
) -> RollOut:
    """The pairs of all stories, in batches."""
    if not variant.preferred:
        plain = without_dpo(studio)
        models = replace(models, transformer=plain.pair, text=plain.pair_text)
    parts = []
    for start in range(0, len(stories), BATCH):
        batch = stories[start : start + BATCH]
        done, rows = start * len(stories[0].lengths), len(batch)
        parts.append(roll_out(models, batch, policy, seed, lambda n, d=done, b=rows: work.made(d + n * b)))  # type: ignore[misc]
    return RollOut.join(parts)


def _through_vae(models: PairModels, true: Tensor) -> Tensor:
    """What the VAE makes of true pairs."""
    parts = [models.vae.decode_image(models.vae.encode_image(part)) for part in true.flatten(0, 2).split(64)]
    return torch.cat(parts).float().cpu().unflatten(0, true.shape[:3])


def _row(values: Mapping[str, Values]) -> Row:
    """Means and standard errors over stories; None where there is nothing of it."""
    row: Row = {}
    for name in COLUMNS:
        row[name], row[f"{name}_se"] = mean_of(values.get(name, []))
    return row


def _cost(run: RollOut | None, stories: int) -> Row:
    """Tokens of a step of the story's last pair, those of its memory, and seconds for a pair on average."""
    if run is None:
        return {"tokens": None, "memory_tokens": None, "seconds": None}
    seconds = sum(run.seconds) / stories / len(run.seconds)
    return {"tokens": run.tokens[-1], "memory_tokens": run.memory_tokens[-1], "seconds": seconds}


def _along(run: RollOut | None, identity: list[float | None], stories: int) -> dict[str, Any]:
    """Figures at every shot of the story, that is by the number of earlier shots."""
    if run is None:
        return {"identity": identity}
    seconds = [taken / stories for taken in run.seconds]
    return {"identity": identity, "tokens": run.tokens, "memory_tokens": run.memory_tokens, "seconds": seconds}


def _paired(found: Mapping[str, Mapping[str, Values]]) -> dict[str, dict[str, Any]]:
    """What every variant's figures are above the reference's, with the standard error of the difference."""
    if REFERENCE not in found:
        return {}
    out: dict[str, dict[str, Any]] = {}
    for variant, values in found.items():
        if variant == REFERENCE:
            continue
        out[variant] = {}
        for name in values:
            difference = paired_difference(values[name], found[REFERENCE][name])
            if difference is not None:
                out[variant][name] = {
                    "difference": difference.value,
                    "se": difference.error,
                    "stories": difference.stories,
                }
    return out
