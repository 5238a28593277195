"""How interleaved image-text pairs lie in one sequence: packing, order, position ids, buckets, spans, cache.

Pure tensor arithmetic shared by both hosts (Captain Cinema §3.2, hybrid attention masking).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from einops import rearrange
from torch import Tensor

from ...core.errors import InputError
from .pair_cache import CachePrecision, KVCache, check_precision

Size = tuple[int, int]

Mode = Literal["full", "causal", "local"]
"""What a pair sees in the single-stream blocks: all pairs, itself and those before it, or only itself."""


PATCH = 2
"""Latent pixels along a side of a token, in every model here."""

NoiseLevel = float | tuple[float, float]
"""t of the context frames, 0…1: one for all, or (low, high), between which every frame gets its own."""


@dataclass
class Pairs:
    """P image-text pairs, B rows each.

    Attributes:
        latents: P tensors [B, h·w, C] (packed tokens).
        sizes: P (h, w) in tokens.
        texts: P tensors [B, T, D]; lengths may differ from pair to pair.
        pooled: [B, P, D'] pooled text.
        timestep: [B, P] in 0…1, one per frame; kept in fp32.
        guidance: [B, P] or None, for guidance-distilled models.
        masks: P bool tensors [B, T] (True: a real token) or None; only ragged batches need them.
        frames: P frame indices for the position ids; default 0…P−1.
        reference: token grid that compressed frames are spread over (see `pair_ids`).
    """

    latents: list[Tensor]
    sizes: list[Size]
    texts: list[Tensor]
    pooled: Tensor
    timestep: Tensor
    guidance: Tensor | None = None
    masks: list[Tensor | None] | None = None
    frames: Sequence[int] | None = None
    reference: Size | None = None

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def frame_index(self) -> Sequence[int]:
        """Frame indices, defaults filled in."""
        return range(len(self)) if self.frames is None else self.frames

    def ids(self, p: int, device: torch.device | None = None) -> Tensor:
        """Position ids of pair `p`: fp32 [T + h·w, 3] (see `pair_ids`)."""
        return pair_ids(self.texts[p].shape[1], self.sizes[p], self.frame_index[p], self.reference, device)

    def pick(self, index: Sequence[int]) -> Pairs:
        """The pairs of these indices, in this order; each keeps its frame index."""
        pick = list(index)
        frames = self.frame_index
        return Pairs(
            latents=[self.latents[i] for i in pick],
            sizes=[self.sizes[i] for i in pick],
            texts=[self.texts[i] for i in pick],
            pooled=self.pooled[:, pick],
            timestep=self.timestep[:, pick],
            guidance=None if self.guidance is None else self.guidance[:, pick],
            masks=None if self.masks is None else [self.masks[i] for i in pick],
            frames=[frames[i] for i in pick],
            reference=self.reference,
        )

    def join(self, other: Pairs) -> Pairs:
        """These pairs followed by `other`'s; each keeps its frame index, the reference is this one's."""
        guidance = None
        if self.guidance is not None and other.guidance is not None:
            guidance = torch.cat([self.guidance, other.guidance], 1)
        none: list[Tensor | None] = []
        return Pairs(
            latents=self.latents + other.latents,
            sizes=self.sizes + other.sizes,
            texts=self.texts + other.texts,
            pooled=torch.cat([self.pooled, other.pooled], 1),
            timestep=torch.cat([self.timestep, other.timestep], 1),
            guidance=guidance,
            masks=(self.masks or none + [None] * len(self)) + (other.masks or none + [None] * len(other)),
            frames=[*self.frame_index, *other.frame_index],
            reference=self.reference,
        )

    def key_mask(self) -> Tensor | None:
        """Bool [B, L] over the packed sequence, or None when every token is real."""
        if self.masks is None or all(m is None for m in self.masks):
            return None
        parts = []
        for text, latent, mask in zip(self.texts, self.latents, self.masks, strict=True):
            parts.append(torch.ones(text.shape[:2], dtype=torch.bool, device=text.device) if mask is None else mask)
            parts.append(torch.ones(latent.shape[:2], dtype=torch.bool, device=latent.device))
        return torch.cat(parts, 1)


class PairModel(Protocol):
    """A velocity network over interleaved pairs."""

    config: Any
    """Its arguments; `guidance_embeds` and the widths are read."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        ...

    def forward_pairs(self, pairs: Pairs, mode: Mode = "full", past: KVCache | None = None) -> list[Tensor]:
        """Velocity of every pair, P tensors [B, h·w, C]; `past` is the cache of context pairs that come before."""
        ...

    def encode_context(self, pairs: Pairs, mode: Mode = "causal", precision: CachePrecision = "model") -> KVCache:
        """Keys and values of context pairs, kept in `precision`, to be given to `forward_pairs` at every step."""
        ...


@dataclass(frozen=True)
class PairSettings:
    """How frames are sampled together; see `PairLayout` for mode, context_noise, cache and precision."""

    mode: Mode = "causal"
    context_noise: NoiseLevel = 0.1
    cache: bool = True
    precision: CachePrecision = "model"


@dataclass(frozen=True)
class PairLayout:
    """Which frame is which when new frames are sampled beside a memory of earlier ones (Captain Cinema §3.2).

    Frames are LISTED new ones first, then context with the most relevant first; they STAND in the sequence with the
    least relevant context first and the new ones last, so that in causal mode a frame sees everything less relevant
    than itself and a new frame sees all of the context.

    Attributes:
        sizes: (rows, columns) in tokens of every listed frame; all new ones have one size.
        new: number of new frames, at least 1.
        mode: ``full`` or ``causal``.
        context_noise: t of the context frames, 0…1, or a range (see `context_levels`).
        cache: keep the context's keys and values over the steps (causal mode only).
        precision: what they are kept in, see `CachePrecision`.
        text_lengths: tokens of every listed frame's caption; empty where nobody needs them.
    """

    sizes: tuple[Size, ...]
    new: int = 1
    mode: Mode = "causal"
    context_noise: NoiseLevel = 0.1
    cache: bool = True
    precision: CachePrecision = "model"
    text_lengths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.new <= len(self.sizes):
            rule = f"must lie in 1…{len(self.sizes)}, the number of frames"
            raise InputError("new frames", rule, self.new, "give at least one new frame")
        if len(set(self.sizes[: self.new])) > 1:
            seen = [f"{h}×{w}" for h, w in self.sizes[: self.new]]
            raise InputError("new frames", "must all have one size", seen, "make frames of other sizes in other runs")
        if self.mode not in ("full", "causal"):
            raise InputError("mode", "must be full or causal", self.mode, "choose one of them")
        check_noise(self.context_noise)
        check_precision(self.precision)
        if self.text_lengths and len(self.text_lengths) != len(self.sizes):
            rule = f"must be one for each of the {len(self.sizes)} frames"
            raise InputError("captions", rule, len(self.text_lengths), "give every frame its caption")

    @property
    def context(self) -> int:
        """Number of context frames."""
        return len(self.sizes) - self.new

    def levels(self, seed: int) -> Tensor:
        """t of every context frame, the most relevant first: fp64 [context]."""
        return context_levels(self.context_noise, self.context, [seed])[0]

    @property
    def cached(self) -> bool:
        """Whether the context's keys and values can be kept over the steps: exact in causal mode only."""
        return self.cache and self.mode == "causal" and self.context > 0

    @property
    def order(self) -> list[int]:
        """Listed frames in the order of the sequence: least relevant context first, new frames last."""
        return [*range(len(self.sizes) - 1, self.new - 1, -1), *range(self.new)]

    @property
    def frames(self) -> list[int]:
        """Frame index of every listed frame: 0, 1, … for new ones, −1 for the most relevant context, then −2, …"""
        return [*range(self.new), *range(-1, -1 - self.context, -1)]

    @property
    def reference(self) -> Size:
        """Token grid of the new frames, which compressed frames are spread over."""
        return self.sizes[0]

    @property
    def tokens(self) -> tuple[int, int]:
        """Tokens per row of the new frames and of the context, captions included."""
        lengths = self.text_lengths or (0,) * len(self.sizes)
        per_frame = [h * w + length for (h, w), length in zip(self.sizes, lengths, strict=True)]
        return sum(per_frame[: self.new]), sum(per_frame[self.new :])


def check_noise(noise: NoiseLevel, field: str = "context_noise") -> None:
    """Refuse what is no level of noise, and no range of them, with an `InputError`."""
    levels = noise if isinstance(noise, tuple) else (noise, noise)
    numbers = all(isinstance(t, int | float) and not isinstance(t, bool) for t in levels)
    if len(levels) != 2 or not numbers or not 0 <= levels[0] <= levels[1] <= 1:
        seen = list(levels) if isinstance(noise, tuple) else noise
        fix = "0.1 is a good start, [0.001, 0.25] the paper's best range"
        raise InputError(field, "must lie in 0…1, or be [low, high]", seen, fix)


def read_noise(text: str) -> NoiseLevel | None:
    """`T` or `LOW-HIGH` as a level or a range of them; None for anything else."""
    try:
        levels = [float(part) for part in text.split("-")]
        noise: NoiseLevel = levels[0] if len(levels) == 1 else (levels[0], levels[1])
        check_noise(noise)
    except (ValueError, InputError):
        return None
    return noise if len(levels) <= 2 else None


def context_levels(noise: NoiseLevel, count: int, seeds: Sequence[int]) -> Tensor:
    """t of `count` context frames for every row's seed, the most relevant frame first: fp64 [rows, count].

    With a range every frame has its own level, drawn evenly from it (Captain Cinema Fig. 10: "each conditioning frame
    has individually been injected with random noise"; timesteps 1–250 of 1000 work best). A frame's level depends on
    the seed and its rank, not on how many are remembered, and not on the noise drawn with the same seed.
    """
    if not isinstance(noise, tuple):
        return torch.full((len(seeds), count), noise, dtype=torch.float64)
    low, high = noise
    drawn = []
    for seed in seeds:
        digest = hashlib.sha256(f"context noise {seed % 2**64}".encode()).digest()
        g = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        drawn.append(torch.rand(count, generator=g, dtype=torch.float64))
    return low + (high - low) * torch.stack(drawn)


def pack_latent(latent: Tensor) -> Tensor:
    """Image latent [B, C, h, w] to tokens [B, (h/2)(w/2), 4C] (2×2 patches, row by row).

    Raises:
        InputError: if h or w is odd.
    """
    if latent.shape[-2] % 2 or latent.shape[-1] % 2:
        raise InputError("latent", "height and width must be even", tuple(latent.shape), "choose another image size")
    return rearrange(latent, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack_latent(tokens: Tensor, size: Size) -> Tensor:
    """Inverse of `pack_latent`; `size` is (rows, columns) of tokens."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=size[0], w=size[1], p=2, q=2)


def token_size(latent: Tensor) -> Size:
    """(rows, columns) of tokens of an image latent [..., h, w]."""
    return latent.shape[-2] // 2, latent.shape[-1] // 2


def pair_ids(
    text_length: int, size: Size, frame: int, reference: Size | None, device: torch.device | None = None
) -> Tensor:
    """Position ids (frame, row, column) of one pair, text first: fp32 [text_length + h·w, 3].

    Text and image of a pair share the frame index, so the geometry inside a pair is the stock model's. A compressed
    frame spans the same field as a full one: its rows and columns are spread over the `reference` grid (None: plain
    indices), centre on centre. The paper does not say which; spreading keeps "upper left" in the same place at every
    tier.
    """
    h, w = size
    rows = torch.arange(h, dtype=torch.float32, device=device)
    columns = torch.arange(w, dtype=torch.float32, device=device)
    if reference is not None and reference != size:
        rows = (rows + 0.5) * (reference[0] / h) - 0.5
        columns = (columns + 0.5) * (reference[1] / w) - 0.5
    ids = torch.zeros(text_length + h * w, 3, device=device)
    ids[text_length:, 1] = rows.repeat_interleave(w)
    ids[text_length:, 2] = columns.repeat(h)
    ids[:, 0] = frame
    return ids


def buckets(sizes: Sequence[Size], text_lengths: Sequence[int]) -> dict[tuple[int, int, int], list[int]]:
    """Pairs that can run as rows of one batch in the double-stream blocks: {(h, w, text length): pair indices}."""
    out: dict[tuple[int, int, int], list[int]] = {}
    for index, (size, length) in enumerate(zip(sizes, text_lengths, strict=True)):
        out.setdefault((*size, length), []).append(index)
    return out


def segment_index(lengths: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Which pair each token of the packed sequence belongs to: int64 [sum(lengths)]."""
    # filled on the device: a copy from the host would wait for it, and cannot become part of a CUDA graph
    return torch.cat([torch.full((n,), p, device=device) for p, n in enumerate(lengths)])


def causal_spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) of each pair in the packed sequence; a pair's keys are everything before its end."""
    spans, start = [], 0
    for n in lengths:
        spans.append((start, start + n))
        start += n
    return spans
