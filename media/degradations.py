"""Low-resolution videos as the world makes them: seeded blur, resizing, noise, JPEG and video codecs.

Super-resolution learns from pairs (SmartDirector §3.3; how the low-resolution one comes about is not said). These are
Real-ESRGAN's two orders of degradations (Wang et al. 2021), with a real video codec after each as in RealBasicVSR (Chan
et al. 2022). A clip keeps its parameters from frame to frame, but for noise: what differs between frames is the
camera's, not the processing's.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import av
import kornia
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import decode_jpeg, encode_jpeg

from ..core.errors import InputError
from .frames import from_uint8, to_uint8

__all__ = ["MILD", "Degradations", "degrade"]

Range = tuple[float, float]

_CODECS = ("libx264", "mpeg4", "mpeg2video")
_RESIZE = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class Degradations:
    """What may happen to a clip; every range is drawn from evenly.

    Attributes:
        orders: how many times all of it happens. The last resizing leads to the low resolution.
        chance: of each single thing, in the first order; half of it in the second.
        blur: standard deviation of a Gaussian in pixels of what it blurs, along and across a random direction.
        resize: intermediate size over the present one, in orders before the last.
        noise: standard deviation for values in 0…1; half of the noise is grey.
        shot_noise: variance over brightness, as few photons make it.
        jpeg: quality of every frame as a JPEG, 1…100.
        quantiser: of the video codec, as H.264 counts it: 18 is hardly seen, 35 is coarse.
    """

    orders: int = 2
    chance: float = 0.8
    blur: Range = (0.2, 2.0)
    resize: Range = (0.4, 1.3)
    noise: Range = (0.0, 0.06)
    shot_noise: Range = (0.0, 0.01)
    jpeg: Range = (30, 95)
    quantiser: Range = (18, 36)

    def __post_init__(self) -> None:
        if self.orders < 1:
            raise InputError("orders", "must be at least 1", self.orders, "use 2, as Real-ESRGAN does")
        if not 0 <= self.chance <= 1:
            raise InputError("chance", "must lie in 0…1", self.chance, "use e.g. 0.8")
        limits = {"blur": 20, "resize": 4, "noise": 1, "shot_noise": 1, "jpeg": 100, "quantiser": 51}
        for name, most in limits.items():
            low, high = getattr(self, name)
            if not 0 <= low <= high <= most:
                rule = f"must be two numbers in 0…{most}, the smaller one first"
                raise InputError(name, rule, [low, high], "see the defaults")


MILD = Degradations(
    orders=1, chance=0.5, blur=(0.2, 0.7), noise=(0.0, 0.02), shot_noise=(0.0, 0.002), jpeg=(70, 98), quantiser=(14, 26)
)
"""For clips that come from a model and were kept in a good file."""


def degrade(video: Tensor, scale: float, seed: int, settings: Degradations = Degradations()) -> Tensor:  # noqa: B008
    """A clip at low resolution.

    Args:
        video: `[T, 3, H, W]` in 0…1.
        scale: how many times smaller both sides become.
        seed: the same seed gives the same clip on every device (video codecs: with one version of ffmpeg).
        settings: what may happen to it.

    Returns:
        `[T, 3, round(H / scale), round(W / scale)]` in 0…1, fp32, on the video's device.

    Raises:
        InputError: another shape, or a scale below 1 or that leaves no pixel.
    """
    if video.ndim != 4 or video.shape[1] != 3 or not len(video):
        raise InputError("video", "must have the shape [T, 3, H, W]", list(video.shape), "give RGB frames")
    size = (round(video.shape[-2] / scale), round(video.shape[-1] / scale)) if scale >= 1 else (0, 0)
    if min(size) < 1:
        raise InputError("scale", "must be at least 1 and leave a pixel", scale, "use e.g. 2")
    rng = random.Random(f"degrade/{seed}")
    x = video.float()
    with torch.autocast(x.device.type, enabled=False):  # pixels are no place for bf16
        for order in range(settings.orders):
            now = settings if order == 0 else replace(settings, chance=settings.chance / 2)
            x = _once(x, size if order + 1 == settings.orders else None, rng, now)
    return x.clamp(0, 1)


def _once(x: Tensor, size: tuple[int, int] | None, rng: random.Random, settings: Degradations) -> Tensor:
    """One order: to `size`, or to a random one."""

    def happens() -> bool:
        return rng.random() < settings.chance

    # drawn whether it happens or not, so that one setting does not change what another draws
    along, across, angle = rng.uniform(*settings.blur), rng.uniform(*settings.blur), rng.uniform(0, 180)
    if happens():
        x = _blurred(x, along, across, angle)
    factor, way = rng.uniform(*settings.resize), rng.choice(_RESIZE)
    if size is not None or happens():
        x = _resized(x, size or tuple(max(1, round(n * factor)) for n in x.shape[-2:]), way)  # type: ignore[arg-type]
    strength, grey, shot, seed = (
        rng.uniform(*settings.noise),
        rng.random() < 0.5,
        rng.random() < 0.5,
        rng.getrandbits(60),
    )
    photons = rng.uniform(*settings.shot_noise)
    if happens():
        x = _noisy(x, photons if shot else strength, grey, shot, seed)
    quality = round(rng.uniform(*settings.jpeg))
    if happens():
        x = _jpeg(x, max(1, quality))
    codec, quantiser = rng.choice(_CODECS), round(rng.uniform(*settings.quantiser))
    if happens():
        x = _coded(x, codec, quantiser)
    return x


def _blurred(x: Tensor, along: float, across: float, angle: float) -> Tensor:
    """A Gaussian that may be longer in one direction, its edges reflected."""
    side = 2 * max(1, min(int(3 * max(along, across) + 0.5), (min(x.shape[-2:]) - 1) // 2)) + 1
    if side > min(x.shape[-2:]):
        return x
    reach = torch.arange(side, dtype=torch.float64) - side // 2
    turn = np.deg2rad(angle)
    u = reach[None] * np.cos(turn) + reach[:, None] * np.sin(turn)
    v = reach[:, None] * np.cos(turn) - reach[None] * np.sin(turn)
    kernel = torch.exp(-0.5 * ((u / max(along, 1e-3)) ** 2 + (v / max(across, 1e-3)) ** 2))
    kernel = (kernel / kernel.sum()).to(x)
    return kornia.filters.filter2d(x, kernel[None], border_type="reflect")


def _resized(x: Tensor, size: tuple[int, int], way: str) -> Tensor:
    if way == "area":
        return F.interpolate(x, size, mode="area")
    return F.interpolate(x, size, mode=way, antialias=True).clamp(0, 1)


def _noisy(x: Tensor, strength: float, grey: bool, shot: bool, seed: int) -> Tensor:
    """Gaussian noise, or one whose variance grows with brightness as photons' does."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(x), 1 if grey else 3, *x.shape[-2:], generator=generator).to(x)
    brightness = x.mean(1, keepdim=True) if grey else x
    spread = (strength * brightness.clamp(min=0)).sqrt() if shot else strength
    return (x + spread * noise).clamp(0, 1)


def _jpeg(x: Tensor, quality: int) -> Tensor:
    frames = [torch.from_numpy(to_uint8(frame)).permute(2, 0, 1).contiguous() for frame in x]
    return torch.stack([decode_jpeg(encode_jpeg(frame, quality)) for frame in frames]).to(x) / 255


def _coded(x: Tensor, codec: str, quantiser: int) -> Tensor:
    """Through a real video codec and back, 4:2:0; odd edges are repeated for it."""
    height, width = x.shape[-2:]
    frames = [to_uint8(frame) for frame in F.pad(x, (0, width % 2, 0, height % 2), "replicate")]
    if min(frames[0].shape[:2]) < 16:  # smaller ones not every codec takes
        return x
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        stream = out.add_stream(codec, rate=24)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        if codec == "libx264":
            stream.options = {"qp": str(quantiser), "preset": "veryfast", "threads": "1"}
        else:  # these count 1…31, and their steps grow evenly where H.264's double every 6
            scale = min(31, max(1, round(2 ** ((quantiser - 12) / 6))))
            stream.options = {"qmin": str(scale), "qmax": str(scale), "threads": "1"}
        for array in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(array, "rgb24")))
        out.mux(stream.encode(None))
    file.seek(0)
    return torch.stack(list(_read(file)))[..., :height, :width].to(x)


def _read(file: io.BytesIO) -> Iterator[Tensor]:
    with av.open(file) as source:
        for frame in source.decode(video=0):
            yield from_uint8(frame.to_ndarray(format="rgb24"))
