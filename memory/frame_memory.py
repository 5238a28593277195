"""The frames that new ones look back at: ranked, packed at their sizes, encoded (Captain Cinema §3.2).

One memory serves ComfyUI, films and the evaluation. It knows no models: the host's `FrameEncoders` embed and encode,
`packing` says how many frames are remembered and how large, `retrieval` which come first. A memory never changes;
`with_frames` gives one with more frames, so that a graph can branch, and what was computed for a frame is shared.

B stories may grow side by side: a frame is then B images, row b of story b, and every row has its own order. The sizes
are the same in all of them, so each rank is one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, get_args

import torch
from torch import Tensor

from ..core.errors import InputError
from .golden_mem import Level, Place, ResizeMode, Size, resize_context, resize_context_latent
from .retrieval import Ranking, Retrieval, rank_clip, rank_memory, rank_together

__all__ = ["ContextFrame", "FrameEncoders", "FrameMemory", "MemoryFrame", "Packing", "Recalled"]

Text = TypeVar("Text")
Host = TypeVar("Host", bound="FrameEncoders")


@dataclass
class ContextFrame(Generic[Text]):
    """An earlier frame as samplers take it.

    Attributes:
        latent: `[B, C, h, w]` (`[1, C, h, w]` serves every row), clean, at its size in memory; h and w even.
        text: its caption, encoded: a `TextCond` of B rows, in ComfyUI a CONDITIONING of one prompt.
        place: its place in the packing, where samplers want to know it.
    """

    latent: Tensor
    text: Text
    place: Place | None = None


class FrameEncoders(Protocol):
    """The models behind a memory, as its host runs them; embeddings come back on the CPU."""

    @property
    def pixels_per_token(self) -> int:
        """Pixels along a side of one image token of the model that will look at the frames."""
        ...

    def embed_query(self, text: str, dim: int) -> Tensor:
        """CLIP embeddings `[P, dim]` of the parts of a query (see `query_parts`), in the space of `embed_image`."""
        ...

    def embed_caption(self, text: str) -> Tensor:
        """Text embedding `[D]` of a caption, or of a query that is compared with captions (see `mean_pool`)."""
        ...

    def embed_image(self, images: Tensor) -> Tensor:
        """CLIP embeddings `[B, D]` of images `[B, 3, H, W]` in 0…1."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Latents `[B, C, h, w]` of images `[B, 3, H, W]` in 0…1."""
        ...


class Packing(Protocol):
    """How ranked frames are packed into a context: `GoldenMem`, or STAGE's `MemoryPack`."""

    @property
    def level(self) -> Level:
        """Where frames are shrunk: before the VAE (`pixel`) or after it (`latent`)."""
        ...

    @property
    def latent_resize(self) -> ResizeMode:
        """How latents are shrunk."""
        ...

    @property
    def capacity(self) -> int | None:
        """Frames that are remembered at most; None where that depends on their size, or has no bound."""
        ...

    def plan(self, count: int, size_tokens: Size) -> Sequence[Place]:
        """One place for each of `count` frames that is remembered, the most relevant first."""
        ...

    def assign(self, order: Sequence[int], size_tokens: Size) -> Sequence[tuple[int, Place]]:
        """(frame index, place) for frames given best first; places depend on ranks and on how many there are."""
        ...


class MemoryFrame:
    """One earlier frame, with what has been computed for it so far.

    Args:
        image: `[B, 3, H, W]` in 0…1, or a function that reads it each time: what stays on the disk costs no memory,
            and its latents are not kept either.
        query: its caption with looks in the place of names, for text-to-text retrieval; one for each row.
        text: its caption for generation: as the host encodes it, or a string that is still to be encoded.
        label: what to call it.
        size: (height, width) in pixels; needed where `image` is a function.
    """

    def __init__(
        self,
        image: Tensor | Callable[[], Tensor],
        query: str | Sequence[str] = "",
        text: Any = "",
        label: str = "",
        size: Size | None = None,
    ) -> None:
        self._image = image
        self.queries = (query,) if isinstance(query, str) else tuple(query)
        self.text, self.label = text, label
        self._size = size
        self._embeddings: dict[Retrieval, Tensor] = {}
        self._latents: dict[tuple[Size, Level, ResizeMode], Tensor] = {}

    @property
    def image(self) -> Tensor:
        """`[B, 3, H, W]` in 0…1."""
        return self._image if isinstance(self._image, Tensor) else self._image()

    @property
    def size(self) -> Size:
        """(height, width) in pixels."""
        if self._size is None:
            height, width = self.image.shape[-2:]
            self._size = height, width
        return self._size

    def embedding(self, retrieval: Retrieval, encoders: FrameEncoders) -> Tensor:
        """`[B, D]`: of the image for `clip`, of the caption for `text`.

        Every frame is embedded for itself and once: a batch would round differently when a resumed film embeds other
        frames together.
        """
        if retrieval not in self._embeddings:
            if retrieval == "clip":
                self._embeddings[retrieval] = encoders.embed_image(self.image)
            else:
                self._embeddings[retrieval] = torch.stack([encoders.embed_caption(q) for q in self.queries])
        return self._embeddings[retrieval]

    def latent(
        self, size: Size, encoders: FrameEncoders, level: Level = "pixel", resize: ResizeMode = "area"
    ) -> Tensor:
        """The frame at `size` in tokens: `[B, C, h, w]`.

        Args:
            size: (height, width) in tokens, as the packing plans it.
            encoders: encode it.
            level: `pixel` shrinks before the VAE encodes (§4.2), `latent` after it: softer, one encoding for all sizes.
            resize: how latents are shrunk.
        """
        if (found := self._latents.get((size, level, resize))) is not None:
            return found
        side = encoders.pixels_per_token
        full = self.size[0] // side, self.size[1] // side
        if level == "latent" and size != full:
            whole = self.latent(full, encoders, level, resize)
            patch = whole.shape[-2] // full[0]  # latent pixels along a side of one token
            made = resize_context_latent(whole, (size[0] * patch, size[1] * patch), resize)
        else:
            made = encoders.encode(resize_context(self.image, (size[0] * side, size[1] * side)))
        if isinstance(self._image, Tensor):
            self._latents[size, level, resize] = made
        return made


@dataclass(frozen=True)
class Recalled:
    """What a new frame remembers at one rank.

    Attributes:
        slot: rank, size and place, the same in all rows.
        indices: for every row, which frame of the memory takes the slot.
        frames: these frames.
    """

    slot: Place
    indices: tuple[int, ...]
    frames: tuple[MemoryFrame, ...]

    @property
    def frame(self) -> MemoryFrame:
        """The first row's frame: the only one of a single story."""
        return self.frames[0]


@dataclass(frozen=True)
class FrameMemory(Generic[Host]):
    """Earlier frames, oldest first, and how a new one looks back at them.

    Attributes:
        encoders: the host's models.
        packing: how many frames are remembered, and how large.
        retrieval: how they are ranked.
        query: what the next frame shows, where nobody says it.
        frames: the frames, all of one size.

    Raises:
        InputError: an unknown retrieval, or frames of several sizes or of one that does not divide into tokens.
    """

    encoders: Host
    packing: Packing
    retrieval: Ranking = "clip"
    query: str = ""
    frames: tuple[MemoryFrame, ...] = ()

    def __post_init__(self) -> None:
        if self.retrieval not in get_args(Ranking):
            raise InputError("retrieval", "must be clip, text, recency or image", self.retrieval, "choose one of them")
        sizes = {frame.size[::-1] for frame in self.frames}
        if len(sizes) > 1:
            seen = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
            raise InputError("frames", "all frames of a memory must have one size", seen, "scale them to the film's")
        side = self.encoders.pixels_per_token if sizes else 1
        for width, height in sizes:
            if width % side or height % side:
                fix = f"use {max(1, round(width / side)) * side}x{max(1, round(height / side)) * side}"
                raise InputError("frames", f"width and height must divide by {side}", f"{width}x{height}", fix)

    def with_frames(self, frames: Sequence[MemoryFrame]) -> FrameMemory[Host]:
        """The same memory with newer frames added. Raises InputError when they have another size."""
        return replace(self, frames=(*self.frames, *frames))

    @property
    def size_tokens(self) -> Size:
        """(height, width) of a full frame in tokens; (0, 0) without frames."""
        if not self.frames:
            return 0, 0
        side = self.encoders.pixels_per_token
        height, width = self.frames[0].size
        return height // side, width // side

    def recall(self, *rows: Sequence[str]) -> list[Recalled]:
        """The remembered frames with their slots, the most relevant first.

        Args:
            rows: for every row what each new frame shows, with looks in the place of names; of several new frames the
                best place counts (see `rank_together`). None, or only empty ones, take the memory's own query.

        Raises:
            InputError: nothing to rank by.
        """
        if not self.frames:
            return []
        orders = [self._order(row, queries) for row, queries in enumerate(rows or [()])]
        packed = [self.packing.assign(order, self.size_tokens) for order in orders]
        recalled = []
        for ranked in zip(*packed, strict=True):
            indices = tuple(frame for frame, _ in ranked)
            recalled.append(Recalled(ranked[0][1], indices, tuple(self.frames[i] for i in indices)))
        return recalled

    def context(self, recalled: Sequence[Recalled], texts: Sequence[Text]) -> list[ContextFrame[Text]]:
        """What was recalled as samplers take it, with its encoded captions, one for each rank."""
        found = []
        for rank, text in zip(recalled, texts, strict=True):
            size, pack = rank.slot.size, self.packing
            latents = [frame.latent(size, self.encoders, pack.level, pack.latent_resize) for frame in rank.frames]
            rows = torch.stack([latent[row] for row, latent in enumerate(latents)]) if len(latents) > 1 else latents[0]
            found.append(ContextFrame(rows, text, rank.slot))
        return found

    def _order(self, row: int, queries: Sequence[str]) -> list[int]:
        """Indices of all frames for one row, best first."""
        kind, count = self.retrieval, len(self.frames)
        if kind == "recency" or count == 1:
            return rank_memory("recency", count)
        if kind == "image":
            seen = torch.stack([frame.embedding("clip", self.encoders)[row] for frame in self.frames])
            return rank_clip(seen[-1], seen)
        asked = list(dict.fromkeys(query for query in queries if query.strip())) or [self.query]
        if not asked[0]:
            fix = "write a query, connect the storyboard, or rank by recency"
            raise InputError("query", f"is needed to rank frames by {kind}", None, fix)
        if kind == "text" and not all(frame.queries[row] for frame in self.frames):
            fix = "write one caption per line, or rank by recency"
            raise InputError("captions", "every context frame needs a caption to be ranked by text", None, fix)
        keys = torch.stack([frame.embedding(kind, self.encoders)[row] for frame in self.frames])
        wanted = (
            self.encoders.embed_query(query, keys.shape[1]) if kind == "clip" else self.encoders.embed_caption(query)
            for query in asked
        )
        return rank_together([rank_memory(kind, count, query, keys) for query in wanted])
