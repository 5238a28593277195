"""From Keyframe SR's inputs to windows, tiles and super-resolution on ComfyUI's own models (SmartDirector §3.3)."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core.errors import InputError
from ..models.backbones.native_fit import text_width
from ..models.backbones.native_models import upscale_on
from ..models.backbones.native_solvers import ode_solver
from ..models.layouts.upscale import UpscaleSettings, decode_upscaled, encode_upscale, plan_canvas, plan_upscale
from ..models.layouts.video_latents import BRIDGE, COLOUR_CELL, NEAR, ChunkVAE, plan_of
from ..pipelines.upscale.colour import keep_colour
from ..pipelines.upscale.hold import hold_still
from ..pipelines.upscale.tiles import plan_tiles
from ..pipelines.upscale.upscalers import Tiling, upscale_window
from ..pipelines.upscale.windows import Window, check_window, plan_windows
from ..sampling.upscale_schedule import upscale_sigmas
from .fits import fit_prompt, fit_vae, sampled, video_latent
from .host import Progress, memory_errors, stop_if_asked, tell
from .upscale_inputs import film_of, keyframes_of, positions, rate_of
from .upscale_source import IN_MEMORY, source_of
from .video import chunk_vae

__all__ = ["NativeUpscaler", "Upscaling", "only_video", "upscale_video", "upscaled"]

_FIX = "use a shorter window or smaller tiles, or load the model in fp8"
_PATCH = (2, 2)
_CELL = 8


@dataclass(frozen=True)
class Upscaling:
    """How a video is upscaled: Keyframe SR's widgets.

    Attributes:
        mode: auto, bridge or training_free; auto asks the MODEL.
        scale: factor along both sides, where no size is given.
        steps, strength, sampler_name, seed: of the sampler.
        window, overlap: in frames.
        near: latent frames that each attends to on both sides; 0: as the MODEL says, else all.
        tile, tile_overlap: in pixels of the video that comes in.
        cuts: auto or none.
        keep_colour: take colour drift back.
        colour_cell: side of the areas whose colour is kept, in pixels of the video that comes in; 0: as the MODEL says.
        hold: most that a pixel may change while what is made of it is kept, in 1/255; 0: every frame as it comes.
        keyframe_times: moments of the keyframes, in words; empty: the timeline's.
        width, height: of what comes out, in pixels; 0: by `scale`.
        fit: of keyframes of another shape.
        fps: rate of pictures.
    """

    mode: str = "auto"
    scale: float = 2.0
    steps: int = 4
    strength: float = 0.4
    sampler_name: str = "euler"
    seed: int = 0
    window: int = 81
    overlap: int = 8
    near: int = 0
    tile: int = 0
    tile_overlap: int = 32
    cuts: str = "auto"
    keep_colour: bool = True
    keyframe_times: str = ""
    width: int = 0
    height: int = 0
    fit: str = "cover"
    fps: float = 24.0
    colour_cell: int = 0
    hold: float = 2.0

    def settings(self, model: Any) -> UpscaleSettings:
        """What the sampler is told; ``auto`` is the bridge for a MODEL that says it was trained for it."""
        mode = self.mode
        if mode == "auto":
            mode = "bridge" if model.attachments.get(BRIDGE) else "training_free"
        return UpscaleSettings(
            steps=self.steps,
            mode=mode,  # type: ignore[arg-type]
            strength=self.strength,
            near=self.near or model.attachments.get(NEAR) or None,
        )

    def cell(self, model: Any) -> int:
        """Side of the areas whose colour is kept; 0: none are."""
        return (self.colour_cell or int(model.attachments.get(COLOUR_CELL) or _CELL)) if self.keep_colour else 0

    def size(self, low: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of what comes out of a video of size `low`; sides that are scaled come out even.

        Raises:
            InputError: one side without the other, or a size below the video's.
        """
        if bool(self.width) != bool(self.height):
            missing = "height" if self.width else "width"
            raise InputError(missing, "is needed with the other side", 0, "give both, or neither and a scale")
        if self.width:
            size = (self.height, self.width)
        elif self.scale == 1:
            size = low
        else:
            size = (2 * round(low[0] * self.scale / 2), 2 * round(low[1] * self.scale / 2))
        for name, want, have in zip(("height", "width"), size, low, strict=True):
            if want < have:
                raise InputError(name, f"must be at least the video's {have} pixels", want, "give a larger size")
        return size


class NativeUpscaler:
    """A MODEL and its VAE as what makes a window's frames larger (an `Upscaler`).

    Args:
        model: a MODEL.
        vae: its VAE.
        positive: CONDITIONING; None: a text of zeros.
        upscaling: the widgets.

    Raises:
        InputError: a MODEL that cannot, another model's VAE or text, a sampler that adds noise.
    """

    reach = 0  # it sees all of a tile: what tiles share is blended
    keeps_colour = False

    def __init__(self, model: Any, vae: Any, positive: Any, upscaling: Upscaling) -> None:
        self.model, self.native = model, upscale_on(model)
        fit_vae(vae, model)
        width = text_width(model)
        if positive is None:
            positive = [[torch.zeros(1, 1, width or 4096), {}]]
        fit_prompt(positive, "positive", width)
        self.positive = positive
        self.vae: ChunkVAE = chunk_vae(vae)
        self.solver = ode_solver(upscaling.sampler_name)
        self.seed = upscaling.seed
        self.settings = upscaling.settings(model)
        self.sigmas = upscale_sigmas(self.settings)
        self.progress: Progress | None = None
        self.latent: Any = None
        """LATENT of the only window there is, if it is known; it counts where it lies as the window does."""

    @property
    def align(self) -> int:
        """Whole tokens in both sizes."""
        return self.vae.spatial_compression * max(self.patch)

    @cached_property
    def patch(self) -> tuple[int, int]:
        """Latent pixels of a token, along both sides."""
        _, rows, columns = getattr(self.model.model.diffusion_model, "patch_size", (1, *_PATCH))
        return int(rows), int(columns)

    def plan_progress(self, runs: int) -> None:
        """One progress bar over so many runs of the sampler."""
        self.progress = Progress(self.model, runs * (len(self.sigmas) - 1))

    def __call__(
        self, frames: Tensor, keyframes: Mapping[int, Tensor], size: tuple[int, int], report: Callable[[float], None]
    ) -> Iterator[Tensor]:
        """Upscale `[T, 3, h, w]` to `size`, given some frames of it by their index.

        Keyframes below 0 or from T on are frames around it, which it sees, too.
        """
        low = (frames.shape[-2], frames.shape[-1])
        given = {key: keyframes[key] for key in sorted(keyframes) if 0 <= key < len(frames)}
        before = [picture for key, picture in keyframes.items() if key < 0]
        after = [picture for key, picture in keyframes.items() if key >= len(frames)]
        plan = plan_upscale(len(frames), list(given), len(before), len(after))
        canvas = plan_canvas(low, size, self.vae.spatial_compression, self.patch)
        with memory_errors("Keyframe SR", f"{len(frames)} frames of {size[1]}x{size[0]}", _FIX):
            latents = self._known(plan.video.latent_chunks)
            z_lr, clean_latents = encode_upscale(
                self.vae, frames, given, plan, canvas, outside=[*before, *after], latents=latents,
                mode=self.settings.interpolation,
            )  # fmt: skip
            z = self.native.sample(
                self.model,
                self.positive,
                plan.video,
                z_lr,
                clean_latents,
                self.sigmas,
                start_noise=self.settings.start_noise,
                near=self.settings.near,
                sampler=self.solver,
                seed=self.seed,
                callback=None if self.progress is None else self.progress.callback(),
                disable_pbar=False,
            )
            sampled([z])
            report(0.9)
            yield from decode_upscaled(self.vae, z, plan, canvas)
        report(1)

    def _known(self, latent_chunks: Sequence[int]) -> Tensor | None:
        """The latents of the window, if they are given and lie in these chunks."""
        if self.latent is None:
            return None
        if list(plan_of(self.latent).latent_chunks) != list(latent_chunks):
            tell("latent: lies in other chunks, the frames are encoded again", warn=True)
            return None
        return video_latent(self.latent, "latent", self.vae.latent_channels)[:1]


def upscaled(
    upscaler: NativeUpscaler,
    frames: Iterator[Tensor],
    windows: Sequence[Window],
    cuts: Sequence[int],
    keyframes: Mapping[int, Tensor],
    low: tuple[int, int],
    size: tuple[int, int],
    upscaling: Upscaling,
) -> Iterator[Tensor]:
    """The frames `[3, H, W]` of a video, larger, in order of time; memory does not grow with its length.

    Args:
        upscaler: makes a window's frames.
        frames: `[3, h, w]` each, all of the video's.
        windows: of `plan_windows`.
        cuts: frames that shots begin at.
        keyframes: `[3, H, W]` by frame of the video.
        low: (h, w).
        size: (H, W).
        upscaling: tiles, colour, what is held.
    """
    tiling = Tiling(upscaling.tile, upscaling.tile_overlap)
    tiles = plan_tiles(low, size, tiling.tile, tiling.overlap, reach=upscaler.reach, align=upscaler.align)
    upscaler.plan_progress(len(windows) * len(tiles))
    source, frames = itertools.tee(frames)  # which keeps no more than a window

    def larger() -> Iterator[Iterator[Tensor]]:
        for i, (window, held) in enumerate(zip(windows, _held(frames, windows), strict=True)):
            stop_if_asked()
            told = f"window {i + 1}/{len(windows)} · frames {window.start}–{window.stop - 1}"
            tell(told if len(tiles) == 1 else f"{told} · {len(tiles)} tiles")
            seen = [k for k in (window.before, *window.keyframes, window.after) if k is not None]
            own = {k - window.start: keyframes[k] for k in seen}
            parts = upscale_window(upscaler, held, own, size, tiling, colour=False, where=f"window {i + 1}")
            yield _coloured(parts, held, upscaling.cell(upscaler.model))

    yield from hold_still(_blended(larger(), windows), source, upscaling.hold / 255, set(cuts), keyframes)


def _coloured(parts: Iterator[Tensor], source: Tensor, cell: int) -> Iterator[Tensor]:
    """The frames of a window in the colours of its source; a cell of 0 leaves them."""
    begin = 0
    for part in parts:
        own = source[begin : begin + len(part)].to(part)
        begin += len(part)
        yield from keep_colour(part, own, cell) if cell else part


def _blended(parts: Iterator[Iterator[Tensor]], windows: Sequence[Window]) -> Iterator[Tensor]:
    """The frames of all windows in a row; where two overlap, one dissolves into the other."""
    tail: deque[Tensor] = deque()
    for i, (frames, window) in enumerate(zip(parts, windows, strict=True)):
        held_back = windows[i + 1].blend if i + 1 < len(windows) else 0
        last = window.frames - window.tail
        for number, frame in enumerate(frames):
            if not window.unused <= number < last:
                continue
            if number < window.unused + window.blend:
                old = tail.popleft()
                # Where both are equal nothing changes, not even by rounding.
                frame = old + (number + 1 - window.unused) / (window.blend + 1) * (frame - old)
            if number < last - held_back:
                yield frame
            else:
                tail.append(frame)


def _held(frames: Iterator[Tensor], windows: Sequence[Window]) -> Iterator[Tensor]:
    """The frames of each window, `[T, 3, h, w]`; those that two windows share are read once."""
    kept: list[Tensor] = []
    start = 0
    for window in windows:
        kept, start = kept[window.start - start :], window.start
        while len(kept) < window.frames:
            kept.append(next(frames))
        yield torch.stack(kept[: window.frames])


def upscale_video(
    model: Any,
    vae: Any,
    video: Any,
    upscaling: Upscaling,
    *,
    positive: Any = None,
    keyframes: Any = None,
    timeline: Any = None,
    storyboard: Any = None,
    audio: Any = None,
    latent: Any = None,
) -> tuple[Any, Tensor | None, str]:
    """A video made larger, by Keyframe SR's inputs.

    Returns:
        VIDEO; IMAGE `[T, H, W, 3]`, or None where its frames would not fit into memory; what was done, in words.

    Raises:
        InputError: inputs that do not fit together, or not enough memory on the device.
    """
    check_window(upscaling.window, upscaling.overlap)
    upscaler = NativeUpscaler(model, vae, positive, upscaling)
    source = source_of(video, rate_of(upscaling.fps, timeline, storyboard), audio)
    for note in source.notes:
        tell(note, warn=True)
    size = upscaling.size(source.size)
    (height, width), (low_height, low_width) = size, source.size
    if abs(height * low_width - width * low_height) > max(height, width):  # more than a rounded side
        tell(f"{width}x{height} is of another shape than {low_width}x{low_height}: pictures are stretched", warn=True)
    film = None if storyboard is None else film_of(storyboard)
    given = keyframes_of(keyframes, source, size, upscaling.fit, upscaling.keyframe_times, timeline, film)
    cuts: list[int] = []
    if film is not None and film.frames != source.count:
        seen = f"storyboard: its film has {film.frames} frames, and the video {source.count}"
        tell(f"{seen}; its cuts are not used", warn=True)
        film = None
    if film is not None:
        cuts = film.cuts
    elif upscaling.cuts == "auto" and source.count > 1:
        tell("looking for cuts")
        cuts = source.cuts()
    windows = plan_windows(source.count, cuts, list(given), upscaling.window, upscaling.overlap)
    if len(windows) == 1 and not upscaling.tile:
        upscaler.latent = latent
    frames = upscaled(upscaler, source.frames(), windows, cuts, given, source.size, size, upscaling)
    made, images = source.write(frames, size)
    if images is not None and upscaler.progress is not None:
        upscaler.progress.show(images[len(images) // 2][None])
    before, after = (f"{width}x{height}" for height, width in (source.size, size))
    told = f"{source.count} frames, {before} → {after}, {upscaler.settings.mode}\n"
    told += f"keyframes at frames: {positions(given)}\ncuts at frames: {', '.join(map(str, cuts)) or 'none'}\n"
    return made, images, told + f"windows: {', '.join(f'{w.start}–{w.stop - 1}' for w in windows)}"


def only_video() -> Any:
    """What stands for the frames of a video that is too long to be held in memory."""
    return ExecutionBlocker(
        f"Keyframe SR: the frames of this video would need over {IN_MEMORY >> 30} GB; take the video output, for "
        "Save Video"
    )
