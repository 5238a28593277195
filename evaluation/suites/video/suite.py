"""The suite `video`. Nothing heavy is imported before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...suite import Columns, Panel, Result, Run, Suite, SuiteOptions

if TYPE_CHECKING:
    from ....models.studio import Studio
    from ...report import Strip

__all__ = ["VideoSuite"]


class VideoSuite(Suite[SuiteOptions]):
    """SmartDirector's ablation on the pocket world; see `run.run_video`."""

    name = "video"
    options = SuiteOptions
    variants = ("ground_truth", "multi_chunk", "latent_replacement", "replication")
    subject = "held-out clips"

    def run(self, studio: Studio, options: SuiteOptions, run: Run) -> Result:
        """See `Suite.run`."""
        from .run import run_video

        stories, shots = options.number("stories"), options.number("shots")
        figures, clips = run_video(
            studio, options.seed, stories, shots, options.variants or self.variants, run.progress
        )
        return Result(figures, stories, shots, clips)

    def tables(self, result: Mapping[str, Any]) -> Sequence[Columns]:
        """See `Suite.tables`."""
        from .report import TABLES

        return TABLES

    def panels(self, result: Mapping[str, Any]) -> Sequence[Panel]:
        """See `Suite.panels`."""
        from .report import panels

        return panels(result)

    def strips(self, result: Mapping[str, Any], frames: Mapping[str, Any]) -> Sequence[Sequence[Strip]]:
        """See `Suite.strips`."""
        from .report import strips

        return strips(result, frames)
