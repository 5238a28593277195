"""Stage 2: the video of every chosen shot, through its keyframes, streamed to the disk (SmartDirector §3.2)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..media.picture import read_picture
from ..media.video import open_writer
from ..models.encoders.text import TextCond
from ..models.studio import Studio
from ..models.studio_config import VideoDefaults
from ..sampling.flow import Callback
from ..sampling.video import Experts, Method, decode_video, plan_video, sample_video
from ..story.shot import Shot
from ..story.stages import stage_seed
from ..story.timeline import Timeline
from .job import FilmJob, clip_file, keyframe_file, stage_generator

__all__ = ["make_clips", "sample_with_defaults"]

_INFO = ("keyframe_psnr_db", "motion")


@dataclass(frozen=True)
class _Task:
    """One shot's clip."""

    position: int
    shot: Shot
    timeline: Timeline
    seed: int
    inputs: dict[str, Any]


def make_clips(job: FilmJob) -> None:
    """Make the clip of every chosen shot that is missing or out of date; the keyframes must be there."""
    tasks = [_task(job, position) for position in job.chosen]
    pending = [
        task for task in tasks if job.pending(f"{task.shot.id}/clip", task.inputs, [clip_file(task.shot)], _INFO)
    ]
    if not pending:
        return
    prompts, _ = job.aliased(job.studio.video_text)
    for number, task in enumerate(pending):
        _make(job, task, prompts[task.position], number, len(pending))


def _task(job: FilmJob, position: int) -> _Task:
    shot = job.story.shots[position]
    timeline = shot.timeline(job.story.fps)
    seed = stage_seed(shot, job.run.take(shot.id), "clip")
    pictures = []
    for index in range(len(shot.keyframes)):
        record = job.run.record(f"{shot.id}/keyframe-{index}")
        pictures.append("" if record is None else record.outputs[keyframe_file(shot, index)])
    inputs = {
        "prompt": job.captions[position].prompt,
        "keyframes": pictures,
        "timeline": timeline.to_dict(),
        "seed": seed,
        "settings": job.settings.video_inputs(),
        "studio": job.studio_hash,
    }
    return _Task(position, shot, timeline, seed, inputs)


def _make(job: FilmJob, task: _Task, prompt: str, number: int, clips: int) -> None:
    studio, settings, shot = job.studio, job.settings.video, task.shot
    steps = settings.steps
    begin = time.perf_counter()

    def report(done: int) -> None:
        job.progress("video", number * steps + done, clips * steps, f"{shot.id}, {task.timeline.frames} frames")

    report(0)
    names = [keyframe_file(shot, index) for index in range(len(shot.keyframes))]
    keyframes = torch.stack([read_picture(job.run.path / name) for name in names])
    latents = sample_with_defaults(
        studio,
        settings,
        studio.video_text.encode([prompt]),
        task.timeline,
        keyframes,
        stage_generator(task.seed),
        callback=lambda step: report(step.index + 1),
    )
    name = clip_file(shot)
    figures = _Figures(dict(zip(task.timeline.keyframe_frames, keyframes, strict=True)))
    with open_writer(job.run.file(name), job.story.rate, lossless=True) as writer:
        for part in decode_video(studio.video_vae, latents, plan_video(task.timeline, settings.method)):
            for frame in part[0].cpu():
                figures.see(frame)
                writer.write(frame)
    info = {"take": job.run.take(shot.id), "seed": task.seed, "frames": task.timeline.frames, **figures.result()}
    job.run.finish(f"{shot.id}/clip", task.inputs, [name], time.perf_counter() - begin, **info)
    report(steps)


def sample_with_defaults(
    studio: Studio,
    settings: VideoDefaults,
    text: TextCond,
    timeline: Timeline,
    keyframes: Tensor,
    generator: torch.Generator | list[torch.Generator],
    method: Method | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """`sample_video` as the studio's settings say: its one model or two experts, guidance, steps and text length.

    Args:
        studio: models.
        settings: usually ``studio.defaults.video``.
        text, timeline, keyframes, generator, callback: as in `sample_video`.
        method: overrides that of the settings.

    Returns:
        Latents of all chunks, `[B, C, F, h, w]`.
    """
    low = studio.video_low
    guidance = (settings.guidance, settings.guidance if settings.guidance_low is None else settings.guidance_low)
    guided = any(scale != 1 for scale in guidance)
    return sample_video(
        studio.video if low is None else Experts(studio.video, low, settings.boundary),
        studio.video_vae,
        text,
        timeline,
        keyframes,
        method=method or settings.method,
        steps=settings.steps,
        shift=settings.shift,
        generator=generator,
        negative=studio.video_text.encode([settings.negative]) if guided else None,
        guidance=guidance,
        text_length=settings.text_length,
        callback=callback,
    )


class _Figures:
    """Measures a clip while it streams by; holds one frame at a time besides the keyframes."""

    def __init__(self, keyframes: dict[int, Tensor]) -> None:
        self._keyframes = keyframes
        self._psnr: dict[int, float] = {}
        self._last: Tensor | None = None
        self._motion = 0.0
        self._frames = 0

    def see(self, frame: Tensor) -> None:
        """Take in the next frame `[3, H, W]`."""
        if self._last is not None:
            self._motion += (frame - self._last).abs().mean().item()
        wanted = self._keyframes.get(self._frames)
        if wanted is not None:
            self._psnr[self._frames] = -10 * math.log10(max(functional.mse_loss(frame, wanted).item(), 1e-10))
        self._last = frame.clone()  # a frame is a view of its whole chunk
        self._frames += 1

    def result(self) -> dict[str, Any]:
        """PSNR of every keyframe against the clip's frame at its place (dB), and the mean change between frames."""
        motion = self._motion / max(1, self._frames - 1)
        return {"keyframe_psnr_db": [round(self._psnr[i], 2) for i in self._keyframes], "motion": round(motion, 5)}
