"""What a film survives: ``python -m anchorshot.benchmarks.durability [--moments 30] [--sizes 8] [--only film|tell]``.

Runs the real command, kills it (SIGKILL) at moments spread over an unbroken run, or gives it a disk that is too small,
resumes it, and compares every file with the unbroken run's, byte for byte (but for the manifest and the summary, which
tell times). Full disks are small tmpfs mounts and need Linux and root.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

STORY = """
title: Durability
fps: 8
size: [160, 80]
characters: {Mira: a yellow square with a crown, Pip: a pink circle with a bow}
places: {dunes: the desert, town: the town}
shots:
  - {id: s01, place: dunes, action: <Mira> waves on the left., seconds: 0.625}
  - {id: s02, place: town, action: <Pip> jumps on the right., seconds: 0.625, transition: blend}
  - {id: s03, place: dunes, action: <Pip> waves on the right., seconds: 1.125}
"""
_TIMES = ("manifest.json", "summary.json", ".lock")


def _command(task: str, story: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "anchorshot.cli", task, str(story), "--out", str(out), "--device", "cpu", *more]


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in _TIMES]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _state(folder: Path) -> dict[str, int]:
    """Times of change of the files that the manifest vouches for."""
    manifest = folder / "manifest.json"
    stages = json.loads(manifest.read_text())["stages"] if manifest.exists() else {}
    names = [name for entry in stages.values() for name in entry["outputs"]]
    return {name: (folder / name).stat().st_mtime_ns for name in names}


def _resume(task: str, story: Path, out: Path, expected: dict[str, str]) -> str:
    """Go on in `out`; empty, or what is wrong with the result."""
    before = _state(out)
    done = subprocess.run(_command(task, story, out, "--resume"), capture_output=True, text=True, check=False)
    if done.returncode:
        return f"resume ended with {done.returncode}: {done.stderr[-200:]}"
    found = _digests(out)
    if found != expected:
        return (
            f"other files: {sorted(name for name in found.keys() | expected if found.get(name) != expected.get(name))}"
        )
    after = _state(out)
    again = [name for name, changed in before.items() if after.get(name) != changed]
    return f"made again: {again}" if again else ""


def kills(task: str, story: Path, work: Path, expected: dict[str, str], seconds: float, moments: int) -> list[str]:
    """Kill a run at `moments` moments of its `seconds`; the faults that were found."""
    faults = []
    for i in range(moments):
        out = work / f"{task}-kill-{i}"
        run = subprocess.Popen(_command(task, story, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds * (i + 1) / (moments + 1))
        run.send_signal(signal.SIGKILL)
        run.wait()
        if fault := _resume(task, story, out, expected):
            faults.append(f"killed at {i + 1}/{moments + 1}: {fault}")
    return faults


def full_disks(task: str, story: Path, work: Path, expected: dict[str, str], sizes: Sequence[int]) -> list[str]:
    """Run on disks of `sizes` bytes, then with room; the faults that were found."""
    faults = []
    for size in sizes:
        disk = work / f"{task}-disk-{size}"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
        try:
            out = disk / "film"
            done = subprocess.run(_command(task, story, out), capture_output=True, text=True, check=False)
            last = (done.stderr.splitlines() or [""])[-1]
            if done.returncode != 1 or "Traceback" in done.stderr or "No space left" not in last:
                faults.append(f"{size} bytes: ended with {done.returncode}: {done.stderr[-300:]}")
            if left := [path.name for path in disk.rglob(".tmp-*")]:
                faults.append(f"{size} bytes: left {left}")
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            if fault := _resume(task, story, out, expected):
                faults.append(f"{size} bytes: {fault}")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return faults


def main() -> int:
    """Print one line for each kind of trial; 1 if any film was not what it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=6, help="kills of each kind of film (6)")
    parser.add_argument("--sizes", type=int, default=2, help="full disks of each kind of film (2)")
    parser.add_argument("--only", choices=("film", "tell"))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        story = work / "story.yaml"
        story.write_text(STORY)
        for task in (options.only,) if options.only else ("film", "tell"):
            begin = time.monotonic()
            subprocess.run(_command(task, story, work / task), check=True, stdout=subprocess.DEVNULL)
            seconds, expected = time.monotonic() - begin, _digests(work / task)
            total = sum(path.stat().st_size for path in (work / task).rglob("*") if path.is_file())
            sizes = [max(4096, total * (i + 1) // (options.sizes + 1) // 4096 * 4096) for i in range(options.sizes)]
            for what, trials, faults in (
                ("killed", options.moments, kills(task, story, work, expected, seconds, options.moments)),
                ("on a full disk", len(sizes), full_disks(task, story, work, expected, sizes)),
            ):
                bad = len({fault.partition(":")[0] for fault in faults})
                print(
                    f"{task} {what}: {trials - bad} of {trials} equal after --resume", *faults, sep="\n  ", flush=True
                )
                found += faults
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
