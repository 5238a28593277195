"""Tiny clips of every kind that users bring, made by FFmpeg's own encoders, muxers and scaler. For developers."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

__all__ = ["CLICK", "CLIPS", "REFUSED", "Clip", "make_clip", "picture"]

CLICK = Fraction(3, 10)
"""Seconds from the beginning of a sound track to its click."""
_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
_QUARTERS = {
    "turned 90": (0, 1, -1, 0),
    "turned 180": (-1, 0, 0, -1),
    "turned 270": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "flipped": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "transversed": (0, -1, -1, 0),
}


@dataclass(frozen=True)
class Clip:
    """One kind of clip.

    Attributes:
        suffix, codec, pix_fmt, options: container and video encoder; FFmpeg's names.
        rate: frames per second.
        ticks: time of each frame in `base`; else one after the other.
        base: unit of `ticks`, seconds.
        size: (height, width) as stored.
        matrix, full, primaries, transfer: how pixels are converted, and tagged unless `untagged`.
        aspect: sample aspect.
        turn: display matrix (a, b, c, d), MP4 and MOV only.
        interlaced: encoded as two fields, top first.
        sound: codec of a sound track with a click at `CLICK`, or "".
        sound_at: seconds at which the track begins.
        mux: options of the muxer.
        edit: what is done to the finished file.
        frames: how many are shown, if not all.
    """

    suffix: str = "mp4"
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    rate: Fraction = Fraction(25)
    count: int = 12
    ticks: Sequence[int] | None = None
    base: Fraction = Fraction(1, 1000)
    size: tuple[int, int] = (32, 48)
    matrix: int = 1
    full: bool = False
    primaries: int = 1
    transfer: int = 1
    untagged: bool = False
    aspect: Fraction = Fraction(1)
    turn: tuple[int, int, int, int] | None = None
    interlaced: bool = False
    sound: str = ""
    sound_at: Fraction = Fraction(0)
    picture_at: Fraction = Fraction(0)
    mux: dict[str, str] = field(default_factory=dict)
    edit: Callable[[Path], None] | None = None
    frames: int | None = None


def picture(n: int, size: tuple[int, int]) -> np.ndarray:
    """Frame `n` as 8-bit RGB: six patches of colour that change from frame to frame."""
    height, width = size
    patches = np.random.default_rng(n).integers(30, 226, (2, 3, 3)).astype(np.uint8)
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 3 // width
    return patches[rows][:, columns]


def make_clip(clip: Clip, path: Path) -> Path:
    """Write the clip to `path` (with its suffix), and return that."""
    path = path.with_suffix("." + clip.suffix)
    with av.open(str(path), "w", options=clip.mux) as out:
        stream = out.add_stream(clip.codec, rate=clip.rate)
        stream.height, stream.width, stream.pix_fmt = *clip.size, clip.pix_fmt
        context = stream.codec_context
        base = clip.base if clip.ticks is not None or clip.picture_at else 1 / clip.rate
        context.time_base = stream.time_base = base
        context.thread_count = 1
        fine = {"libx264": {"qp": "4"}, "libx265": {"x265-params": "qp=4:log-level=none"}}.get(clip.codec, {})
        stream.options = fine | clip.options
        if clip.aspect != 1:
            context.sample_aspect_ratio = clip.aspect
        if not clip.untagged:
            context.colorspace, context.color_range = clip.matrix, 2 if clip.full else 1
            context.color_primaries, context.color_trc = clip.primaries, clip.transfer
        sound = out.add_stream(clip.sound, rate=48000, layout="mono") if clip.sound else None
        for n in range(clip.count):
            shown = _frame(clip, n)
            at = clip.ticks[n] if clip.ticks is not None else round(n / clip.rate / base)
            shown.pts, shown.time_base = at + round(clip.picture_at / base), base
            out.mux(stream.encode(shown))
        out.mux(stream.encode(None))
        if sound is not None:
            _add_sound(out, sound, clip)
    if clip.turn:
        _turn(path, clip.turn)
    if clip.edit:
        clip.edit(path)
    return path


def _frame(clip: Clip, n: int) -> av.VideoFrame:
    def convert(array: np.ndarray, pix_fmt: str) -> av.VideoFrame:
        return av.VideoFrame.from_ndarray(array, format="rgb24").reformat(
            format=pix_fmt,
            interpolation=_EXACT,
            threads=1,
            dst_colorspace={6: 5}.get(clip.matrix, clip.matrix),
            src_color_range=2,
            dst_color_range=2 if clip.full else 1,
        )

    shown = convert(picture(n, clip.size), clip.pix_fmt)
    if shown.format.is_rgb or shown.format.has_palette:
        return shown
    if clip.untagged:
        shown.colorspace, shown.color_range, shown.color_primaries, shown.color_trc = 2, 0, 2, 2
    else:
        shown.colorspace, shown.color_range = clip.matrix, 2 if clip.full else 1
        shown.color_primaries, shown.color_trc = clip.primaries, clip.transfer
    return shown


def _add_sound(out: av.container.OutputContainer, stream: Any, clip: Clip) -> None:
    """Silence with one click, long enough for the picture."""
    seconds = max(Fraction(clip.count) / clip.rate, 2 * CLICK)
    wave = np.zeros((1, int(seconds * 48000)), np.float32)
    start = int(CLICK * 48000)
    wave[0, start : start + 24] = 0.9
    whole = av.AudioFrame.from_ndarray(wave, format="flt", layout="mono")
    whole.sample_rate = 48000
    resampler = av.AudioResampler(
        stream.codec_context.format or "flt", "mono", 48000, stream.codec_context.frame_size or 1024
    )
    at = int(clip.sound_at * 48000)
    for part in [*resampler.resample(whole), *resampler.resample(None)]:
        part.pts, part.time_base = at, Fraction(1, 48000)
        at += part.samples
        out.mux(stream.encode(part))
    out.mux(stream.encode(None))


def _turn(path: Path, turn: tuple[int, int, int, int]) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (part << 16 for part in turn)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def _trim(path: Path) -> None:
    """Without re-encoding, the first 6 frames are cut away: the file keeps and hides what they are needed for."""
    whole = path.rename(path.with_stem("whole"))
    with av.open(str(whole)) as source, av.open(str(path), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                cut = round(Fraction(6, 25) / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - cut, packet.dts - cut, streams[packet.stream_index]
                out.mux(packet)


def _shorten(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def _lose_start(path: Path) -> None:
    """A transport stream as a tuner records it: it begins in the middle of a group of pictures."""
    data = path.read_bytes()
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    path.write_bytes(data[packets[4].pos // 188 * 188 :])


_VFR = (0, 40, 105, 121, 170, 210, 455, 460, 600, 640, 641, 1000)
_HD: dict[str, Any] = {"size": (720, 48), "count": 3}
_MPEG2: dict[str, Any] = {"suffix": "ts", "codec": "mpeg2video", "options": {"qmin": "1", "qmax": "2", "g": "6"}}
_PCM: dict[str, Any] = {"sound": "pcm_s16le"}
_AAC: dict[str, Any] = {"sound": "aac"}
_OPUS: dict[str, Any] = {"sound": "libopus"}
_Q = {"qmin": "1", "qmax": "1"}
_VP9: dict[str, Any] = {"codec": "libvpx-vp9", "options": {"lossless": "1", "deadline": "realtime", "cpu-used": "8"}}

CLIPS: dict[str, Clip] = {
    "MP4, AAC": Clip(**_AAC),
    "23.976": Clip(rate=Fraction(24000, 1001), **_AAC),
    "59.94 MKV": Clip(suffix="mkv", rate=Fraction(60000, 1001), sound="flac"),
    "variable rate MP4": Clip(ticks=_VFR, **_AAC),
    "variable rate, no B-frames": Clip(ticks=_VFR, options={"bf": "0"}),
    "variable rate MKV": Clip(suffix="mkv", ticks=_VFR, **_OPUS),
    **{name: Clip(turn=turn, count=4, base=Fraction(1, 12800)) for name, turn in _QUARTERS.items()},
    "turned MOV, ProRes": Clip(suffix="mov", codec="prores_ks", pix_fmt="yuv422p10le", turn=(0, 1, -1, 0), **_PCM),
    "BT.601": Clip(matrix=6, primaries=6, transfer=6),
    "BT.601, HD": Clip(matrix=5, primaries=5, transfer=6, **_HD),
    "BT.2020": Clip(matrix=9, primaries=9, transfer=14),
    "untagged SD": Clip(matrix=6, untagged=True),
    "untagged HD": Clip(untagged=True, **_HD),
    "full range": Clip(full=True),
    "full range, JPEG": Clip(suffix="mov", codec="mjpeg", pix_fmt="yuvj420p", matrix=6, full=True, options=_Q),
    "4:4:4": Clip(pix_fmt="yuv444p"),
    "4:2:2": Clip(pix_fmt="yuv422p"),
    "10 bit HEVC": Clip(codec="libx265", pix_fmt="yuv420p10le", size=(128, 128), count=4, **_AAC),
    "10 bit full range": Clip(pix_fmt="yuv420p10le", full=True),
    "odd RGB": Clip(suffix="mkv", codec="ffv1", pix_fmt="bgr0", size=(31, 47), untagged=True),
    "odd VP9": Clip(suffix="webm", size=(33, 47), **_VP9, **_OPUS),
    "AV1": Clip(
        codec="libsvtav1", size=(64, 64), options={"preset": "12", "crf": "5", "svtav1-params": "lp=1"}, count=6
    ),
    "GIF": Clip(suffix="gif", codec="gif", pix_fmt="rgb8", rate=Fraction(10), untagged=True),
    "interlaced MPEG-2": Clip(
        **_MPEG2 | {"options": {"qmin": "1", "qmax": "2", "flags": "+ilme+ildct"}}, interlaced=True
    ),
    "interlaced H.264": Clip(options={"x264-params": "tff=1"}, interlaced=True),
    "wide pixels": Clip(aspect=Fraction(16, 11)),
    "wide pixels, turned": Clip(aspect=Fraction(4, 3), turn=(0, 1, -1, 0)),
    "sound 1 s late": Clip(sound_at=Fraction(1), **_AAC),
    "picture 0.5 s late": Clip(picture_at=Fraction(1, 2), **_AAC),
    "sound late, MKV": Clip(suffix="mkv", sound_at=Fraction(1, 8), **_AAC),
    "PCM, MOV": Clip(suffix="mov", **_PCM),
    "Opus, WebM": Clip(suffix="webm", size=(32, 48), **_VP9, **_OPUS),
    "trimmed MP4": Clip(edit=_trim, count=18, frames=12, options={"g": "50"}, **_AAC),
    "fragmented MP4": Clip(mux={"movflags": "frag_keyframe+empty_moov"}, options={"g": "5"}, **_AAC),
    "transport stream": Clip(suffix="ts", options={"g": "5"}, **_AAC),
    "recording, late start": Clip(**_MPEG2 | {"count": 18}, edit=_lose_start, frames=None),
    "AVI": Clip(suffix="avi", codec="mpeg4", options=_Q, matrix=6, untagged=True, sound="pcm_s16le"),
    "AVI, B-frames": Clip(suffix="avi", count=20, options={"bf": "3", "x264-params": "b-adapt=0"}, **_PCM),
    "open GOPs": Clip(
        codec="libx265", options={"x265-params": "keyint=6:qp=4:log-level=none:open-gop=1"}, count=20, size=(64, 64)
    ),
}
"""Clips that are read and written again."""

REFUSED: dict[str, Clip] = {
    "PQ": Clip(pix_fmt="yuv420p10le", matrix=9, primaries=9, transfer=16),
    "cut-off MKV": Clip(suffix="mkv", codec="ffv1", pix_fmt="bgr0", count=40, edit=_shorten),
    "cut-off MP4": Clip(count=40, edit=_shorten),
}
"""Clips that are refused."""
