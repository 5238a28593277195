"""How interleaved image-text pairs lie in a Flux sequence: packing, position ids, buckets and causal spans.

Pure tensor arithmetic shared by both hosts (Captain Cinema §3.2, hybrid attention masking).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange

from ...story.errors import InputError

Size = tuple[int, int]


def pack_latent(latent: torch.Tensor) -> torch.Tensor:
    """Image latent [B, C, h, w] to Flux tokens [B, (h/2)(w/2), 4C] (2×2 patches, row by row).

    Raises:
        InputError: if h or w is odd.
    """
    if latent.shape[-2] % 2 or latent.shape[-1] % 2:
        raise InputError("latent", "height and width must be even", tuple(latent.shape), "choose another image size")
    return rearrange(latent, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpack_latent(tokens: torch.Tensor, size: Size) -> torch.Tensor:
    """Inverse of `pack_latent`; `size` is (rows, columns) of tokens."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=size[0], w=size[1], p=2, q=2)


def token_size(latent: torch.Tensor) -> Size:
    """(rows, columns) of tokens of an image latent [..., h, w]."""
    return latent.shape[-2] // 2, latent.shape[-1] // 2


def pair_ids(
    text_length: int, size: Size, frame: int, reference: Size | None, device: torch.device | None = None
) -> torch.Tensor:
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


def segment_index(lengths: Sequence[int], device: torch.device | None = None) -> torch.Tensor:
    """Which pair each token of the packed sequence belongs to: int64 [sum(lengths)]."""
    counts = torch.tensor(list(lengths), device=device)
    # with the output size given, nothing waits for the device, and the meta device can count
    return torch.repeat_interleave(torch.arange(len(lengths), device=device), counts, output_size=sum(lengths))


def causal_spans(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(start, end) of each pair in the packed sequence; a pair's keys are everything before its end."""
    spans, start = [], 0
    for n in lengths:
        spans.append((start, start + n))
        start += n
    return spans
