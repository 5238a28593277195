"""The suite `storytelling`. Nothing heavy is imported before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....core.errors import InputError
from ...suite import Columns, Panel, Result, Run, Suite, named_set
from .options import Text2StoryOptions

if TYPE_CHECKING:
    from ....models.studio import Studio
    from ...report import Strip

__all__ = ["Text2StorySuite"]


class Text2StorySuite(Suite[Text2StoryOptions]):
    """Text2Story's ablation: on the pocket world, or on a set of prompt pairs, which any studio can film."""

    name = "storytelling"
    options = Text2StoryOptions
    variants = ("ground_truth", "full", "paper_prior", "without_dipw", "without_twb", "without_sar", "plain")

    def run(self, studio: Studio, options: Text2StoryOptions, run: Run) -> Result:
        """See `Suite.run`."""
        from .story_size import check_pocket_size, choose_set

        chosen = choose_set(studio, options.prompt_set)
        check_pocket_size(chosen, options.size, options.frames)
        if chosen != "pocket":
            return self._run_set(studio, chosen, options, run)
        if options.resume:
            raise InputError("resume", "is for a set of storytelling", self.name, "leave it out")
        return self._run_pocket(studio, options, run)

    def _run_pocket(self, studio: Studio, options: Text2StoryOptions, run: Run) -> Result:
        from ...metrics.networks import MetricFiles
        from .pocket import run_storytelling
        from .story_size import check_files

        check_files(studio)
        networks = options.networks(str(studio.device))
        figures, films = run_storytelling(
            studio,
            run.classifier(),
            options.seed,
            stories := options.number("stories"),
            shots := options.number("shots"),
            options.variants or self.variants,
            run.progress,
            networks=networks.load() if isinstance(networks, MetricFiles) else networks,
        )
        return Result(figures, stories, shots, films, "pocket")

    def _run_set(self, studio: Studio, chosen: str, options: Text2StoryOptions, run: Run) -> Result:
        from ...parts import PartCache
        from ...report import PartialReport
        from .prompt_set import read_set, run_prompt_set

        prompts, name = read_set(chosen), named_set(chosen, ("pocket", "benchmark"))
        partial: PartialReport | None = None
        cache: PartCache | None = None
        if run.out is not None:
            facts = {"suite": self.name, "studio": studio.name, "seed": options.seed, "set": name}
            partial = PartialReport(Path(run.out), facts)
            cache = PartCache(Path(run.out) / "storytelling_parts", options.resume, studio.device)
        try:
            figures, films = run_prompt_set(
                studio,
                prompts,
                options.seed,
                options.stories,
                options.shots,
                options.variants or self.variants[1:],  # nothing knows the truth
                options.size,
                options.frames,
                options.networks(str(studio.device)),
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

        return Result(figures, figures["stories"], figures["shots"], films, name, finish)

    def tables(self, result: Mapping[str, Any]) -> Sequence[Columns]:
        """See `Suite.tables`."""
        from .report import TABLES

        return TABLES

    def note(self, result: Mapping[str, Any]) -> str:
        """See `Suite.note`."""
        from .report import metrics_note

        return metrics_note(result)

    def panels(self, result: Mapping[str, Any]) -> Sequence[Panel]:
        """See `Suite.panels`."""
        from .report import panels

        return panels(result)

    def strips(self, result: Mapping[str, Any], frames: Mapping[str, Any]) -> Sequence[Sequence[Strip]]:
        """See `Suite.strips`."""
        from .report import strips

        return strips(result, frames)
