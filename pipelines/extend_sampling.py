"""How one part of an extension is sampled, kept in colour, and measured (SmartDirector §1, Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..execution.stage import Workspace
from ..media.frames import check_finite, from_uint8, psnr
from ..media.image import read_image
from ..media.joins import matched
from ..media.video import VideoReader, open_writer
from ..sampling.noise import seeded
from ..sampling.video import decode_video, extend_video, plan_extension
from .extend_plan import Part

if TYPE_CHECKING:
    from .extend import ExtendJob

__all__ = ["look_back", "make_part"]


def look_back(files: Sequence[Any], frames: int) -> Tensor:
    """The last `frames` frames of clips that follow each other, or all if there are fewer, `[T, 3, H, W]`."""
    found: list[Tensor] = []
    for path in reversed(files):
        clip = [from_uint8(array) for array in VideoReader(path).arrays()]
        found = clip[-(frames - len(found)) :] + found
        if len(found) >= frames:
            break
    return torch.stack(found)


def make_part(job: ExtendJob, part: Part, seed: int, before: Sequence[str], workspace: Workspace) -> dict[str, Any]:
    """Sample what follows, write it losslessly, and return the figures of its join.

    Args:
        job: the extension.
        part: what is made.
        seed: of its noise.
        before: files in the folder whose last frames are the context, in order.
        workspace: where these lie, and whom the sampler tells of its steps.
    """
    studio, settings = job.studio, job.settings.sampling
    note = f"{part.shot}, {part.frames} frames"
    workspace.report(0, note)
    clip = look_back([workspace.source(name) for name in before], job.context)
    keyframes = [read_image(workspace.source(name)) for name in part.picture_files]
    latents = extend_video(
        studio.video_model,
        studio.video_vae,
        studio.video_text.encode([job.spoken(part.prompt)]),
        clip,
        part.timeline,
        keyframes,
        settings,
        context_frames=job.context,
        generator=seeded(seed),
        negative=studio.video_text.encode([job.settings.negative]) if settings.guided else None,
        callback=lambda step: workspace.report(step.index + 1, note),
    )
    plan = plan_extension(len(clip), part.timeline, job.context)
    # One frame more: the last that was given, as the VAE shows it.
    shown = replace(plan, first=plan.first - 1, frames=plan.frames + 1)
    decoded = (
        check_finite(frame, "video", part.file)
        for piece in decode_video(studio.video_vae, latents, shown)
        for frame in piece[0].float().cpu()
    )
    first = next(decoded)
    made = decoded if part.cuts else matched(decoded, clip[-1], first, float(job.grid.rate))
    kept: list[Tensor] = []
    with open_writer(workspace.target(part.file), job.grid.rate, lossless=True) as writer:
        for frame in made:
            writer.write(frame)
            kept.append(frame)
    return {"frames": len(kept), "seed": seed, **_figures(clip, kept)}


def _figures(clip: Tensor, new: Sequence[Tensor]) -> dict[str, float]:
    """How the join looks: likeness of neighbouring frames (dB) before, at and after it; the step in colour at it."""

    def likeness(frames: Sequence[Tensor]) -> float:
        found = [psnr(a, b).item() for a, b in pairwise(frames)]
        return round(sum(found) / len(found), 2) if found else 0.0

    step = (new[0] - clip[-1]).mean((1, 2)).abs().max().item()
    before, after = likeness(list(clip[-_NEAR:])), likeness(new[:_NEAR])
    return {
        "before_psnr_db": before,
        "join_psnr_db": likeness([clip[-1], new[0]]),
        "after_psnr_db": after,
        "colour_step": round(step, 5),
    }


_NEAR = 9
"""Frames on either side that a join is compared with."""
