"""From the nodes of extensions to the layouts: the end of a clip as context, and the clip with what follows it."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import InputImpl, Types
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core.errors import InputError
from ..media.append import append_frames, container_suffix
from ..media.joins import matched, scaled
from ..media.source_video import SourceVideo
from ..models.layouts.video_latents import FPS, MultiChunkVideo, decode_frames, extend_video, plan_of
from ..story.timeline import Timeline
from .film import IN_MEMORY
from .fits import video_latent
from .host import memory_errors, relative_paths, stop_if_asked, tell, temporary_folder
from .images import fitted, frames_of, to_image
from .video import check_rate, chunk_vae

__all__ = ["build_extension", "clip_end", "extended"]


@relative_paths()  # of the server's files
def clip_end(clip: Any, vae: Any, timeline: Timeline, context: int, clip_fps: float = 0.0) -> Tensor:
    """The frames to go on from, IMAGE `[T, H, W, 3]`: those of an IMAGE, or the last `context` of a VIDEO (0: all).

    A VIDEO's sides are brought to whole tokens; of a file no more frames than these are held.

    Raises:
        InputError: another rate than the timeline's, or a file that cannot be read.
    """
    if not hasattr(clip, "get_components"):
        check_rate(clip_fps, timeline)
        return clip
    source = _recording(clip)
    if source is None:
        parts = clip.get_components()
        check_rate(clip_fps or float(parts.frame_rate), timeline)
        frames = list(frames_of(parts.images[-context:], "clip"))
    else:
        check_rate(clip_fps or float(source.rate), timeline)
        for note in source.notes:
            tell(note, warn=True)
        frames = list(deque((frame.pixels for frame in _watched(source)), maxlen=context or None))
    if not frames:
        raise InputError("clip", "must hold at least one frame", 0, "connect a video")
    side = chunk_vae(vae).pixels_per_token
    size = tuple(max(1, round(pixels / side)) * side for pixels in frames[0].shape[-2:])
    if size != tuple(frames[0].shape[-2:]):
        seen = f"{frames[0].shape[-1]}x{frames[0].shape[-2]}"
        tell(f"what is new is made at {size[1]}x{size[0]} and scaled to the video's {seen}")
    return to_image(torch.stack([scaled(frame, (size[0], size[1])) for frame in frames]))


def build_extension(
    vae: Any, clip: Tensor, timeline: Timeline, keyframes: Any, context: int, fit: str = "cover"
) -> MultiChunkVideo:
    """`extend_video` for a node: `context` 0 looks back at the whole clip."""
    height, width = clip.shape[-3:-1]
    images: Any = () if keyframes is None else fitted(keyframes, (height, width), fit, "keyframes")
    with memory_errors("vae", f"a clip of {len(clip)} frames", "look back at fewer frames (context_frames)"):
        return extend_video(chunk_vae(vae), clip, timeline, images, context_frames=context or None)


@relative_paths()
def extended(latent: Any, vae: Any, clip: Any, audio: Any = None) -> tuple[Any, Any, Tensor]:
    """A clip and what was sampled after it.

    Returns:
        VIDEO; IMAGE of all frames, or what blocks where they would not fit into memory; IMAGE of the new frames, in the
        clip's size.

    Raises:
        InputError: a latent that is not Extend Video's, or not enough memory.
    """
    chunks = chunk_vae(vae)
    samples = video_latent(latent, "latent", chunks.latent_channels)
    if len(samples) != 1:
        fix = "sample one at a time, or choose one with Latent From Batch"
        raise InputError("latent", "must be of one video", f"a batch of {len(samples)}", fix)
    plan, rate = plan_of(latent), float(latent.get(FPS, 0))
    if not plan.first or not rate:
        fix = "connect what a sampler made of Extend Video's latent"
        raise InputError("latent", "must go on from a clip", "another layout", fix)
    # One frame more: the clip's last, as the VAE shows it.
    shown = replace(plan, first=plan.first - 1, frames=plan.frames + 1)
    with memory_errors("vae", f"{plan.frames} frames", "make the new part shorter or smaller"):
        decoded = list(decode_frames(chunks, latent, shown).movedim(-1, -3))
    source = _recording(clip) if hasattr(clip, "get_components") else None
    if source is not None:
        _same_rate(source.rate, rate)
        if audio is not None:
            tell("audio is for a clip of frames: the video keeps its own sound", warn=True)
        return _after_file(source, decoded, plan.chunks[0] == plan.first, rate)
    images, exact = clip, Fraction(rate).limit_denominator(1001)
    if hasattr(clip, "get_components"):
        parts = clip.get_components()
        images, exact, audio = parts.images, Fraction(parts.frame_rate), audio or parts.audio
        _same_rate(exact, rate)
    frames = frames_of(images, "clip")
    new = _new(decoded, frames[-1], plan.chunks[0] == plan.first, rate)
    joined = torch.cat([to_image(frames), new])
    made = Types.VideoComponents(images=joined, audio=audio, frame_rate=exact)
    return InputImpl.VideoFromComponents(made), joined, new


def _same_rate(clip: Fraction, new: float) -> None:
    """Say that what is new plays at another rate than it was made for: Extend Video was given something else."""
    if abs(float(clip) - new) > 0.002 * new:
        rates = f"it has {float(clip):.6g} frames per second, what is new was made for {new:.6g}"
        tell(f"clip: is this what Extend Video was given? {rates}", warn=True)


def _new(decoded: list[Tensor], last: Tensor, cuts: bool, rate: float) -> Tensor:
    """The new frames, IMAGE in the clip's size; `last` is the clip's last frame, `decoded[0]` the same decoded."""
    size = (decoded[0].shape[-2], decoded[0].shape[-1])
    frames = iter(decoded[1:]) if cuts else matched(decoded[1:], scaled(last, size).to(decoded[0]), decoded[0], rate)
    return to_image(torch.stack([scaled(frame, (last.shape[-2], last.shape[-1])) for frame in frames]))


def _after_file(source: SourceVideo, decoded: list[Tensor], cuts: bool, rate: float) -> tuple[Any, Any, Tensor]:
    """The same after a file: its packets are copied where that can be, and it is never in memory as a whole."""
    count, last = 0, None
    for frame in _watched(source):
        count, last = count + 1, frame.pixels
    assert last is not None, "a video has frames"
    new = _new(decoded, last, cuts, rate)
    handle, name = tempfile.mkstemp(container_suffix(source), "extended_", temporary_folder())
    os.close(handle)

    def frames() -> Iterator[Tensor]:
        for image in new:
            stop_if_asked()
            yield image.movedim(-1, 0)

    try:
        reason = append_frames(name, source, frames, source.rate, progress=lambda done: stop_if_asked())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    tell("the clip's own frames are copied" if reason is None else f"the clip is encoded again: {reason}")
    video = InputImpl.VideoFromFile(name)
    if 12 * source.size[0] * source.size[1] * (count + len(new)) > IN_MEMORY:
        rule = f"the frames of both need over {IN_MEMORY >> 20} MB; take the video output, for Save Video"
        return video, ExecutionBlocker(f"Extended Video: {rule}"), new
    images = to_image(torch.stack([frame.pixels for frame in _watched(source)]))
    return video, torch.cat([images, new]), new


def _recording(video: Any) -> SourceVideo | None:
    """The file that a VIDEO is; None for one that was trimmed, or made of frames.

    Raises:
        InputError: it cannot be read.
    """
    if not isinstance(video, InputImpl.VideoFromFile) or tuple(video.get_active_trim_window()) != (0.0, 0.0):
        return None
    source = video.get_stream_source()
    return SourceVideo(source, "clip") if isinstance(source, str) else None


def _watched(source: SourceVideo) -> Iterator[Any]:
    for frame in source.frames():
        stop_if_asked()
        yield frame
