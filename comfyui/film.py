"""Joining clips in memory, and drawing the contact sheet, from what nodes are given."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import InputError
from ..media.contact_sheet import SheetKeyframe, SheetShot, write_contact_sheet
from ..media.image import read_image, write_image
from ..pipelines.join import Transition, joined_clips
from ..story.timeline import frame_rate
from .host import relative_paths, temporary_folder
from .images import batches_of, frames_of, to_image

if TYPE_CHECKING:
    from ..story.storyboard import Storyboard

__all__ = ["IN_MEMORY", "contact_sheet", "join", "room", "transitions_of"]

IN_MEMORY = 1 << 28
"""Bytes up to which a film is held in memory."""


def transitions_of(
    clips: Any, storyboard: Storyboard | None, fps: float, transition: Transition
) -> tuple[list[Tensor], Fraction, list[Transition]]:
    """The clips `[T, 3, H, W]`, the film's rate, and how each clip joins the one before it.

    Raises:
        InputError: no frames, clips of different sizes, or another number than the storyboard's shots.
    """
    batches = batches_of(clips, "clips")
    if not sum(len(batch) for batch in batches):
        raise InputError("clips", "must hold at least one frame", 0, "connect the frames of a shot")
    if storyboard is None:
        return batches, frame_rate(fps), [transition] * len(batches)
    if len(batches) != len(storyboard.shots):
        fix = "give the shots in film order, or disconnect the storyboard"
        raise InputError("clips", f"must be {len(storyboard.shots)}, one for each shot", len(batches), fix)
    paired = storyboard.mode == "pairs"  # there a match is the same frame twice, which is shown once
    return batches, storyboard.rate, [shot.transition if paired else shot.joined for shot in storyboard.shots]


def join(clips: Sequence[Tensor], transitions: Sequence[Transition], fps: Fraction) -> Tensor:
    """The film as IMAGE `[T, H, W, 3]`: clips end to end, dissolving where they overlap."""
    placed = joined_clips([len(clip) for clip in clips], transitions, fps)
    frames, height, width = placed[-1].start + placed[-1].frames, *clips[0].shape[-2:]
    film = room(frames, height, width, 3)
    for clip, place in zip(clips, placed, strict=True):
        images, shared = clip.movedim(1, -1).cpu(), place.overlap
        if shared:
            weight = (torch.arange(1, shared + 1) / (shared + 1)).view(-1, 1, 1, 1)
            film[place.start : place.start + shared].lerp_(images[:shared], weight)
        film[place.start + shared : place.start + place.frames] = images[shared:]
    return film


def room(*shape: int) -> Tensor:
    """An empty tensor; a large one lies in a file that the system may put out of memory, gone with the tensor.

    A film is the second copy of all its clips, and may be many times larger than the models.
    """
    size = 4 * math.prod(shape)
    if size < IN_MEMORY:
        return torch.empty(shape)
    folder = temporary_folder()
    # A full disk under mapped memory would end the process: only where there is room twice over.
    if shutil.disk_usage(folder).free < 2 * size:
        return torch.empty(shape)
    handle, name = tempfile.mkstemp(".film", dir=folder)
    os.close(handle)
    try:
        return torch.from_file(name, shared=True, size=size // 4, dtype=torch.float32).view(shape)
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a mapped file; ComfyUI empties the folder
            os.unlink(name)


def contact_sheet(storyboard: Storyboard, keyframes: Any, check: Callable[[], None] = lambda: None) -> Tensor:
    """The pages as one IMAGE batch; a shorter last page is filled up below with its own background.

    `check` is called again and again; what it raises, such as an interruption, ends the drawing.

    Raises:
        InputError: another number of keyframes than the storyboard's.
    """
    timelines = [shot.timeline(storyboard.fps) for shot in storyboard.shots]
    wanted = sum(len(timeline.keyframes) for timeline in timelines)
    pictures = list(frames_of(keyframes, "keyframes"))
    if len(pictures) != wanted:
        fix = "connect the keyframes of every shot in film order"
        raise InputError("keyframes", f"must be {wanted}, the storyboard's keyframes", len(pictures), fix)
    starts = joined_clips([t.frames for t in timelines], [s.joined for s in storyboard.shots], storyboard.rate)
    with tempfile.TemporaryDirectory() as folder, relative_paths(folder):
        files = []
        for i, picture in enumerate(pictures):
            check()
            files.append(write_image(Path(folder, f"{i:04d}.png"), picture))
        cards, used = [], 0
        for shot, caption, timeline, start in zip(
            storyboard.shots, storyboard.captions(), timelines, starts, strict=True
        ):
            keys = [
                SheetKeyframe(file, key.requested.seconds, key.snapped.seconds)
                for file, key in zip(files[used:], timeline.keyframes, strict=False)
            ]
            used += len(keys)
            place = storyboard.places[shot.place] if shot.place else ""
            began = float(start.start / storyboard.rate)
            cards.append(SheetShot(shot.id, place, caption.prompt, began, timeline.length.seconds, keys))
        note = f"{len(cards)} shots, {len(pictures)} keyframes"
        drawn = write_contact_sheet(Path(folder, "sheet.png"), storyboard.title, note, cards, check)
        pages = [read_image(page) for page in drawn]
    height, width = max(p.shape[1] for p in pages), max(p.shape[2] for p in pages)
    sheet = torch.stack([torch.zeros(3, height, width) + page[:, :1, :1] for page in pages])
    for row, page in zip(sheet, pages, strict=True):
        row[:, : page.shape[1], : page.shape[2]] = page
    return to_image(sheet)
