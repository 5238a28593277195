"""How a shot's clip is sampled through its keyframes (SmartDirector §3.2); `stages.clips` plans the clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..execution.stage import Workspace
from ..media.frames import check_finite, psnr
from ..media.image import fit_image, read_image
from ..media.video import open_writer
from ..models.encoders.text import TextCond
from ..models.studio import Studio
from ..models.studio_config import VideoDefaults
from ..sampling.flow import Callback
from ..sampling.noise import seeded
from ..sampling.video import Method, decode_video, plan_video, sample_video
from ..story.shot import Shot
from ..story.timeline import Timeline
from .job import FilmJob

__all__ = ["make_clip", "sample_with_defaults"]


def make_clip(
    job: FilmJob, shot: Shot, prompt: str, seed: int, keyframe_names: Sequence[str], name: str, workspace: Workspace
) -> dict[str, Any]:
    """Sample the clip of `shot` through its keyframes and write it; returns the figures that were measured.

    Args:
        job: the film.
        prompt: what the video model reads.
        seed: of its noise.
        keyframe_names, name: the files of its keyframes and its own, in the film's folder.
        workspace: where these lie, and whom the sampler tells of its steps.
    """
    studio, settings, timeline = job.studio, job.settings.video, shot.timeline(job.story.fps)
    note = f"{shot.id}, {timeline.frames} frames"
    workspace.report(0, note)
    size = job.story.frame_size  # keyframes may be sharper than the film, for its upscaling
    keyframes = torch.stack([fit_image(read_image(workspace.source(file)), size) for file in keyframe_names])
    latents = sample_with_defaults(
        studio,
        settings,
        studio.video_text.encode([prompt]),
        timeline,
        keyframes,
        seeded(seed),
        callback=lambda step: workspace.report(step.index + 1, note),
    )
    figures = _Figures(dict(zip(timeline.keyframe_frames, keyframes, strict=True)))
    with open_writer(workspace.target(name), job.story.rate, lossless=True) as writer:
        for part in decode_video(studio.video_vae, latents, plan_video(timeline, settings.method)):
            for frame in part[0].cpu():
                figures.see(check_finite(frame, "video", name))
                writer.write(frame)
    return {"frames": timeline.frames, **figures.result()}


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
    sampling = settings.sampling if method is None else replace(settings.sampling, method=method)
    return sample_video(
        studio.video_model,
        studio.video_vae,
        text,
        timeline,
        keyframes,
        sampling,
        generator=generator,
        negative=studio.video_text.encode([settings.negative]) if sampling.guided else None,
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
            self._psnr[self._frames] = psnr(frame, wanted).item()
        self._last = frame.clone()  # a frame is a view of its whole chunk
        self._frames += 1

    def result(self) -> dict[str, Any]:
        """PSNR of every keyframe against the clip's frame at its place (dB), and the mean change between frames."""
        motion = self._motion / max(1, self._frames - 1)
        return {"keyframe_psnr_db": [round(self._psnr[i], 2) for i in self._keyframes], "motion": round(motion, 5)}
