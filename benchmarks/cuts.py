"""How many cuts of a film are found, and how many are made up. For developers.

    python -m anchorshot.benchmarks.cuts [--films 6]

Films of the pocket world's test stories, whose cuts are known: shots of 1 to 2.5 s, shots of a third to two thirds of a
second, shots with a white frame in the middle, shots that fade or dissolve into each other. Places come back, so many
cuts change little more than who stands where.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..media.cuts import find_cuts
from ..pocket.render import render_clip
from ..pocket.world import make_story

__all__ = ["KINDS", "film", "main"]

KINDS = {"cuts": 12, "short shots": 12, "flashes": 12, "fades": 24, "dissolves": 24}
"""Frames per second of each kind of film."""
_SLOW = 12  # frames of a dissolve, and of each half of a fade


def film(kind: str, seed: int, shots: int = 8) -> tuple[list[np.ndarray], list[int]]:
    """The frames of one film, uint8 `[80, 160, 3]`, and the first frames of its shots after hard cuts."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    story = make_story(seed, shots, "test")
    frames: list[np.ndarray] = []
    cuts: list[int] = []
    for n, shot in enumerate(story.shots):
        if n and shot == story.shots[n - 1]:
            continue
        least, most = {"short shots": (4, 8), "fades": (40, 60), "dissolves": (40, 60)}.get(kind, (12, 30))
        clip = render_clip(shot, int(rng.integers(least, most)), KINDS[kind])[0].astype(np.float32)
        ramp = (np.arange(_SLOW, dtype=np.float32) + 1)[:, None, None, None] / (_SLOW + 1)
        if kind == "flashes":
            clip[len(clip) // 2] = 255
        if not frames:
            frames = list(clip)
            continue
        if kind == "fades":
            frames[-_SLOW:] = list(np.stack(frames[-_SLOW:]) * (1 - ramp))
            clip[:_SLOW] *= ramp
        elif kind == "dissolves":
            frames[-_SLOW:] = list(np.stack(frames[-_SLOW:]) * (1 - ramp) + clip[:_SLOW] * ramp)
            clip = clip[_SLOW:]
        else:
            cuts.append(len(frames))
        frames += list(clip)
    return [frame.round().clip(0, 255).astype(np.uint8) for frame in frames], cuts


def as_tensors(frames: list[np.ndarray]) -> Iterator[Tensor]:
    """Frames as `find_cuts` takes them."""
    for frame in frames:
        yield torch.from_numpy(frame).permute(2, 0, 1).float() / 255


def main(argv: list[str] | None = None) -> int:
    """Print precision and recall for each kind of film."""
    parser = argparse.ArgumentParser(prog="python -m anchorshot.benchmarks.cuts")
    parser.add_argument("--films", type=int, default=6, help="films of each kind")
    options = parser.parse_args(argv)
    print(f"{'films':12}  cuts  found  missed  made up")
    for kind, rate in KINDS.items():
        right = missed = wrong = 0
        for seed in range(options.films):
            frames, cuts = film(kind, seed)
            found = set(find_cuts(as_tensors(frames), rate))
            right, missed = right + len(found & set(cuts)), missed + len(set(cuts) - found)
            wrong += len(found - set(cuts))
        print(f"{kind:12}  {right + missed:4}  {right:5}  {missed:6}  {wrong:7}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
