"""The suite `keyframes`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from ....core.errors import InputError
from ...options import Flag, numbers
from ...suite import Columns, Panel, Result, Run, Suite, SuiteOptions, named_set

if TYPE_CHECKING:
    from ....models.studio import Studio
    from ...report import Strip

__all__ = ["HELD_OUT", "KeyframesOptions", "KeyframesSuite"]

HELD_OUT, WRITTEN = "held_out", "written"

_SETS = "held_out (default), written, or a folder of storyboards"


def _counts(pairs: Any) -> Any:
    if not pairs or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in pairs):
        raise InputError("", "must be whole numbers of at least 1", pairs, "use for example 8, 16, 32, 48")
    return tuple(sorted(set(pairs)))


class KeyframesOptions(SuiteOptions):
    """Options of the suite.

    Attributes:
        pairs: several numbers of shots to measure in one run; None takes `shots`.
        prompt_set: `held_out` (`stories` of them, `shots` each), `written` (stories that people wrote, as long as they
            are), or a folder of storyboards.
    """

    pairs: Annotated[
        tuple[int, ...] | None,
        BeforeValidator(_counts),
        Flag("several numbers of shots in one run, e.g. 8,16,32,48", "LIST", read=numbers),
    ] = None
    prompt_set: Annotated[
        str, BeforeValidator(os.fspath), Flag(_SETS, "NAME", name="set", reads_file=True), Field(alias="set")
    ] = HELD_OUT


class KeyframesSuite(Suite[KeyframesOptions]):
    """Captain Cinema's ablations on the pocket world; see `run.run_keyframes`."""

    name = "keyframes"
    options = KeyframesOptions
    variants = (
        "ground_truth",
        "full",
        "goldenmem",
        "goldenmem:0",
        "goldenmem:1",
        "latent",
        "none",
        "joint",
        "retrieval:clip",
        "retrieval:text",
        "retrieval:recency",
        "retrieval:clip:1",
        "retrieval:text:1",
        "retrieval:recency:1",
        "noise:0.05",
        "noise:0.1",
        "noise:0.3",
        "noise:0.6",
        "noise:0.001-0.25",
        "noise:0.251-0.5",
        "noise:0.501-0.75",
        "noise:0.751-1",
    )

    def run(self, studio: Studio, options: KeyframesOptions, run: Run) -> Result:
        """See `Suite.run`."""
        from ...stories import stories_of
        from .run import run_keyframes

        written = stories_of(options.prompt_set, options.stories)
        stories = options.number("stories") if written is None else len(written)
        shots = options.number("shots") if written is None else max(len(story.shots) for story in written)
        counts = options.pairs or (shots,)
        figures, frames = run_keyframes(
            studio,
            run.classifier(),
            options.seed,
            stories,
            counts,
            options.variants or self.variants,
            run.progress,
            written,
        )
        return Result(figures, stories, counts[-1], frames, named_set(options.prompt_set, (HELD_OUT, WRITTEN)))

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

        return strips(frames)
