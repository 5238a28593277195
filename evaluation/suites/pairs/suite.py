"""The suite `pairs`. Nothing heavy is imported before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from ...options import Flag, whole
from ...suite import Columns, Panel, Result, Run, Suite, SuiteOptions
from ..text2story.options import clip_and_config

if TYPE_CHECKING:
    from ....models.studio import Studio
    from ...report import Strip

__all__ = ["EXTRA", "PairsOptions", "PairsSuite"]

EXTRA = ("told", "canvas", "fit", "pixel", "full_references", "previous_end", "recency")
"""Rows that are run only where they are asked for."""


class PairsOptions(SuiteOptions):
    """Options of the suite.

    Attributes:
        films: so many of the stories are filmed as well, every shot between its pair: columns `SC_video` and so on.
        clip: file of the CLIP that judges, and its open_clip name or JSON; None takes the studio's.
        dino: folder of the network whose features subject consistency is measured with; None takes the recogniser's.
        judges: networks in the place of files.
    """

    heading: ClassVar[str] = "pairs only"

    films: Annotated[
        int,
        whole(0),
        Flag("of how many stories every shot is filmed between its pair (default: 4)", "N", whole=(0, 10_000)),
    ] = 4
    clip: Annotated[
        tuple[str, str | None] | None,
        Flag(
            "CLIP that judges: open_clip safetensors, and its model name or JSON",
            "FILE[,CONFIG]",
            read=clip_and_config,
            reads_file=True,
        ),
    ] = None
    dino: Annotated[str | None, Flag("DINO for consistency: a transformers folder", "FOLDER", reads_file=True)] = None
    judges: Annotated[Any, Field(exclude=True)] = None


class PairsSuite(Suite[PairsOptions]):
    """STAGE's ablation on the pocket world; see `run.run_pairs`."""

    name = "pairs"
    options = PairsOptions
    variants = (
        "ground_truth",
        "full",
        "no_memory_pack",
        "no_history",
        "no_dual_encoding",
        "no_dpo",
        "references",
    )

    def run(self, studio: Studio, options: PairsOptions, run: Run) -> Result:
        """See `Suite.run`."""
        from ...metrics.networks import MetricModels
        from .run import run_pairs
        from .variants import chosen_variants

        chosen = chosen_variants(studio, options.variants)
        networks = options.judges
        if networks is None:
            clip, config = options.clip or (None, None)
            networks = MetricModels.load(clip, config, options.dino, device=str(studio.device))
        stories, shots = options.number("stories"), options.number("shots")
        figures, frames = run_pairs(
            studio, run.classifier(), options.seed, stories, shots, chosen, options.films, networks, run.progress
        )
        return Result(figures, stories, shots, frames)

    def tables(self, result: Mapping[str, Any]) -> Sequence[Columns]:
        """See `Suite.tables`."""
        from .report import tables

        return tables(result)

    def note(self, result: Mapping[str, Any]) -> str:
        """See `Suite.note`."""
        from .report import note

        return note(result)

    def panels(self, result: Mapping[str, Any]) -> Sequence[Panel]:
        """See `Suite.panels`."""
        from .report import panels

        return panels(result)

    def strips(self, result: Mapping[str, Any], frames: Mapping[str, Any]) -> Sequence[Sequence[Strip]]:
        """See `Suite.strips`."""
        from .report import strips

        return strips(frames)
