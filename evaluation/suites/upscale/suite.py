"""The suite `upscale`. Nothing heavy is imported before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ...options import Flag
from ...suite import Columns, Panel, Result, Run, Suite, SuiteOptions

if TYPE_CHECKING:
    from ....models.studio import Studio
    from ...report import Strip

__all__ = ["Source", "UpscaleOptions", "UpscaleSuite"]

Source = Literal["clean", "mild", "strong", "film"]
"""What is upscaled; see `sources.held_out_sources`."""


class UpscaleOptions(SuiteOptions):
    """Options of the suite.

    Attributes:
        source: what is upscaled: frames that are degraded in a `mild` or a `strong` way, `clean` ones, or a `film`'s,
            with its own latents.
        lpips: file of the perceptual distance; None leaves the column out.
        resume: take the clips whose figures the folder has from a run that was interrupted.
        judges: networks in the place of files.
    """

    heading: ClassVar[str] = "upscale only"

    source: Annotated[
        Source,
        Flag(
            "what is upscaled: mild or strong degradations, clean, or film: its frames and latents (default: mild)",
            "NAME",
        ),
    ] = "clean"
    lpips: Annotated[
        str | None, Flag("LPIPS to the truth: safetensors of the lpips package's weights", "FILE", reads_file=True)
    ] = None
    resume: Annotated[bool, Flag("go on with the clips that DIR has figures of")] = False
    judges: Annotated[Any, Field(exclude=True)] = None


class UpscaleSuite(Suite[UpscaleOptions]):
    """SmartDirector's second stage on the pocket world; see `run.run_upscale`."""

    name = "upscale"
    options = UpscaleOptions
    variants = (
        "ground_truth",
        "bicubic",
        "lanczos",
        "corrected_bicubic",
        "no_keyframes",
        "one_keyframe",
        "all_keyframes",
        "training_free",
    )
    subject = "held-out clips"

    def check(self, studio: Studio) -> None:
        """Any studio: rows that it has no model for are left out, or refused where they are asked for."""

    def run(self, studio: Studio, options: UpscaleOptions, run: Run) -> Result:
        """See `Suite.run`."""
        from ...metrics.networks import MetricModels
        from ...parts import PartCache
        from ...report import PartialReport
        from .run import run_upscale
        from .variants import chosen_variants

        chosen = chosen_variants(studio, options.variants)
        networks = options.judges or MetricModels.load(lpips=options.lpips, device=str(studio.device))
        partial: PartialReport | None = None
        cache: PartCache | None = None
        if run.out is not None:
            facts = {"suite": self.name, "studio": studio.name, "seed": options.seed}
            partial = PartialReport(Path(run.out), facts)
            cache = PartCache(Path(run.out) / f"{self.name}_parts", options.resume, studio.device)
        stories, shots = options.number("stories"), options.number("shots")
        try:
            figures, frames = run_upscale(
                studio,
                run.classifier(),
                options.seed,
                stories,
                shots,
                chosen,
                options.source,
                networks,
                run.progress,
                keep=None if partial is None else partial.keep,
                cache=cache,
            )
        except KeyboardInterrupt:
            kept = "" if partial is None else partial.kept or "what is finished stays"
            raise KeyboardInterrupt(kept and f"{kept}; add --resume to go on") from None

        def finish() -> None:
            for finished in (partial, cache):
                if finished is not None:
                    finished.remove()

        return Result(figures, stories, shots, frames, finish=finish)

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

        return strips(result, frames)
