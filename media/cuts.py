"""Where a film cuts from one shot to the next, found in one pass.

FFmpeg's filter ``scdet`` says how much each frame differs from the one before (mean absolute difference, in percent of
the range). A cut is where that is far above its neighbours: the rule of PySceneDetect's AdaptiveDetector, which keeps
pans and shaking cameras from being cuts. Measured in `benchmarks/cuts.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from fractions import Fraction

import av
import torch.nn.functional as F
from av.filter import Graph
from av.video.reformatter import Interpolation
from torch import Tensor

from .frames import to_uint8
from .source_video import SourceVideo

__all__ = ["CutFinder", "cuts_of_video", "find_cuts"]

_LEAST = 2.5  # percent; between shots of one place in the pocket world it is 3 to 8
_RATIO = 2.5
_NEIGHBOURS = 2
_REPEATED = 0.1
_NEAR = Fraction(1, 2)  # seconds
_LINES = 45  # noise and small movements are gone at this size


class CutFinder:
    """Takes the frames of a film one by one and says where its shots begin, a few frames later.

    Frames that repeat the one before (animation drawn on twos, stills) count neither as frames nor as neighbours. Hard
    cuts are found, from shots of two frames up; dissolves and fades are not cuts here, since frames on both sides of
    them belong together. A flash is one at both its ends.

    Args:
        rate: frames per second, near enough: only neighbours within half a second count.
        ratio: how far above the mean of its neighbours a cut's difference is.
        least: smallest difference of a cut, in percent of the range.
    """

    def __init__(self, rate: float | Fraction, ratio: float = _RATIO, least: float = _LEAST) -> None:
        self._far = max(_NEIGHBOURS + 1, round(rate * _NEAR))
        self._ratio = ratio
        self._least = least
        self._graph: Graph | None = None
        self._seen = 0
        self._changes: deque[tuple[int, float]] = deque()  # (frame, difference) of those that do not repeat
        self._decided = 0  # how many of them

    def push(self, frame: Tensor) -> list[int]:
        """Take one frame `[3, H, W]` in 0…1; return the cuts that are certain now, as indices of first frames."""
        by = _reduction(*frame.shape[1:])
        small = F.avg_pool2d(frame[None].float(), by)[0] if by > 1 else frame
        return self._take(av.VideoFrame.from_ndarray(to_uint8(small), format="rgb24"))

    def push_decoded(self, frame: av.VideoFrame) -> list[int]:
        """Take one decoded frame, as it is stored; return as `push`."""
        by = _reduction(frame.height, frame.width)
        width, height = max(1, frame.width // by), max(1, frame.height // by)
        return self._take(
            frame.reformat(width=width, height=height, format="rgb24", interpolation=Interpolation.AREA, threads=1)
        )

    def finish(self) -> list[int]:
        """The cuts that were waiting for more frames."""
        return self._decide(last=True)

    def _take(self, small: av.VideoFrame) -> list[int]:
        if self._graph is None:
            self._graph = graph = Graph()
            graph.threads = 1
            source = graph.add_buffer(
                width=small.width, height=small.height, format=small.format, time_base=Fraction(1, 1000)
            )
            graph.link_nodes(source, graph.add("scdet", "threshold=100"), graph.add("buffersink")).configure()
        small.pts, small.time_base = self._seen, Fraction(1, 1000)
        self._graph.push(small)
        difference = float(self._graph.vpull().metadata["lavfi.scd.mafd"])
        if self._seen and difference > _REPEATED:
            self._changes.append((self._seen, difference))
        self._seen += 1
        return self._decide()

    def _decide(self, last: bool = False) -> list[int]:
        """Judge all changes whose neighbours are known."""
        cuts = []
        while self._decided < len(self._changes):
            index, difference = self._changes[self._decided]
            after = len(self._changes) - 1 - self._decided
            if not last and after < _NEIGHBOURS and self._seen - 1 - index < self._far:
                break
            low = max(0, self._decided - _NEIGHBOURS)
            around = [
                self._changes[i]
                for i in range(low, min(len(self._changes), self._decided + _NEIGHBOURS + 1))
                if i != self._decided
            ]
            near = [value for at, value in around if abs(at - index) <= self._far]
            mean = sum(near) / len(near) if near else 0.0
            if difference >= self._least and difference >= self._ratio * mean:
                cuts.append(index)
            self._decided += 1
            if self._decided > _NEIGHBOURS:
                self._changes.popleft()
                self._decided -= 1
        return cuts


def find_cuts(frames: Iterable[Tensor], rate: float | Fraction) -> list[int]:
    """Indices of the frames that begin a new shot; the first frame is none.

    Args:
        frames: `[3, H, W]` in 0…1, all of one size.
        rate: frames per second, near enough.
    """
    finder = CutFinder(rate)
    return [cut for frame in frames for cut in finder.push(frame)] + finder.finish()


def cuts_of_video(source: SourceVideo) -> list[int]:
    """The cuts of a video: several times faster than from its RGB frames. Finds `source.times` in the same pass.

    Raises:
        InputError: as reading `source` does.
    """
    finder = CutFinder(source.rate)
    return [cut for frame in source.decoded() for cut in finder.push_decoded(frame)] + finder.finish()


def _reduction(height: int, width: int) -> int:
    return max(1, min(height, width) // _LINES)
