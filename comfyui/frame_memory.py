"""The frames that new ones look back at: ranked, shrunk by the golden ratio, encoded (Captain Cinema §3.2).

What the ANCHORSHOT_CONTEXT socket carries. It grows as frames are made: `with_frame` gives a memory of one frame more,
so that a graph can branch, and what was computed for a frame is shared by all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor

from ..core.errors import InputError
from ..memory.golden_mem import GoldenMem, Level, Size, Slot, resize_context, resize_context_latent
from ..memory.retrieval import Retrieval, rank_parts, rank_recency, rank_text, rank_together
from .encode_text import embed_words, encode_caption
from .images import encode_frame
from .similarity import embed_parts, embed_picture

__all__ = ["Encoders", "FrameMemory", "Remembered", "pixels_per_token"]

Conditioning = list[Any]


@dataclass(frozen=True)
class Encoders:
    """The models behind a memory.

    Attributes:
        vae: encodes pictures.
        clip: text encoder of the keyframe model, for captions and text-to-text retrieval.
        clip_vision, retrieval_clip: a CLIP pair, for text-to-image retrieval; without the latter `clip` serves.
    """

    vae: Any
    clip: Any = None
    clip_vision: Any = None
    retrieval_clip: Any = None


class Remembered:
    """One earlier frame, with what has been computed for it so far.

    Args:
        picture: `[3, H, W]` in 0…1.
        words: its caption with looks in the place of names, for text-to-text retrieval.
        caption: its caption as CONDITIONING, if it is there already.
        text: its caption for generation, encoded when it is first needed.
        label: what to call it in the picture of the memory.
    """

    def __init__(
        self, picture: Tensor, words: str = "", caption: Conditioning | None = None, text: str = "", label: str = ""
    ) -> None:
        self.picture, self.words, self.text, self.label = picture, words or text, text, label
        self.encoded = caption
        self._embeddings: dict[str, Tensor] = {}
        self._latents: dict[tuple[Size, Level], Tensor] = {}

    def caption(self, encoders: Encoders) -> Conditioning:
        """The caption as CONDITIONING.

        Raises:
            InputError: there is no caption, or no text encoder to read it.
        """
        if self.encoded is None:
            if not self.text:
                fix = "write one caption per line, or connect the storyboard"
                raise InputError("context.captions", "every context frame needs a caption", self.label or "none", fix)
            if encoders.clip is None:
                fix = "connect the CLIP of the keyframe model to GoldenMem Context"
                raise InputError("context.clip", "is needed to encode the captions of context frames", None, fix)
            self.encoded = encode_caption(encoders.clip, self.text)
        return self.encoded

    def embedding(self, kind: Retrieval, encoders: Encoders) -> Tensor:
        """`[D]`: of the picture for `clip`, of the words for `text`."""
        if kind not in self._embeddings:
            seen = kind == "clip"
            made = embed_picture(encoders.clip_vision, self.picture) if seen else embed_words(encoders.clip, self.words)
            self._embeddings[kind] = made
        return self._embeddings[kind]

    def latent(self, size: Size, encoders: Encoders, level: Level = "pixel") -> Tensor:
        """The frame at `size` in tokens, shrunk as pixels (§4.2) before the VAE or after it: `[1, C, h, w]`."""
        if (size, level) not in self._latents:
            side = pixels_per_token(encoders.vae)
            full = self.picture.shape[1] // side, self.picture.shape[2] // side
            if level == "latent" and size != full:
                whole = self.latent(full, encoders, level)
                cells = whole.shape[-2] // full[0]
                made = resize_context_latent(whole, (size[0] * cells, size[1] * cells))
            else:
                small = resize_context(self.picture[None], (size[0] * side, size[1] * side))
                made = encode_frame(encoders.vae, small[0])
            self._latents[size, level] = made
        return self._latents[size, level]


@dataclass(frozen=True)
class FrameMemory:
    """Earlier frames, oldest first, and how a new one looks back at them.

    Attributes:
        encoders: the models.
        plan: how many frames are remembered, and how large.
        retrieval: how they are ranked.
        query: what the next frame shows, where nobody says it.
        frames: the frames, all of one size.
    """

    encoders: Encoders
    plan: GoldenMem = field(default_factory=GoldenMem)
    retrieval: Retrieval = "clip"
    query: str = ""
    frames: tuple[Remembered, ...] = ()

    def __post_init__(self) -> None:
        if self.retrieval not in get_args(Retrieval):
            raise InputError("retrieval", "must be clip, text or recency", self.retrieval, "choose one of them")
        needed = {"clip": ("clip_vision", self.encoders.clip_vision), "text": ("clip", self.encoders.clip)}
        name, model = needed.get(self.retrieval, ("", self))
        if model is None:
            fix = f"connect {name}, or choose another retrieval (recency needs nothing)"
            raise InputError(name, f"is needed to rank frames by {self.retrieval}", None, fix)
        sizes = {(frame.picture.shape[2], frame.picture.shape[1]) for frame in self.frames}
        if len(sizes) > 1:
            seen = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
            raise InputError("frames", "all frames of a memory must have one size", seen, "scale them to the film's")
        side = pixels_per_token(self.encoders.vae)
        for width, height in sizes:
            if width % side or height % side:
                fix = f"use {max(1, round(width / side)) * side}x{max(1, round(height / side)) * side}"
                raise InputError("frames", f"width and height must divide by {side}", f"{width}x{height}", fix)

    def check_for(self, words: Sequence[str], size: tuple[int, int]) -> None:
        """Refuse, before anything is sampled, new frames that this memory could not serve.

        Args:
            words: what each new frame shows; they will be remembered in turn.
            size: (height, width) of the new frames in pixels.

        Raises:
            InputError: another size than the remembered frames, or nothing to rank by.
        """
        if self.frames and tuple(self.frames[0].picture.shape[1:]) != size:
            height, width = self.frames[0].picture.shape[1:]
            rule = f"must have the size of the new frames, {size[1]}x{size[0]}"
            raise InputError("context", rule, f"{width}x{height}", "scale the frames, or change the latent's size")
        ranked = len(self.frames) + len(words) > 2 or len(self.frames) > 1
        if self.retrieval != "recency" and ranked and not self.query and not all(words):
            fix = "connect the storyboard or its queries, or rank by recency"
            raise InputError("query", f"is needed to rank frames by {self.retrieval}", None, fix)

    def with_frames(self, frames: Sequence[Remembered]) -> FrameMemory:
        """The same memory with newer frames added. Raises InputError when they have another size."""
        return replace(self, frames=(*self.frames, *frames))

    @property
    def given_captions(self) -> list[Conditioning]:
        """Captions of the frames that came encoded or are so already."""
        return [frame.encoded for frame in self.frames if frame.encoded is not None]

    @property
    def size_tokens(self) -> Size:
        """(height, width) of a full frame in tokens; (0, 0) without frames."""
        if not self.frames:
            return 0, 0
        side = pixels_per_token(self.encoders.vae)
        height, width = self.frames[0].picture.shape[1:]
        return height // side, width // side

    def recall(self, *queries: str) -> list[tuple[Remembered, Slot]]:
        """The remembered frames with their slots, the most relevant first.

        Args:
            queries: what each new frame shows, with looks in the place of names; of several the best place
                counts. None, or only empty ones, take the memory's own.

        Raises:
            InputError: nothing to rank by.
        """
        if not self.frames:
            return []
        said = dict.fromkeys(query.strip() for query in queries if query.strip())
        order = self._rank(list(said) or [self.query.strip()])
        return [(self.frames[i], slot) for i, slot in self.plan.assign(order, self.size_tokens)]

    def _rank(self, queries: list[str]) -> list[int]:
        kind, encoders = self.retrieval, self.encoders
        if kind == "recency" or len(self.frames) == 1:
            return rank_recency(len(self.frames))
        if not queries[0]:
            fix = "write a query, connect the storyboard, or rank by recency"
            raise InputError("query", f"is needed to rank frames by {kind}", None, fix)
        if kind == "text" and not all(frame.words for frame in self.frames):
            fix = "write one caption per line, or rank by recency"
            raise InputError("captions", "every context frame needs a caption to be ranked by text", None, fix)
        keys = torch.stack([frame.embedding(kind, encoders) for frame in self.frames])
        if kind == "text":
            return rank_together([rank_text(embed_words(encoders.clip, query), keys) for query in queries])
        clip = encoders.retrieval_clip if encoders.retrieval_clip is not None else encoders.clip
        if clip is None:
            fix = "connect the CLIP that belongs to the CLIP_VISION, or rank by recency"
            raise InputError("retrieval_clip", "is needed to rank frames by clip", None, fix)
        return rank_together([rank_parts(embed_parts(clip, query, keys.shape[1]), keys) for query in queries])


def pixels_per_token(vae: Any) -> int:
    """Pixels along a side of one token: 16 for FLUX.1, FLUX.2, Qwen-Image and the pocket studio.

    VAEs that shrink 8 times leave a 2×2 patch to the transformer; those that shrink 16 times have folded it in.
    """
    return max(16, int(vae.spacial_compression_encode()))
