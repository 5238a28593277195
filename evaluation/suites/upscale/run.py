"""Suite `upscale`: what keyframes at full size give to the frames between them (SmartDirector §3.3, §4.3).

Clips of held-out shots are known at twice the size of the pocket world, so every figure is against the truth. All
variants have the same clips, text and noise. Figures are taken clip by clip: rows have their means with standard
errors, and beside them what each variant differs by from bicubic resampling, and from the model without keyframes, on
the same clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ....pipelines.job import Progress
from ....pocket.recogniser import Recogniser
from ...metrics.cost import clock, peak_bytes
from ...metrics.networks import MetricModels
from ...metrics.paired import mean_of, paired_difference
from ...parts import PartCache
from ...stories import check_counts
from ...suite import Row
from .figures import FIGURES, ClipFigures, Figures, by_distance, numbers, pooled
from .own_clips import OwnClip, own_source
from .sources import SourceClip, held_out_source
from .suite import Source
from .variants import Upscaler, Variant, load_models, upscaler

if TYPE_CHECKING:
    from ....models.studio import Studio

__all__ = ["REFERENCES", "run_upscale"]

REFERENCES = ("bicubic", "no_keyframes")
"""What the variants are compared with."""

SHEET_CLIPS = 4


def run_upscale(
    studio: Studio,
    recogniser: Recogniser | None,
    seed: int,
    stories: int,
    shots: int,
    variants: Sequence[Variant],
    source: Source = "clean",
    networks: MetricModels | None = None,
    progress: Progress | None = None,
    keep: Callable[[dict[str, Any], int], None] | None = None,
    cache: PartCache | None = None,
    own: Sequence[OwnClip] | None = None,
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Run the suite.

    Args:
        studio: models and sampler defaults.
        recogniser: reads who a frame shows; None for clips of which nobody knows.
        seed: which held-out clips, their degradations, and the noise.
        stories: how many clips.
        shots: length of the stories that they are from.
        variants: the rows.
        source: what is upscaled, see `held_out_source`.
        networks: LPIPS, where there is one.
        progress: called with how many clips of all variants are done.
        keep: called after every clip with the figures of all that are done, and how many there will be.
        cache: takes the figures of every clip and variant, and has those that need not be made again.
        own: the user's clips in place of the pocket world's, one for each of `stories`.

    Returns:
        ({"rows": one per variant, "paired": what each differs by from `REFERENCES`, "clips": figures of single clips,
        "by_distance": PSNR by the distance from the nearest keyframe, "reader": identity of true frames, "source",
        "judges", "stories", "shots"}, frames of a few clips per variant, see `SourceClip.sheet`).

    Raises:
        InputError: a number out of range.
    """
    check_counts(seed, stories, shots)
    networks = networks or MetricModels()
    score = ClipFigures(recogniser, networks)
    load_models(studio, variants)  # so that no clip is charged for it
    makers = {variant.name: upscaler(studio, variant, seed) for variant in variants}
    inputs = {variant.name: _inputs(studio, variant, seed, shots, source, networks) for variant in variants}
    clips: list[dict[str, Any]] = []
    found: dict[str, list[Figures]] = {name: [] for name in makers}
    pictures: dict[str, list[Tensor]] = {"truth": [], "input": [], **{name: [] for name in makers}}
    read: list[tuple[float | None, float | None]] = []
    report: dict[str, Any] = {}
    done, total = 0, stories * len(makers)
    for number in range(stories):
        clip = _clip(studio, seed, number, shots, source, own)
        identity = {} if own is None else {"clip": own[number].identity}
        if number < SHEET_CLIPS:
            pictures["truth"].append(clip.sheet(clip.truth))
            pictures["input"].append(clip.sheet(F.interpolate(clip.frames, clip.size, mode="nearest")))
        # The variants take turns, every second time backwards, so that a slow phase of the machine meets all alike.
        for name in list(makers)[:: 1 if number % 2 == 0 else -1]:
            if progress is not None:
                progress("evaluate", done, total, name)
            depends = inputs[name] | identity
            figures = None if cache is None else cache.load(name, number, depends)
            if figures is None:
                figures = _measure(makers[name], clip, score, studio.device)
                if cache is not None:
                    cache.save(name, number, depends, figures)
            if "pictures" in figures:
                pictures[name].append(figures.pop("pictures").float() / 255)
            found[name].append(figures)
            done += 1
        clips.append(_facts(clip))
        read.append(score.identity(clip, clip.truth[clip.measured]))
        report = _report(found, clips) | {"source": source, "judges": dict(networks.names)}
        report |= {"stories": number + 1, "shots": shots, "reader": _reader(read)}
        if keep is not None:
            keep(report, stories)
    if progress is not None:
        progress("evaluate", total, total, "")
    return report, pictures


def _clip(
    studio: Studio, seed: int, number: int, shots: int, source: Source, own: Sequence[OwnClip] | None
) -> SourceClip:
    if own is None:
        return held_out_source(studio, seed, number, shots, source)
    return own_source(studio, seed, number, own, source)


def _facts(clip: SourceClip) -> dict[str, Any]:
    """What the report says of a clip: its number, length, keyframes and the frames on the sheet."""
    frames = {"frames": len(clip.truth), "keyframe_frames": clip.keyframes, "shown": clip.shown}
    return {"clip": clip.number, **({"name": clip.name} if clip.name else {}), **frames}


def _reader(read: Sequence[tuple[float | None, float | None]]) -> dict[str, float | None]:
    """What the recogniser reads of true frames."""
    names = ("identity", "identity_loss")
    return {name: mean_of([both[i] for both in read]).value for i, name in enumerate(names)}


def _measure(make: Upscaler, clip: SourceClip, score: ClipFigures, device: torch.device) -> Figures:
    """A variant's figures of a clip, with `seconds` of work for a second of video; of the first clip also `peak`, the
    bytes that this takes at most, for a second of video; of the first few `pictures` in 8 bits."""
    kept: Figures = {}
    if clip.number == 0:
        kept["peak"] = torch.tensor(peak_bytes(lambda: make(clip), device) / clip.seconds, dtype=torch.float64)
    begin = clock(device)
    video = make(clip)
    kept["seconds"] = torch.tensor((clock(device) - begin) / clip.seconds, dtype=torch.float64)
    if clip.number < SHEET_CLIPS:
        kept["pictures"] = (clip.sheet(video) * 255).round().byte()
    return score(clip, video) | kept


def _inputs(
    studio: Studio, variant: Variant, seed: int, shots: int, source: Source, networks: MetricModels
) -> dict[str, Any]:
    """What the figures of a variant's clips depend on."""
    from .... import __version__

    parts, settings = variant.depends_on(studio, source)
    return {
        "version": __version__,
        "figures": FIGURES,
        "variant": repr(variant),
        "studio": studio.fingerprint(*parts) if parts else "",
        "settings": settings,
        "seed": seed,
        "shots": shots,
        "source": source,
        "judges": dict(networks.identities),
    }


def _report(found: Mapping[str, Sequence[Figures]], clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows and comparisons of the clips so far."""
    keyframes = [clip["keyframe_frames"] for clip in clips]
    values = {
        name: {column: [numbers(own)[column] for own in some] for column in FIGURES} for name, some in found.items()
    }
    rows = [{"variant": name, **_row(found[name], values[name], keyframes)} for name in found]
    singles = [
        {"variant": name, **facts, **numbers(own)}
        for name, some in found.items()
        for facts, own in zip(clips, some, strict=True)
    ]
    distance = {name: by_distance(some, keyframes) for name, some in found.items()}
    return {"rows": rows, "paired": _paired(values), "clips": singles, "by_distance": distance}


def _columns(rows: Sequence[Row]) -> dict[str, list[float | None]]:
    return {name: [row[name] for row in rows] for name in FIGURES}


def _row(
    figures: Sequence[Figures], values: Mapping[str, Sequence[float | None]], keyframes: Sequence[Sequence[int]]
) -> Row:
    row: Row = {}
    for name in FIGURES:
        row[name], row[f"{name}_se"] = mean_of(values[name])
    row |= pooled(figures, keyframes)
    for name in ("seconds", "peak"):
        row[name] = mean_of([float(own[name]) for own in figures if name in own]).value
    return row


def _paired(values: Mapping[str, Mapping[str, Sequence[float | None]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """By reference and variant: what the variant's figures are above it, with the standard error of the difference."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for reference in REFERENCES:
        if reference not in values:
            continue
        out[reference] = {}
        for variant in values:
            if variant == reference:
                continue
            out[reference][variant] = own = {}
            for name in FIGURES:
                difference = paired_difference(values[variant][name], values[reference][name])
                if difference is not None:
                    own[name] = {"difference": difference.value, "se": difference.error, "clips": difference.stories}
    return out
