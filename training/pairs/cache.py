"""A data set's pictures encoded once: latents, what the text encoder sees, embeddings for ranking; one file per movie.

A file stays good as long as its movie's records, its pictures (size and time of change) and the models stay the same.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...core.errors import InputError
from ...core.files import atomic_path
from ...media.image import fit_image, read_image
from ...media.video import VideoReader
from ...models.encoders.qwen_vl_prompt import picture_pixels
from ...models.encoders.vae import ImageCodec
from .records import ShotRecord

__all__ = ["CacheSettings", "CachedShot", "PairCache", "Ranker", "encode_movies", "read_shot"]

logger = logging.getLogger(__name__)

_VERSION = 1


class Ranker(NamedTuple):
    """CLIP, by which memories are ranked: images [N, 3, H, W] in 0…1 to [N, D], a text to [P, D]."""

    images: Callable[[Tensor], Tensor]
    query: Callable[[str], Tensor]


@dataclass(frozen=True)
class CacheSettings:
    """What the cache depends on besides records and pictures.

    Attributes:
        sizes: (width, height) in pixels of the buckets; a shot goes where its aspect fits best, cut around the middle.
        inner: pictures between start and end that are kept at most, evenly spread.
        inset: frames left out at both ends of a clip, where a cut may still be dissolving.
        seen_area: pixels of what the text encoder sees.
        seen_multiple: its sides are multiples of this.
        models: what the encoders are, as text.
    """

    sizes: tuple[tuple[int, int], ...]
    inner: int = 8
    inset: int = 2
    seen_area: int = 384 * 384
    seen_multiple: int = 28
    models: str = ""


class CachedShot(NamedTuple):
    """What is known of a shot, in the cache's own types.

    Attributes:
        frames: fp16 [2 + I, C, h, w], start, end and the inner frames in the order of time.
        seen: uint8 [3, H, W], the end frame as the text encoder sees it.
        keys: [2, D], embeddings of start and end.
        query: [P, D], of the text in parts.
        control: fp16 [K, C, h, w] of given memories, and [K, D] their embeddings; empty without.
        control_keys: see `control`.
        control_seen: uint8, the first of them as the text encoder sees it, or None.
    """

    frames: Tensor
    seen: Tensor
    keys: Tensor
    query: Tensor
    control: Tensor
    control_keys: Tensor
    control_seen: Tensor | None


class PairCache(NamedTuple):
    """An encoded data set.

    Attributes:
        records: by movie, in order.
        files: by movie.
        buckets: by movie, of each shot the index into `sizes`.
        distances: by movie, of each shot the mean squared difference between its start and end frame and each two of
            its inner frames, as [I, I] with the first before the second in time (elsewhere 0).
        sizes: (width, height) of the buckets.
    """

    records: dict[str, list[ShotRecord]]
    files: dict[str, Path]
    buckets: dict[str, list[int]]
    distances: dict[str, list[Tensor]]
    sizes: tuple[tuple[int, int], ...]


def encode_movies(
    movies: Mapping[str, list[ShotRecord]],
    folder: Path,
    settings: CacheSettings,
    models: Callable[[], tuple[ImageCodec, Ranker]],
    write: bool = True,
) -> PairCache:
    """Encode what `folder` does not hold yet.

    Args:
        movies: from `read_records`.
        folder: of the cache.
        settings: sizes and the like.
        models: loads the VAE and CLIP; not called where all is there.
        write: whether this process encodes; others only read.

    Raises:
        InputError: a picture that is missing or unreadable, an inner frame of another size, a clip of too few frames.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cache = PairCache(dict(movies), {}, {}, {}, settings.sizes)
    loaded: tuple[ImageCodec, Ranker] | None = None
    for number, (movie, shots) in enumerate(movies.items()):
        path = folder / f"{hashlib.sha256(movie.encode()).hexdigest()[:20]}.safetensors"
        mark = _fingerprint(shots, settings)
        if not _good(path, mark):
            if not write:
                raise InputError("data.cache", "must hold every movie", movie, "let the main process encode first")
            loaded = loaded or models()
            logger.info("encoding %s, %d of %d", movie or "the data set", number + 1, len(movies))
            _encode(path, shots, settings, mark, *loaded)
        with safe_open(path, framework="pt") as file:
            cache.files[movie] = path
            cache.buckets[movie] = file.get_tensor("buckets").tolist()
            cache.distances[movie] = [file.get_tensor(f"{i}.distances") for i in range(len(shots))]
    return cache


def read_shot(file: Any, index: int) -> CachedShot:
    """One shot of a movie's open file (`safetensors.safe_open`)."""
    frames, seen, keys, query, control, control_keys = (
        file.get_tensor(f"{index}.{name}") for name in CachedShot._fields[:-1]
    )
    name = f"{index}.control_seen"
    control_seen = file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 (not a dict)
    return CachedShot(frames, seen, keys, query, control, control_keys, control_seen)


def _fingerprint(shots: Sequence[ShotRecord], settings: CacheSettings) -> str:
    def stamp(path: Path, where: str) -> list[Any]:
        try:
            stat = path.stat()
        except OSError as error:
            fix = f"check the path ({error.strerror})"
            raise InputError("picture", "must be an existing file", str(path), fix, where) from None
        return [str(path), stat.st_size, stat.st_mtime_ns]

    content = [
        [shot.shot, shot.told, shot.control is None, [stamp(path, shot.where) for path in shot.pictures]]
        for shot in shots
    ]
    text = json.dumps([_VERSION, repr(settings), content])
    return hashlib.sha256(text.encode()).hexdigest()


def _good(path: Path, mark: str) -> bool:
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("fingerprint") == mark
    except Exception:  # a file of another kind, or cut off by a full disk: it is written again
        return False


def _encode(
    path: Path, shots: Sequence[ShotRecord], settings: CacheSettings, mark: str, vae: ImageCodec, ranker: Ranker
) -> None:
    tensors: dict[str, Tensor] = {}
    buckets = []
    for index, shot in enumerate(shots):
        pictures = list(_pictures(shot, settings))
        height, width = pictures[0].shape[-2:]
        bucket = min(
            range(len(settings.sizes)), key=lambda i: _difference(settings.sizes[i], (width, height))
        )  # fmt: skip
        size = settings.sizes[bucket][::-1]
        frames = torch.stack([fit_image(picture, size) for picture in pictures])
        control = [fit_image(read_image(p, "control_img_list"), size) for p in shot.control or ()]
        latents = _latents(vae, frames)
        kept = {
            "frames": latents.half(),
            "seen": _seen(frames[1], settings),
            "keys": ranker.images(frames[:2]).cpu().float(),
            "query": ranker.query(shot.told).cpu().float(),
            "control": torch.zeros(0, *latents.shape[1:], dtype=torch.float16),
            "control_keys": torch.zeros(0, 1),
            "distances": _distances(latents),
        }
        if control:
            images = torch.stack(control)
            kept |= {"control": _latents(vae, images).half(), "control_keys": ranker.images(images).cpu().float()}
            kept["control_seen"] = _seen(images[0], settings)
        tensors |= {f"{index}.{name}": value.contiguous() for name, value in kept.items()}
        buckets.append(bucket)
    tensors["buckets"] = torch.tensor(buckets)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"fingerprint": mark})


def _pictures(shot: ShotRecord, settings: CacheSettings) -> Iterator[Tensor]:
    """Start, end and inner frames of a shot."""
    if shot.clip is None:
        for field, path in (("start", shot.start), ("end", shot.end)):
            assert path is not None
            yield read_image(path, field)
        for path in _spread(shot.inner, settings.inner):
            yield read_image(path, "inner")
        return
    reader = VideoReader(shot.clip, "clip")
    count, inset = reader.frames, settings.inset
    if count < 2 * inset + 2:
        rule = f"must have at least {2 * inset + 2} frames"
        raise InputError("clip", rule, count, "leave the shot out, or set a smaller data.inset", shot.where)
    first, last = inset, count - 1 - inset
    wanted = [first, last, *_spread(range(first + 1, last), settings.inner)]
    found = {i: frame for i, frame in enumerate(reader) if i in set(wanted)}
    for i in wanted:
        yield found[i]


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def _difference(size: tuple[int, int], other: tuple[int, int]) -> float:
    """How far two sizes' aspects lie apart, as a factor of at least 1."""
    ratio = size[0] * other[1] / (size[1] * other[0])
    return max(ratio, 1 / ratio)


def _seen(frame: Tensor, settings: CacheSettings) -> Tensor:
    return (picture_pixels(frame, settings.seen_area, settings.seen_multiple) * 255).round().to(torch.uint8)


def _latents(vae: ImageCodec, frames: Tensor) -> Tensor:
    return torch.cat([vae.encode_image(frame[None]).cpu() for frame in frames])


def _distances(latents: Tensor) -> Tensor:
    """[I, I]: mean squared difference of (inner i, inner j), i before j, to (start, end)."""
    start, end, inner = latents[0], latents[1], latents[2:]
    first = (inner - start).square().flatten(1).mean(1) if len(inner) else inner.new_zeros(0)
    last = (inner - end).square().flatten(1).mean(1) if len(inner) else inner.new_zeros(0)
    return ((first[:, None] + last[None]) / 2).triu(1)
