"""What the length of a video costs when it is upscaled: ``python -m anchorshot.benchmarks.upscale_length``.

Runs the real command on a video of 10 s and on one of 10 minutes (160×80 at 8 frames/s, a cut every 12 s), and
compares peak memory and time per frame; within the long run, the windows of its first and last quarter. Then kills
(SIGKILL) a run at some moments, of the long video or of one of another length, resumes it, and compares the bytes of
what comes out. A model works in the windows of its studio. Needs POSIX.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ..media.video import open_writer
from .table import Row, print_table, row

FPS, SIZE, SHOT = 8, (80, 160), 96


def _video(path: Path, seconds: int) -> None:
    """A video of shots of one random ground each, with something that moves over it."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(*(torch.linspace(0, 1, side) for side in SIZE), indexing="ij")
    with open_writer(path, FPS) as writer:
        for n in range(seconds * FPS):
            if n % SHOT == 0:
                low, high, own = torch.rand(3, 3, 1, 1, generator=generator)
            frame = low + (high - low) * (rows + columns) / 2
            at = n % SHOT
            frame[:, 30:60, at : at + 24] = own
            writer.write(frame)


def _command(video: Path, out: Path, method: str, studio: str, *more: str) -> list[str]:
    own = ["--method", method, "--studio", studio, "--keyframes", "none"]
    own += [] if method == "model" else ["--window", "33", "--overlap", "4"]
    python = [sys.executable, "-m", "anchorshot.cli", "upscale", str(video), "--out", str(out), "--device", "cpu"]
    return [*python, *own, "--keep-windows", *more]


def _run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of a command."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ended with {process.returncode}: {' '.join(command)}")
    return time.perf_counter() - begin, usage.ru_maxrss / (1024 if sys.platform != "darwin" else 1 << 20)


def _per_frame(out: Path) -> list[float]:
    """Seconds per frame of each window, in order."""
    stages: dict[str, Any] = json.loads((out / "manifest.json").read_text())["stages"]
    names = sorted((name for name in stages if "/window-" in name), key=lambda name: int(name.rpartition("-")[2]))
    return [stages[name]["seconds"] / stages[name]["info"]["upscaled_frames"] for name in names]


def _digest(out: Path) -> str:
    return hashlib.sha256((out / "upscaled.mp4").read_bytes()).hexdigest()


def run_length(work: Path, method: str, studio: str, seconds: tuple[int, int], kills: int, killed: int) -> list[Row]:
    """All comparisons; raises SystemExit where a run that was killed comes to other bytes."""
    measured = {}
    for length in dict.fromkeys((seconds[0], killed, seconds[1])):
        video, out = work / f"{length}.mp4", work / f"{length}"
        _video(video, length)
        measured[length] = (*_run(_command(video, out, method, studio)), _per_frame(out))
        print(f"{length} s: {measured[length][0]:.0f} s, {measured[length][1]:.1f} MiB", flush=True)
    short, long = (measured[length] for length in seconds)
    quarter = max(1, len(long[2]) // 4)
    first, last = (1e3 * statistics.median(part) for part in (long[2][:quarter], long[2][-quarter:]))
    middle = [1e3 * statistics.median(times) for times in (long[2], short[2])]
    name = f"{seconds[1]} s against {seconds[0]} s"
    rows = [
        row(f"peak memory, MiB, {name}", long[1], short[1]),
        row(f"time per frame of a window, ms, {name}", *middle),
        row("time per frame of a window, ms, last quarter against first", last, first),
    ]
    wanted, video, out = _digest(work / str(killed)), work / f"{killed}.mp4", work / "killed"
    for i in range(kills):
        command = _command(video, out, method, studio, *(["--resume"] if i else []))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(max(1.0, measured[killed][0] * 0.8 / kills))
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"killed with {len(list((out / 'windows').glob('*.mkv')))} windows", flush=True)
    _run(_command(video, out, method, studio, "--resume"))
    if _digest(out) != wanted:
        raise SystemExit(f"killed {kills} times and resumed: OTHER BYTES")
    return rows


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=("model", "bicubic", "lanczos"), default="lanczos")
    parser.add_argument("--studio", default="pocket")
    parser.add_argument("--seconds", type=int, nargs=2, default=(10, 600), help="of the short and the long video")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--killed", type=int, help="seconds of the video whose run is killed; default: the long one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anchorshot-length-") as work:
        killed = options.killed or options.seconds[1]
        rows = run_length(Path(work), options.method, options.studio, tuple(options.seconds), options.kills, killed)
    print_table(rows)
    print(f"{killed} s, killed {options.kills} times and resumed: the same bytes")


if __name__ == "__main__":
    main()
