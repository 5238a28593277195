"""What workers bring: ``python -m anchorshot.benchmarks.workers [--shots 12] [--workers 2] [--ray] [--studio pocket]``.

Makes one film by the real command: in one process, by one worker, by several, and on Ray where that is asked for, one
CPU thread each. Every film must equal the first, byte for byte. Clips go freely, so they are timed alone: each run
resumes a folder that has all keyframes and no clips, and its time goes from the first clip's begin to the last one's
end. Compare on an idle machine; the load is printed beside the times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["main", "span"]

_TIMES = ("manifest.json", "summary.json", ".lock")
_MADE = re.compile(r"^ *([0-9.]+) s +\S+/clip made in ([0-9.]+) s", re.MULTILINE)


def _story(shots: int, seconds: float) -> dict[str, Any]:
    people = (
        ("Mira", "left", "waves"),
        ("Pip", "right", "jumps"),
        ("Mira", "right", "walks"),
        ("Pip", "left", "waves"),
    )
    found = []
    for i in range(shots):
        name, side, action = people[i % len(people)]
        place = ("dunes", "town")[i // 2 % 2]
        action = f"<{name}> {action} on the {side}."
        found.append({"id": f"s{i + 1:02d}", "place": place, "action": action, "seconds": seconds})
    return {
        "title": "Workers",
        "fps": 8,
        "size": [160, 80],
        "characters": {"Mira": "a yellow square with a crown", "Pip": "a pink circle with a bow"},
        "places": {"dunes": "the desert", "town": "the town"},
        "shots": found,
    }


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in _TIMES]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    for record in found["stages"].values():
        del record["seconds"]
    return found


def span(log: str) -> float:
    """Seconds from the begin of the first clip to the end of the last, from what the command says on stderr."""
    made = [(float(end), float(seconds)) for end, seconds in _MADE.findall(log)]
    return max(end for end, _ in made) - min(end - seconds for end, seconds in made)


def _run(story: Path, out: Path, studio: str, *more: str) -> tuple[float, str]:
    """Run the command; returns its seconds and what it said."""
    command = [sys.executable, "-m", "anchorshot.cli", "film", str(story), "--out", str(out), "--studio", studio]
    begin = time.perf_counter()
    done = subprocess.run(
        [*command, "--device", "cpu", "--threads", "1", *more],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(more) or 'one process'}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return time.perf_counter() - begin, done.stderr


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all and print a line each; 1 if a film differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--shots", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.125)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--studio", default="pocket")
    options = parser.parse_args(arguments)
    several = ["--workers", str(options.workers)]
    ways = [["--workers", "1"], several, *([["--ray", *several]] if options.ray else [])]
    worst = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        story = folder / "story.json"
        story.write_text(json.dumps(_story(options.shots, options.seconds)))
        seconds, log = _run(story, folder / "whole", options.studio)
        expected, manifest = _digests(folder / "whole"), _manifest(folder / "whole")
        print(f"one process: whole film {seconds:.1f} s, its clips {span(log):.1f} s; {len(expected)} files")
        one = 0.0
        for way in ways:
            seconds, _ = _run(story, folder / "other", options.studio, *way)
            same = _digests(folder / "other") == expected and _manifest(folder / "other") == manifest
            shutil.rmtree(folder / "other" / "clips")
            (folder / "other" / "film.mp4").unlink()
            alone, log = _run(story, folder / "other", options.studio, "--resume", *way)
            same = same and _digests(folder / "other") == expected and _manifest(folder / "other") == manifest
            clips = span(log)
            one = one or clips
            load = f"; load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
            print(
                f"{' '.join(way)}: whole film {seconds:.1f} s; clips alone {clips:.1f} s ({clips / one:.2f} of one "
                f"worker's), command {alone:.1f} s; {'the same bytes' if same else 'OTHER BYTES'}{load}",
                flush=True,
            )
            worst |= not same
            shutil.rmtree(folder / "other")
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
