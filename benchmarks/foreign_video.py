"""Any video in, the same video out? Measured on clips of every kind, at scale 1. For developers.

    python -m anchorshot.benchmarks.foreign_video [--only NAME] [--suffix mp4]

Each clip is read by `SourceVideo`, written by `open_target` and read again. The table says how far times, duration,
sound and colours moved on the way, and how far the first reading is from the pictures that the clip was made of.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError
from ..media.orientation import Orientation
from ..media.source_video import SourceVideo
from ..media.target_video import open_target
from .foreign_clips import CLICK, CLIPS, Clip, make_clip, picture

__all__ = ["Measured", "main", "measure"]


@dataclass(frozen=True)
class Measured:
    """What happened to one clip: times in milliseconds, colours in 1/255.

    Attributes:
        frames, shown: frames read, and frames that the clip shows.
        order: every frame is nearest to the picture that it should show, read and written: none lost, none twice.
        times: largest distance of a written frame's time from the one read.
        duration: distance of the durations.
        offset: how far the sound's click moved against the first frame; None without sound.
        clicked: how far the click that was written is from where the clip was made to have it.
        read: mean error of the colours read, of the pictures that the clip was made of (middles of patches).
        colour: mean difference between colours read and written, the worst channel.
        size, aspect: of the written frames.
        seeks: frames from the middle on are, bit for bit, those of the whole pass.
        notes: what `SourceVideo` says about it.
    """

    frames: int
    shown: int
    order: bool
    times: float
    duration: float
    offset: float | None
    clicked: float | None
    read: float
    colour: float
    size: tuple[int, int]
    aspect: Fraction
    seeks: bool
    notes: tuple[str, ...]


def measure(clip: Clip, folder: Path, suffix: str = "mp4") -> Measured:
    """Make a clip, read it, write it and read that.

    Raises:
        InputError: the clip is refused.
    """
    path = make_clip(clip, folder / "clip")
    source = SourceVideo(path)
    written = folder / f"written.{suffix}"
    read = []
    with open_target(written, source) as target:
        for frame in source.frames():
            target.write(frame.pixels, frame.time, frame.duration)
            read.append(frame.pixels)
    again = SourceVideo(written)
    back = [frame.pixels for frame in again.frames()]
    shown = clip.frames or clip.count
    truth = [_truth(clip, n) for n in range(clip.count)]
    order = [_nearest(frames, truth) for frames in (read, back)]
    wanted = list(range(clip.count - len(read), clip.count))
    times = [abs(a - b) for a, b in zip(source.times, again.times, strict=False)]
    heard = [_click(video) for video in (path, written)]
    offset = clicked = None
    if heard[0] is not None and heard[1] is not None:
        starts = [video.origin + video.times[0] for video in (source, again)]
        offset = float(abs((heard[1] - starts[1]) - (heard[0] - starts[0]))) * 1000
        made = CLICK + clip.sound_at - clip.picture_at - (Fraction(clip.count - shown) / clip.rate)
        clicked = float(abs(heard[1] - starts[1] - made)) * 1000
    return Measured(
        len(read),
        shown,
        order == [wanted, wanted],
        float(max(times)) * 1000,
        float(abs(source.duration - again.duration)) * 1000,
        offset,
        clicked,
        max(_error(a, truth[n]) for a, n in zip(read, wanted, strict=True)),
        max(float((a - b).mean((1, 2)).abs().max()) * 255 for a, b in zip(read, back, strict=True)),
        again.size,
        again.sample_aspect,
        all(_seeks(source, read, start) for start in range(1, len(read), 3)),
        source.notes,
    )


def _seeks(source: SourceVideo, whole: list[Tensor], start: int) -> bool:
    some = [(frame.index, frame.time, frame.pixels) for frame in source.frames(start, start + 2)]
    wanted = [(n, source.times[n], whole[n]) for n in range(start, min(start + 2, len(whole)))]
    return len(some) == len(wanted) and all(
        a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(some, wanted, strict=True)
    )


def _truth(clip: Clip, n: int) -> Tensor:
    """What frame `n` looks like upright."""
    frame = torch.from_numpy(picture(n, clip.size)).permute(2, 0, 1).float() / 255
    if clip.turn is None:
        return frame
    # by the matrix itself, pixel by pixel: (x, y) goes to (a·x + c·y, b·x + d·y)
    a, b, c, d = clip.turn
    y, x = np.mgrid[: clip.size[0], : clip.size[1]]
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    out = torch.zeros(3, to_y.max() + 1, to_x.max() + 1)
    out[:, to_y, to_x] = frame
    return out


def _middles(frame: Tensor) -> Tensor:
    """Means of the middles of the six patches, `[3, 6]`: chroma mixes at their edges."""
    turned = frame.shape[1] > frame.shape[2] and frame.shape[2] < 3 * frame.shape[1] // 4
    frame = Orientation(transposed=turned).upright(frame)
    height, width = frame.shape[1:]
    cells = []
    for row in range(2):
        for column in range(3):
            top, left = (2 * row + 1) * height // 4, (2 * column + 1) * width // 6
            cells.append(frame[:, top - 2 : top + 2, max(0, left - 2) : left + 2].mean((1, 2)))
    return torch.stack(cells, 1)


def _error(a: Tensor, b: Tensor) -> float:
    return float((_middles(a) - _middles(b)).mean(1).abs().max()) * 255


def _nearest(frames: list[Tensor], truth: list[Tensor]) -> list[int]:
    known = torch.stack([_middles(frame) for frame in truth])
    return [int((known - _middles(frame)).abs().sum((1, 2)).argmin()) for frame in frames]


def _click(path: Path) -> Fraction | None:
    """Seconds at which the sound of a file has its click, on the file's own clock."""
    with av.open(str(path)) as container:
        if not container.streams.audio:
            return None
        best, at = 0.0, None
        for frame in container.decode(audio=0):
            wave = np.abs(frame.to_ndarray().astype(np.float32))
            wave = wave.reshape(-1, frame.samples).max(0) if frame.format.is_planar else wave.reshape(-1)
            if float(wave.max()) > 2 * best:
                # where half of the peak is reached: codecs ring before it
                best = float(wave.max())
                first = int(np.argmax(wave > best / 2))
                at = frame.pts * Fraction(frame.time_base) + Fraction(first, frame.sample_rate)
        return at


def main(argv: list[str] | None = None) -> int:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m anchorshot.benchmarks.foreign_video")
    parser.add_argument("--only", default="", help="clips with this in their name")
    parser.add_argument("--suffix", default="mp4", help="container to write: mp4, mov, mkv")
    options = parser.parse_args(argv)
    table = Table()
    notes: list[str] = []
    for column in (
        "clip",
        "frames",
        "order",
        "seek",
        "time ms",
        "length ms",
        "sound ms",
        "click ms",
        "read",
        "colour",
        "size",
    ):
        table.add_column(column, justify="left" if column == "clip" else "right")
    os.environ.setdefault("SVT_LOG", "1")  # its encoder talks
    for name, clip in CLIPS.items():
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                m = measure(clip, Path(folder), options.suffix)
            except InputError as error:
                table.add_row(name, str(error))
                continue
        sound = ["–" if ms is None else f"{ms:.2f}" for ms in (m.offset, m.clicked)]
        numbers = [f"{m.times:.2f}", f"{m.duration:.2f}", *sound, f"{m.read:.2f}", f"{m.colour:.2f}"]
        size = f"{m.size[1]}×{m.size[0]}" + ("" if m.aspect == 1 else f" {m.aspect}")
        table.add_row(
            name, f"{m.frames}/{m.shown}", "ok" if m.order else "NO", "ok" if m.seeks else "NO", *numbers, size
        )
        notes += [f"{name}: {note}" for note in m.notes]
    console = Console(width=160)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
