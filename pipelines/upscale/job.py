"""What all stages of one upscaling share: the clips, how they are cut into windows, and who makes them larger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ...core.errors import InputError
from ...core.files import sha256_file
from ...execution.pool import Runner
from ...execution.stage import Stage
from ..join import JoinedClip
from .keyframes import Picture
from .source_info import SourceInfo
from .tiles import Tile, plan_tiles
from .upscalers import Interpolation, Tiling, Upscaler
from .windows import Window, check_window, plan_windows

if TYPE_CHECKING:
    from ...models.studio import Studio

__all__ = ["Method", "UpscaleClip", "UpscaleCrew", "UpscaleJob", "UpscaleOptions"]

Method = Literal["model", "bicubic", "lanczos"]
Size = tuple[int, int]


@dataclass(frozen=True)
class UpscaleOptions:
    """How a video is upscaled.

    Attributes:
        method: the studio's super-resolution model, or interpolation.
        window, overlap: frames of a window at most, 0 for a whole shot, and those that neighbours share.
        tile, tile_overlap: longest side of a tile in pixels of the source, 0 for none, and what neighbours share.
        colour: side, in pixels of the source, of the cells whose mean colour the result is given; 0: as it comes.
        hold: most that a pixel of the source may change while what is made of it is kept, in 1/255; 0: none is kept.
    """

    method: Method = "model"
    window: int = 81
    overlap: int = 8
    tile: int = 0
    tile_overlap: int = 32
    colour: int = 8
    hold: float = 2.0

    def __post_init__(self) -> None:
        check_window(self.window, self.overlap)
        if self.tile < 0:
            raise InputError("tile", "must be 0 or a number of pixels", self.tile, "use 0 to take frames whole")

    @classmethod
    def of(cls, studio: Studio, method: Method = "model", **changed: Any) -> UpscaleOptions:
        """The studio's defaults with those values `changed` that are not None."""
        own = studio.defaults.upscale
        found: dict[str, Any] = {"window": own.window, "overlap": own.overlap}
        found |= {"tile": own.tile or 0, "tile_overlap": own.tile_overlap}
        found |= {"colour": own.colour_cell, "hold": own.hold}
        return cls(method, **found | {name: value for name, value in changed.items() if value is not None})

    def inputs(self) -> dict[str, Any]:
        """What a window depends on; where it begins it tells itself, and what is held is held when they are joined."""
        return {name: value for name, value in asdict(self).items() if name not in ("window", "overlap", "hold")}


@dataclass(frozen=True)
class UpscaleClip:
    """A video that is upscaled, or one clip of a film.

    Attributes:
        name: its results begin with it: the shot's id, or ``video``.
        frames: its length.
        size: (height, width) of its frames.
        file: of the film that is being made, such as ``clips/s01.mkv``; "" if it is a file of its own.
        path: its own file.
        identity: what tells its file from others; of the film's own files the hash of the result is taken.
        result: the film's result that `file` belongs to.
        cuts: frames that a new shot begins at.
        keyframes: pictures of at least about the target's size, by frame.
        made: or the film's own keyframes: the result and the file of each, by frame.
        depth: bits of the values of kept windows.
    """

    name: str
    frames: int
    size: Size
    file: str = ""
    path: Path | None = None
    identity: str = ""
    result: str = ""
    cuts: tuple[int, ...] = ()
    keyframes: Mapping[int, Picture] = field(default_factory=dict)
    made: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    depth: int = 8


@dataclass
class UpscaleJob:
    """One upscaling. It says what to make, not where, and can be sent to another process.

    Attributes:
        clips: in order.
        placed: where each lies in what comes out.
        target: (H, W) of the upscaled frames.
        rate: frames per second, where the clips are a film's.
        studio: the models.
        options: how.
        source: the one video, where times and sound come from; None for the clips of a film.
        file: what comes out.
    """

    clips: list[UpscaleClip]
    placed: list[JoinedClip]
    target: Size
    rate: Fraction
    studio: Studio
    options: UpscaleOptions
    source: SourceInfo | None = None
    file: str = "upscaled.mp4"

    @cached_property
    def windows(self) -> dict[str, list[Window]]:
        """The windows of each clip, by its name."""
        window, overlap = self.options.window, self.options.overlap
        return {
            clip.name: plan_windows(clip.frames, clip.cuts, sorted({*clip.keyframes, *clip.made}), window, overlap)
            for clip in self.clips
        }

    @cached_property
    def digests(self) -> dict[str, dict[int, str]]:
        """The hashes of the keyframes of each clip, by frame."""
        return {clip.name: {k: sha256_file(path) for k, path in clip.keyframes.items()} for clip in self.clips}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Everything besides frames and keyframes that windows are made from, as plain JSON."""
        own: dict[str, Any] = {"size": list(self.target), **self.options.inputs()}
        if self.options.method == "model":
            own["studio"] = self.studio.fingerprint(*self.studio.upscale_parts)
            defaults = self.studio.defaults.upscale
            own["sampling"] = asdict(defaults.sampling) | {"prompt": defaults.prompt}
            if defaults.near is not None:  # until keyframes beyond the nearest were left out, this was not there
                own["sampling"]["keyframes"] = "nearest"
        return own

    @property
    def held(self) -> dict[str, float]:
        """How much the source may change around what the joined video keeps, in 1/255, if it keeps anything.

        Interpolation makes equal frames of equal ones by itself.
        """
        return {"hold": self.options.hold} if self.options.method == "model" and self.options.hold else {}

    @property
    def parts(self) -> tuple[str, ...]:
        """Parts of the studio that make windows."""
        return self.studio.upscale_parts if self.options.method == "model" else ()

    @property
    def tiling(self) -> Tiling:
        """How frames are cut."""
        return Tiling(self.options.tile, self.options.tile_overlap)

    def tiles(self, size: Size) -> list[Tile]:
        """The tiles of frames of `size`; no weights are loaded. Raises InputError if they are too small."""
        model = self.options.method == "model"
        reach, align = (0, self.studio.upscale_token) if model else (self.upscaler.reach, 1)
        return plan_tiles(size, self.target, self.options.tile, self.options.tile_overlap, reach=reach, align=align)

    @property
    def plan(self) -> str:
        """What will be made, in a line: sizes, windows, tiles."""
        (height, width), (tall, wide) = self.clips[0].size, self.target
        frames = [window.frames for own in self.windows.values() for window in own]
        tiles = len(self.tiles(self.clips[0].size))
        said = f"{width}×{height} → {wide}×{tall}: {len(frames)} window{'s' * (len(frames) != 1)}"
        said += f" of at most {max(frames)} frames"
        return said + (f", each in {tiles} tiles of at most {self.options.tile} pixels" if tiles > 1 else "")

    @cached_property
    def upscaler(self) -> Upscaler:
        """Makes frames larger; loads the models."""
        if self.options.method == "model":
            from .model_upscaler import ModelUpscaler

            return ModelUpscaler(self.studio)
        return Interpolation(self.options.method)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what refers to loaded models."""
        return {name: value for name, value in vars(self).items() if name != "upscaler"}


@dataclass(frozen=True)
class UpscaleCrew:
    """Makes the runner of an upscaling in any process; see `execution.pool.Crew`."""

    job: UpscaleJob
    stages: tuple[type[Stage], ...]

    @property
    def device(self) -> str:
        """The kind of device that the studio's models compute on."""
        return self.job.studio.device.type

    def __call__(self, device: str | None = None) -> Runner:
        """A runner whose models compute on `device`, by default where the studio's do."""
        if device is not None:
            self.job.studio.device = torch.device(device)
        return Runner([stage(self.job) for stage in self.stages], self.job.studio.release)  # type: ignore[call-arg]
