"""What stands still in the small video stands still in the large one (ours, not the paper's).

A network makes each frame of a window anew, and small differences between them show as flicker, most of all where
nothing moves. There the large picture is kept as it was made last, until the small one changes.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["REACH", "hold_codes", "hold_still"]

REACH = 2
"""Pixels of the small video around one in which nothing may change if it is to be kept."""


def hold_still(
    frames: Iterable[Tensor], small: Iterable[Tensor], change: float, anew: Container[int] = ()
) -> Iterator[Tensor]:
    """The frames of a video, in order, each pixel as it was made last where the small video stands still.

    A pixel of the small video may stray from its anchor by half of `change` to either side. When it goes farther, it
    gets a new anchor, and all large pixels within `REACH` of it are taken from the frame at hand. So nothing around a
    large pixel has changed by more than `change` since it was made: however slowly a scene fades, the large picture
    follows.

    Args:
        frames: `[3, H, W]` each, values or codes.
        small: `[3, h, w]` in 0…1, as many.
        change: in 0…1; 0 takes all frames as they come.
        anew: numbers of frames that are taken as they come, and kept from then on: where a shot begins, and keyframes.

    Yields:
        `[3, H, W]`; nothing is computed with the values, so where nothing changes the frames are equal bit for bit.
    """
    if change <= 0:
        yield from frames
        return
    kept: Tensor | None = None
    anchor = torch.empty(0)
    for number, (frame, source) in enumerate(zip(frames, small, strict=True)):
        source = source.to(frame.device)
        if kept is None or number in anew:
            kept, anchor = frame, source
        else:
            moved = (source - anchor).abs().amax(0, keepdim=True) > change / 2
            anchor = torch.where(moved, source, anchor)
            around = functional.max_pool2d(moved.float(), 2 * REACH + 1, 1, REACH)
            large = functional.interpolate(around[None], frame.shape[-2:], mode="nearest-exact")[0] > 0
            kept = torch.where(large, frame, kept)
        yield kept


def hold_codes(
    frames: Iterable[np.ndarray], small: Iterable[Tensor], change: float, anew: Container[int] = ()
) -> Iterator[np.ndarray]:
    """`hold_still` of codes `[H, W, 3]`, such as `media.lossless.read_lossless` gives."""
    kind = np.dtype(np.uint8)

    def tensors() -> Iterator[Tensor]:
        nonlocal kind
        for codes in frames:
            kind = codes.dtype
            signed = codes if kind == np.uint8 else codes.view(np.int16)  # 12 bits; torch knows no more of uint16
            yield torch.from_numpy(signed).permute(2, 0, 1)

    for frame in hold_still(tensors(), small, change, anew):
        yield np.ascontiguousarray(frame.permute(1, 2, 0).numpy()).view(kind)
