"""The suites of the benchmarks. Nothing heavy is imported before one runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from ..evaluation.options import Flag, Options
from ..evaluation.suites.text2story.options import FilmOptions
from .suite import Benchmark
from .table import Row

if TYPE_CHECKING:
    import torch

    from ..models.studio import Studio

__all__ = ["SUITES"]


class KeyframesOptions(Options):
    """Options of `keyframes`.

    Attributes:
        ragged: memories of captions of different lengths instead, on a random model.
    """

    ragged: Annotated[
        bool,
        Flag("a memory of ragged captions: filling its cache, what it takes, compiled steps"),
    ] = False


class KeyframesBenchmark(Benchmark[KeyframesOptions]):
    """Captain Cinema on the Flux class."""

    name = "keyframes"
    options = KeyframesOptions

    def run(self, studio: Studio | None, options: KeyframesOptions) -> list[Row]:
        """See `Benchmark.run`."""
        if options.ragged:
            from .ragged import ragged_rows

            return ragged_rows()
        from .keyframes import run_keyframes

        return run_keyframes(studio)

    def full_size(self, device: torch.device) -> list[Row]:
        """See `Benchmark.full_size`."""
        from .full_size import keyframe_rows

        return keyframe_rows(device)


class VideoBenchmark(Benchmark[Options]):
    """SmartDirector on the Wan class."""

    name = "video"
    options = Options

    def run(self, studio: Studio | None, options: Options) -> list[Row]:
        """See `Benchmark.run`."""
        from .video import run_video

        return run_video(studio)

    def full_size(self, device: torch.device) -> list[Row]:
        """See `Benchmark.full_size`."""
        from .full_size import video_rows

        return video_rows(device)


class Text2StoryBenchmark(Benchmark[FilmOptions]):
    """Text2Story on the studio's video model."""

    name = "storytelling"
    options = FilmOptions

    def run(self, studio: Studio | None, options: FilmOptions) -> list[Row]:
        """See `Benchmark.run`."""
        from .storytelling import run_storytelling

        return run_storytelling(studio, options.prompt_set, options.size, options.frames)


class PairsBenchmark(Benchmark[Options]):
    """STAGE on the Qwen-Image class."""

    name = "pairs"
    options = Options
    needs_studio = False

    def run(self, studio: Studio | None, options: Options) -> list[Row]:
        """See `Benchmark.run`."""
        from .pairs import run_pairs

        return run_pairs(studio)


class UpscaleBenchmark(Benchmark[Options]):
    """Super-resolution on the Wan 2.2 5B class: attention to near latents and keyframes against full attention."""

    name = "upscale"
    options = Options
    needs_studio = False

    def run(self, studio: Studio | None, options: Options) -> list[Row]:
        """See `Benchmark.run`."""
        from .upscale import run_upscale

        return run_upscale()


class KernelsBenchmark(Benchmark[Options]):
    """Triton kernels against their references, and compiled for GPUs that need not be there."""

    name = "kernels"
    options = Options
    needs_studio = False

    def run(self, studio: Studio | None, options: Options) -> list[Row]:
        """See `Benchmark.run`."""
        from .kernels import run_kernels

        return run_kernels()


SUITES: tuple[Benchmark[Any], ...] = (
    KeyframesBenchmark(),
    VideoBenchmark(),
    Text2StoryBenchmark(),
    PairsBenchmark(),
    UpscaleBenchmark(),
    KernelsBenchmark(),
)
