"""Benchmarks: what our samplers take, beside the stock pipelines and the papers' figures.

Suites: `keyframes` (Captain Cinema on the Flux class), `video` (SmartDirector on the Wan class), `storytelling`
(Text2Story on the studio's video model), `pairs` (STAGE on the Qwen-Image class), `upscale` (limited attention in
super-resolution) and `kernels` (errors and sizes of the Triton kernels); see `suites.SUITES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..evaluation.options import check_owner, find
from . import suites
from .table import Row, print_table

if TYPE_CHECKING:
    from ..models.studio import Studio

__all__ = ["print_table", "run", "suites"]


def run(suite: str, studio: Studio | None = None, full_size: str | None = None, **options: Any) -> list[Row]:
    """Run a suite.

    Args:
        suite: `keyframes`, `video`, `storytelling`, `pairs`, `upscale` or `kernels`.
        studio: whose models to time; None makes random ones of the pocket studio's architecture. FLOPs are always those
            of the full-size public models.
        full_size: a CUDA device to time the public models' architectures on, with random weights, in place of the
            studio's models.
        options: those of the suite; for `storytelling` `prompt_set`, `size` and `frames`, see `FilmOptions`.

    Returns:
        Rows `{"what", "ours", "reference", "ratio"}`; `what` names the quantity, its unit and the reference, and
        `ratio` is ours / reference.

    Raises:
        InputError: no such suite, an option of another suite, full size without a GPU, or what the studio cannot make.
    """
    chosen = find(suites.SUITES, suite)
    check_owner(suites.SUITES, suite, options)
    settings = chosen.options.parse(options)
    if full_size is None:
        return chosen.run(studio, settings)
    import torch  # here, so that the command can list the suites without it

    return chosen.full_size(torch.device(full_size))
