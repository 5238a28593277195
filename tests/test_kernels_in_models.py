"""Where the models call the kernels' operators: with them chosen, on the references' arithmetic, nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_weights import strong
from torch import Tensor

from anchorshot.kernels import modulation, rotary
from anchorshot.models.backbones.flux import headless as flux
from anchorshot.models.backbones.flux import pair_blocks
from anchorshot.models.backbones.wan import headless as wan
from anchorshot.models.layouts.chunks import mc_index
from anchorshot.models.layouts.pairs import Pairs


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """Chooses the operators on a CPU; the names of those that were called, whose references compute."""
    seen: list[str] = []
    monkeypatch.setattr(wan, "takes", lambda x, *norms: True)
    monkeypatch.setattr(pair_blocks, "takes", lambda x, *norms: True)
    monkeypatch.setattr(pair_blocks, "chosen", lambda x: True)
    for module, name in (
        (modulation, "norm_modulate_reference"),
        (modulation, "gate_residual_reference"),
        (rotary, "norm_rope_reference"),
    ):
        reference = getattr(module, name)

        def counted(
            *args: Any, reference: Callable[..., Tensor] = reference, name: str = name, **kwargs: Any
        ) -> Tensor:
            seen.append(name)
            return reference(*args, **kwargs)

        monkeypatch.setattr(module, name, counted)
    return seen


def test_wan_with_kernels_chosen_is_wan(calls: list[str], request) -> None:
    model = strong(
        wan.DirectorWan(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            text_dim=8,
            freq_dim=16,
            ffn_dim=32,
            num_layers=1,
        )
    )
    given = (torch.randn(2, 4, 3, 4, 6), torch.rand(2, 3), torch.randn(2, 5, 8), mc_index([1, 2]))
    with torch.no_grad():
        ours = model.forward_chunks(*given)
        assert calls == ["norm_modulate_reference", "norm_rope_reference", "norm_rope_reference"] + [
            "gate_residual_reference",
            "norm_modulate_reference",
            "gate_residual_reference",
        ]
        request.getfixturevalue("monkeypatch").undo()
        torch.testing.assert_close(ours, model.forward_chunks(*given), atol=1e-5, rtol=1e-5)


def test_flux_with_kernels_chosen_is_flux(calls: list[str], request) -> None:
    model = strong(
        flux.CaptainFlux(
            patch_size=1,
            in_channels=8,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=8,
            pooled_projection_dim=8,
            axes_dims_rope=(4, 6, 6),
        )
    )
    latents, texts = [torch.randn(2, 6, 8), torch.randn(2, 2, 8)], [torch.randn(2, 5, 8), torch.randn(2, 3, 8)]
    pairs = Pairs(latents, [(2, 3), (1, 2)], texts, torch.randn(2, 2, 8), torch.rand(2, 2))
    with torch.no_grad():
        ours = model.forward_pairs(pairs, "causal")
        # Four of each in the double block, one in the single one.
        fused = 5 * ["gate_residual_reference"] + 5 * ["norm_modulate_reference"]
        assert sorted(calls) == [*fused, *2 * ["norm_rope_reference"]]
        request.getfixturevalue("monkeypatch").undo()
        for a, b in zip(ours, model.forward_pairs(pairs, "causal"), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_modules_that_must_be_called_are() -> None:
    """Weights that are elsewhere until their module is called, as offloading keeps them, or another norm."""
    x, norm = torch.empty(1, device="meta"), torch.nn.RMSNorm(8, eps=1e-6)
    assert not rotary.takes(x, norm) and not rotary.takes(torch.empty(1), torch.nn.LayerNorm(8))
