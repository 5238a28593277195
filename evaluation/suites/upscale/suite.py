"""The suite `upscale`. Nothing heavy is imported before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from ....core.errors import InputError
from ...options import Flag
from ...suite import Columns, Panel, Result, Run, Suite, SuiteOptions, named_set

if TYPE_CHECKING:
    from ....models.studio import Studio
    from ...report import Strip
    from .own_clips import OwnClip

__all__ = ["Source", "UpscaleOptions", "UpscaleSuite"]

Source = Literal["clean", "mild", "strong", "film"]
"""What is upscaled; see `sources.held_out_sources`."""


class UpscaleOptions(SuiteOptions):
    """Options of the suite.

    Attributes:
        source: what is upscaled: frames that are degraded in a `mild` or a `strong` way, `clean` ones, or a `film`'s,
            with its own latents.
        lpips: file of the perceptual distance; None leaves the column out.
        clips: folder of the user's own clips, see `own_clips.find_clips`; what the recogniser reads is left out then.
        resume: take the clips whose figures the folder has from a run that was interrupted.
        judges: networks in the place of files.
    """

    heading: ClassVar[str] = "upscale only"

    source: Annotated[
        Source,
        Flag(
            "what is upscaled: mild or strong degradations, clean, or film: its frames and latents (default: clean)",
            "NAME",
        ),
    ] = "clean"
    lpips: Annotated[
        str | None, Flag("LPIPS to the truth: safetensors of the lpips package's weights", "FILE", reads_file=True)
    ] = None
    clips: Annotated[
        str | Path | None,
        Flag(
            "your own large clips, videos or folders of pictures, in place of the pocket world's",
            "DIR",
            reads_file=True,
        ),
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
        own = _own_clips(options, run)
        networks = options.judges or MetricModels.load(lpips=options.lpips, device=str(studio.device))
        partial: PartialReport | None = None
        cache: PartCache | None = None
        if run.out is not None:
            facts = {"suite": self.name, "studio": studio.name, "seed": options.seed}
            partial = PartialReport(Path(run.out), facts)
            cache = PartCache(Path(run.out) / f"{self.name}_parts", options.resume, studio.device)
        stories, shots = options.number("stories"), options.number("shots")
        if own is not None:
            stories, shots = len(own), 1
        try:
            figures, frames = run_upscale(
                studio,
                None if own is not None else run.classifier(),
                options.seed,
                stories,
                shots,
                chosen,
                options.source,
                networks,
                run.progress,
                keep=None if partial is None else partial.keep,
                cache=cache,
                own=own,
            )
        except KeyboardInterrupt:
            kept = "" if partial is None else partial.kept or "what is finished stays"
            raise KeyboardInterrupt(kept and f"{kept}; add --resume to go on") from None

        def finish() -> None:
            for finished in (partial, cache):
                if finished is not None:
                    finished.remove()

        name = None if options.clips is None else named_set(str(options.clips), ())
        return Result(figures, stories, shots, frames, prompt_set=name, finish=finish)

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


def _own_clips(options: UpscaleOptions, run: Run) -> list[OwnClip] | None:
    """The user's clips; None where none are given.

    Raises:
        InputError: no such folder, nothing in it, or it is where the report goes.
    """
    if options.clips is None:
        return None
    from .own_clips import find_clips

    if options.shots is not None:
        raise InputError("shots", "is for the stories of the pocket world", options.shots, "leave it out")
    if not str(options.clips).strip():
        raise InputError("clips", "must be a folder of clips", str(options.clips), "give its path")
    folder = Path(options.clips)
    if run.out is not None and Path(run.out).resolve() == folder.resolve():
        raise InputError("out", "must not be the folder of the clips", str(run.out), "choose another folder")
    found = find_clips(folder, options.stories)
    return found if options.stories else found[: options.number("stories")]
