"""Story text through ComfyUI's text encoders: the tokens that the command line reads, at their real length.

Core pads T5 (to 256 tokens, which some models then attend to) and reads brackets as weights. Captions of a long memory
would cost more than its pictures, and similarities would compare padding; so neither happens to text that is ours.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ..memory.retrieval import mean_pool
from ..models.encoders.prompt_text import to_prompt

__all__ = ["Tokens", "embed_text", "encode_caption", "real_count", "real_tokens", "tokenize"]

Tokens = dict[str, list[list[tuple[Any, float]]]]
"""ComfyUI's tokens: rows of (id, weight) for each text model of a CLIP."""

logger = logging.getLogger(__name__)

_T5 = ("t5xxl", "t5base", "mt5xl", "pile_t5xl", "umt5xxl")
LONGEST = 512
"""Tokens that a T5 reads, as in the published pipelines and headless."""


def tokenize(clip: Any, text: str) -> Tokens:
    """Tokens of a text, every character as itself: no weights, no embeddings, T5 unpadded and cut after 512 tokens."""
    options: dict[str, Any] = {"min_length": 1}
    if getattr(clip, "tokenizer_options", None):  # T5 Tokenizer Options may ask for padding
        options["tokenizer_options"] = {f"{name}_min_padding": None for name in _T5}
    tokens: Tokens = clip.tokenize(to_prompt(text), **options)
    return {name: [_cut(row, text) for row in rows] if name in _T5 else rows for name, rows in tokens.items()}


def _cut(row: list[tuple[Any, float]], text: str) -> list[tuple[Any, float]]:
    if len(row) <= LONGEST:
        return row
    logger.warning("prompt cut to %d of its %d tokens: %.60s…", LONGEST, len(row), text)
    return [*row[: LONGEST - 1], row[-1]]


def encode_caption(clip: Any, text: str) -> list[Any]:
    """CONDITIONING of a story's text, as long as the text is."""
    return clip.encode_from_tokens_scheduled(tokenize(clip, text))


@torch.no_grad()
def embed_text(clip: Any, text: str) -> Tensor:
    """Mean of a text's token states `[D]`, padding left out (as T5 in Captain Cinema §3.2)."""
    tokens = tokenize(clip, text)
    out = clip.encode_from_tokens(tokens, return_dict=True)
    states, mask = out["cond"], out.get("attention_mask")
    if mask is not None:
        mask = mask.reshape(-1, mask.shape[-1])[:, : states.shape[1]]
    else:
        mask = real_tokens(clip, tokens, states.shape[1])
    return mean_pool(states, mask)[0].cpu()


def real_tokens(clip: Any, tokens: Tokens, length: int) -> Tensor | None:
    """Which of an encoder's `length` states are no padding, `[1, length]`; None where tokens and states do not match.

    CLIP's models fill rows of 77 up whatever is asked, and say nothing about it.
    """
    for name, rows in tokens.items():
        if sum(map(len, rows)) == length:
            counts = [real_count(clip, name, row) for row in rows]
            return torch.cat([torch.arange(len(row)) < n for row, n in zip(rows, counts, strict=True)])[None]
    return None


def real_count(clip: Any, name: str, row: list[tuple[Any, float]]) -> int:
    """Tokens of a row of text model `name` without the padding at its end; start and end token count."""
    tokenizer = getattr(clip.tokenizer, name, None) or getattr(clip.tokenizer, f"clip_{name}", None)
    pad, end = getattr(tokenizer, "pad_token", None), getattr(tokenizer, "end_token", None)
    ids, count = [token for token, *_ in row], len(row)
    while count > 1 and _same(ids[count - 1], pad) and (pad != end or _same(ids[count - 2], end)):
        count -= 1
    return count


def _same(token: Any, wanted: int | None) -> bool:
    """Whether a token is that id; what stands for a picture or an embedding is none."""
    return isinstance(token, int) and token == wanted
