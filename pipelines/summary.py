"""The summary of a film: what is where, how long everything took, and the figures that were measured on the way."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..core.files import write_atomic
from ..execution.run_folder import RunFolder
from ..execution.stage import Stage
from ..story.shot import Shot
from .job import FilmJob, Job
from .join import JoinedClip
from .stages.clips import Clips
from .stages.keyframes import Keyframes

if TYPE_CHECKING:
    from .text_film import TextFilmJob

__all__ = ["film_facts", "no_progress", "peak_memory", "summarise", "summarise_text", "write_summary"]


def summarise(job: FilmJob, run: RunFolder, placed: Sequence[JoinedClip], seconds: float) -> dict[str, Any]:
    """The summary as plain JSON.

    Args:
        job: the film; every stage is finished.
        run: its folder; what this run did not make was kept.
        placed: where each chosen shot lies in the film.
        seconds: duration of this run.
    """
    story, made = job.story, run.made
    shots = [_shot(job, run, story.shots[i], clip) for i, clip in zip(job.chosen, placed, strict=True)]
    keyframes = [
        run.results_of(story.shots[i].id)[f"keyframe-{k}"].info
        for i in job.remembered
        for k in range(len(story.shots[i].keyframes))
    ]
    tokens = sum(info.get("tokens", 0) for info in keyframes)
    uncompressed = sum(info.get("tokens_uncompressed", 0) for info in keyframes)
    return {
        **film_facts(job, placed),
        "shots": shots,
        "timings": {
            "run": round(seconds, 3),
            "keyframes": _spent(run, Keyframes),  # of pairs, too: they are keyframes
            "video": _spent(run, Clips),
            "made": sorted(made),
        },
        "tokens": {
            "keyframes": tokens,
            "uncompressed": uncompressed,
            "ratio": round(tokens / uncompressed, 4) if uncompressed else None,
        },
        "check": _check(keyframes),
        "settings": job.sampling_inputs(),
        **_upscaled(job),
        "files": ["film.mp4", *(["upscaled.mp4"] if job.upscale else []), "contact_sheet.png", "summary.json"],
    }


def _upscaled(job: FilmJob) -> dict[str, Any]:
    """What was made larger, where the film was."""
    from .upscale.film_job import film_upscale

    larger = film_upscale(job)
    if larger is None:
        return {}
    figures = {
        "size": [larger.target[1], larger.target[0]],
        "windows": sum(map(len, larger.windows.values())),
        "tiles": len(larger.tiles(larger.clips[0].size)),
        "keyframes": sum(len(clip.keyframes) + len(clip.made) for clip in larger.clips),
        "settings": larger.settings,
    }
    return {"upscaled": figures}


def film_facts(job: Job, placed: Sequence[JoinedClip]) -> dict[str, Any]:
    """What the summary of every film says of the whole: what it is, what made it, and what memory that took."""
    story, frames = job.story, placed[-1].start + placed[-1].frames
    return {
        "title": story.title,
        "studio": job.studio.name,
        "studio_hash": job.studio_hash,
        "device": str(job.studio.device),
        "fps": story.fps,
        "size": list(story.size),
        "frames": frames,
        "seconds": round(float(frames / story.rate), 6),
        "peak_memory_mb": peak_memory(job.studio.device),
    }


def _shot(job: FilmJob, run: RunFolder, shot: Shot, clip: JoinedClip) -> dict[str, Any]:
    timeline = shot.timeline(job.story.fps)
    records = run.results_of(shot.id)
    psnr = records["clip"].info["keyframe_psnr_db"]
    keyframes = [
        {
            "requested": key.requested.seconds,
            "snapped": key.snapped.seconds,
            "frame": key.frame,
            "psnr_db": psnr[k] if k < len(psnr) else None,
            **_figures(records[f"keyframe-{k}"].info, "requested", "snapped", "frame", "psnr_db"),
        }
        for k, key in enumerate(timeline.keyframes)
    ]
    rendered = [stage for stage in records if f"{shot.id}/{stage}" in run.made]
    return {
        "id": shot.id,
        "place": shot.place,
        "start": round(float(clip.start / job.story.rate), 6),
        "seconds": timeline.length.seconds,
        "requested_seconds": (timeline.requested or timeline.length).seconds,
        "frames": clip.frames,
        "overlap": clip.overlap,
        "take": run.take(shot.id),
        "seed": shot.noise_seed(),
        "keyframes": keyframes,
        "motion": records["clip"].info["motion"],
        "kept": not rendered,
        "render_seconds": round(sum(records[stage].seconds for stage in rendered), 3),
    }


def _figures(info: Mapping[str, Any], *taken: str) -> dict[str, Any]:
    """Figures of a manifest, which somebody may have edited, but for those whose names are taken."""
    return {name: value for name, value in info.items() if name not in taken}


def _check(keyframes: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
    """What the check of keyframes came to, of those that were checked: their number, attempts, and what still lacks."""
    checked = [info for info in keyframes if "attempts" in info and "missing" in info]
    if not checked:
        return None
    attempts, lacks = ([info[name] for info in checked] for name in ("attempts", "missing"))
    return {"keyframes": len(checked), "attempts": sum(attempts), "missing": sum(map(len, lacks))}


def _spent(run: RunFolder, stage: type[Stage]) -> float:
    return round(sum(record.seconds for name, record in run.results.items() if name in run.made and stage.has(name)), 3)


def summarise_text(
    job: TextFilmJob,
    run: RunFolder,
    placed: Sequence[JoinedClip],
    settings: dict[str, Any],
    weights: list[str],
    seconds: float,
) -> dict[str, Any]:
    """The summary of a text film as plain JSON; `weights` are the pages that were drawn of them."""
    story, shots = job.story, []
    for shot, clip in zip(story.shots, placed, strict=True):
        stages = run.results_of(shot.id)
        rendered = [stage for stage in stages if f"{shot.id}/{stage}" in run.made]
        shots.append(
            {
                "id": shot.id,
                "start": round(float(clip.start / story.rate), 6),
                "frames": clip.frames,
                **_figures(stages["segment"].info, "id", "start", "frames"),
                "kept": not rendered,
                "render_seconds": round(sum(stages[stage].seconds for stage in rendered), 3),
            }
        )
    return {
        **film_facts(job, placed),
        "shots": shots,
        "timings": {"run": round(seconds, 3), "made": sorted(run.made)},
        "settings": settings,
        "files": ["film.mp4", "contact_sheet.png", *weights, "summary.json"],
    }


def write_summary(run: RunFolder, summary: Mapping[str, Any]) -> None:
    """Write summary.json."""
    write_atomic(run.file("summary.json"), json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


def no_progress(stage: str, done: float, total: float, note: str = "") -> None:
    """Reports to nobody."""


def peak_memory(device: torch.device) -> dict[str, float]:
    """Most memory used so far, in MB: of the process, and of a CUDA device if it is one."""
    peak: dict[str, float] = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak["process"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
    if device.type == "cuda":
        peak["cuda"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return peak
