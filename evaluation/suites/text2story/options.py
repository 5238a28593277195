"""Options of Text2Story's suite and of its benchmark. Nothing heavy is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from ....core.errors import InputError
from ...options import Flag, Options, whole, width_by_height
from ...suite import SuiteOptions

if TYPE_CHECKING:
    from ...metrics.networks import MetricFiles, MetricModels

__all__ = ["FilmOptions", "Text2StoryOptions", "clip_and_config"]

_SETS = "pocket, benchmark (404 prompt pairs for any studio), or such a file (default: pocket, if the studio can)"


def _sides(size: Any) -> Any:
    if len(size) != 2 or not all(isinstance(value, int) and value > 0 for value in size):
        raise InputError("", "must be height and width in pixels", size, "give for example (480, 832)")
    return size


class FilmOptions(Options):
    """What films are made.

    Attributes:
        prompt_set: `pocket`, or `benchmark` (404 prompt pairs) or the file of another set, which any studio can film.
            None takes `pocket` where the studio can make films of its size and length, else `benchmark`.
        size: (height, width) of films of a set; None takes the size that the studio's video model was made for.
        frames: of a segment of a set; None takes the studio's, too.
    """

    heading: ClassVar[str] = "storytelling only"

    prompt_set: Annotated[
        str | None, BeforeValidator(os.fspath), Flag(_SETS, "NAME", name="set", reads_file=True), Field(alias="set")
    ] = None
    size: Annotated[
        tuple[int, int] | None,
        BeforeValidator(_sides),
        Flag("films of a set (default: the video model's own)", "WxH", read=width_by_height),
    ] = None
    frames: Annotated[
        int | None,
        whole(0),
        Flag("length of a segment of a set (default: the video model's own)", "N", whole=(1, 100_000)),
    ] = None


def clip_and_config(flag: str, text: str) -> tuple[str, str | None]:
    """`FILE,CONFIG` → both; a comma may belong to the file's name."""
    if "," in text and not Path(text).is_file():
        file, _, config = text.rpartition(",")
        return file, config
    return text, None


class Text2StoryOptions(SuiteOptions, FilmOptions):
    """Options of the suite.

    Attributes:
        clip: file of the CLIP that scores alignment, and its open_clip name or JSON; None takes the studio's.
        dino: folder of the network whose features consistency is measured with.
        lpips: file of the distance that jumps are measured with.
        resume: for a set: take the films whose figures the folder has from a run that was interrupted.
        judges: networks in the place of files; `MetricFiles` are read once all else has been checked.
    """

    defaults: ClassVar[Mapping[str, int]] = {"seed": 0, "stories": 16, "shots": 4}

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
    lpips: Annotated[
        str | None, Flag("LPIPS for the jump: safetensors of the lpips package's weights", "FILE", reads_file=True)
    ] = None
    resume: Annotated[
        bool,
        Flag("with a set: go on with the films that DIR has figures of"),
    ] = False
    judges: Any = None

    def networks(self, device: str) -> MetricModels | MetricFiles | None:
        """The metrics' networks: those given, or files that are not read yet; None leaves it to the suite."""
        if self.judges is not None or (self.clip is None and self.dino is None and self.lpips is None):
            found: MetricModels | MetricFiles | None = self.judges
            return found
        from ...metrics.networks import MetricFiles

        clip, config = self.clip or (None, None)
        return MetricFiles(clip, config, self.dino, self.lpips, device)
