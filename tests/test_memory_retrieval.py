"""Retrieval: order by similarity, ties by recency, pure functions on embeddings."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.memory.retrieval import (
    TIE,
    mean_pool,
    query_parts,
    rank_clip,
    rank_parts,
    rank_recency,
    rank_text,
    rank_together,
    similarity,
)


def at_angles(*degrees: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], -1)


def test_recency_is_newest_first() -> None:
    assert rank_recency(4) == [3, 2, 1, 0]
    assert rank_recency(0) == []


@pytest.mark.parametrize("rank", [rank_clip, rank_text])
def test_order_follows_the_angle_not_the_length(rank) -> None:
    frames = at_angles(80, 10, 45, 120) * torch.tensor([9.0, 0.1, 1.0, 5.0])[:, None]
    assert rank(at_angles(0)[0], frames) == [1, 2, 0, 3]
    assert rank(at_angles(0) * 7, frames) == [1, 2, 0, 3]  # [1, D] query of any length


def test_ties_are_broken_by_recency() -> None:
    frames = at_angles(30, 10, 30, 10, 10)
    assert rank_clip(at_angles(0)[0], frames) == [4, 3, 1, 2, 0]
    nearly = frames + torch.randn(frames.shape, generator=torch.Generator().manual_seed(0)) * TIE * 1e-2
    assert rank_clip(at_angles(0)[0], nearly) == [4, 3, 1, 2, 0]


def test_a_zero_embedding_is_unrelated_but_usable() -> None:
    frames = torch.cat([torch.zeros(1, 2), at_angles(10, 170)])
    assert rank_clip(at_angles(0)[0], frames) == [1, 0, 2]
    assert rank_clip(torch.zeros(2), frames) == rank_recency(3)


@given(n=st.integers(0, 20), seed=st.integers(0, 99))
def test_every_frame_appears_once_best_first(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, frames = torch.randn(8, generator=generator), torch.randn(n, 8, generator=generator)
    order = rank_clip(query, frames)
    assert sorted(order) == list(range(n))
    scores = similarity(query, frames)[order].tolist()
    assert all(a >= b - TIE for a, b in zip(scores, scores[1:], strict=False))


def test_half_precision_embeddings() -> None:
    assert rank_clip(at_angles(0)[0].half(), at_angles(80, 10, 45).bfloat16()) == [1, 2, 0]


def test_mean_pool_ignores_padding() -> None:
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [99.0, 99.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert torch.equal(mean_pool(tokens, mask), torch.tensor([[2.0, 3.0]]))
    assert torch.equal(mean_pool(tokens[:, :2]), torch.tensor([[2.0, 3.0]]))
    assert torch.isfinite(mean_pool(tokens, mask * 0)).all()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: rank_clip(torch.zeros(2, 3), torch.zeros(4, 3)), "query_embed"),
        (lambda: rank_clip(torch.zeros(3), torch.zeros(4, 2)), "embeds"),
        (lambda: rank_clip(torch.zeros(3), torch.zeros(3)), "embeds"),
        (lambda: rank_clip(torch.zeros(3), torch.full((1, 3), float("nan"))), "embeds"),
        (lambda: rank_recency(-1), "n"),
    ],
)
def test_bad_input_names_the_field(call, field: str) -> None:
    with pytest.raises(InputError, match=field):
        call()


@given(text=st.text("ab ,.\n。", max_size=200), limit=st.integers(1, 20))
def test_a_long_query_is_told_in_parts(text: str, limit: int) -> None:
    """Nothing is lost, and every part can be read."""
    parts = query_parts(text, lambda part: len(part.split()), limit)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(part.split()) <= limit for part in parts) and (all(parts) or not text.strip())
    assert len(parts) == 1 or len(text.split()) > limit
    letters = query_parts(text, len, limit)  # no tokenizer: even a long word is cut
    assert all(len(part) <= limit for part in letters)


def test_parts_end_where_sentences_do() -> None:
    text = "A girl waves on the left. Behind her, a boy walks to the town. It snows."
    parts = query_parts(text, lambda part: len(part.split()), 9)
    assert parts == ["A girl waves on the left.", "Behind her, a boy walks to the town.", "It snows."]


def test_of_a_query_in_parts_the_best_counts() -> None:
    frames, parts = at_angles(0, 80, 45), at_angles(0, 90) * torch.tensor([[9.0], [0.1]])
    assert rank_parts(parts, frames) == [0, 1, 2]  # 0, 10 and 45 degrees away
    assert rank_parts(parts[:1], frames) == rank_clip(parts[0], frames) == [0, 2, 1]


@given(orders=st.integers(1, 8).flatmap(lambda n: st.lists(st.permutations(range(n)), min_size=1, max_size=4)))
def test_frames_made_together_get_their_best_memories_first(orders: list[list[int]]) -> None:
    found = rank_together(orders)
    assert sorted(found) == sorted(orders[0]) and (len(orders) > 1 or found == list(orders[0]))
    for first in range(1, len(found) + 1):  # so many memories of each are among the first of all
        assert {i for order in orders for i in order[:first]} <= set(found[: first * len(orders)])
    with pytest.raises(InputError, match="orders: must be of the same frames"):
        rank_together([*orders, [*orders[0], 99]])
