"""Benchmarks: what our samplers take, beside the stock pipelines and the papers' figures.

Suites: `keyframes` (Captain Cinema on the Flux class), `video` (SmartDirector on the Wan class) and `storytelling`
(Text2Story on the studio's video model).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..core.errors import InputError
from .table import Row, print_table

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["SUITES", "print_table", "run"]

SUITES = ("keyframes", "video", "storytelling")


def run(
    suite: str,
    studio: Studio | None = None,
    full_size: str | None = None,
    *,
    prompt_set: str | os.PathLike[str] | None = None,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
) -> list[Row]:
    """Run a suite.

    Args:
        suite: `keyframes`, `video` or `storytelling`.
        full_size: a CUDA device to time the public models' architectures on, with random weights, in place of the
            studio's models.
        studio: whose models to time; None makes random ones of the pocket studio's architecture. FLOPs are always those
            of the full-size public models.
        prompt_set: for `storytelling`: `pocket`, `benchmark` or a set's file; None takes `pocket` where the studio can
            make films of its size and length, else `benchmark`.
        size: (height, width) of films of a set; None takes the size that the studio's video model was made for.
        frames: of a segment of a set; None takes the studio's, too.

    Returns:
        Rows `{"what", "ours", "reference", "ratio"}`; `what` names the quantity, its unit and the reference, and
        `ratio` is ours / reference.

    Raises:
        InputError: no such suite, an option of another suite, full size without a GPU, or what the studio cannot make.
    """
    if suite not in SUITES:
        raise InputError("suite", f"must be one of {', '.join(SUITES)}", suite, "choose one of them")
    for name, value in (("set", prompt_set), ("size", size), ("frames", frames)):
        if value is not None and suite != "storytelling":
            shown = value if isinstance(value, (int, tuple)) else str(value)
            raise InputError(name, "is for the suite storytelling", shown, "leave it out")
    # Imported here, so that the command can list the suites without loading torch.
    if full_size is not None:
        if suite == "storytelling":
            raise InputError("suite", "has no full size", suite, "use keyframes or video, or leave --full-size out")
        import torch

        from .full_size import keyframe_rows, video_rows

        return (keyframe_rows if suite == "keyframes" else video_rows)(torch.device(full_size))
    if suite == "keyframes":
        from .keyframes import run_keyframes

        return run_keyframes(studio)
    if suite == "storytelling":
        from .storytelling import run_storytelling

        return run_storytelling(studio, None if prompt_set is None else os.fspath(prompt_set), size, frames)
    from .video import run_video

    return run_video(studio)
