"""Kernels: what runs without a GPU. Their source runs in Triton's interpreter, in a process of its own; the references
are held against the arithmetic of the stock models. `make kernels` checks more shapes, and compiles for GPUs.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from anchorshot.core.errors import InputError
from anchorshot.kernels import launch, modulation, pair_attention, rotary
from anchorshot.kernels.modulation import segment_gate_residual, segment_norm_modulate
from anchorshot.kernels.pair_attention import Cache, merge, quantise
from anchorshot.kernels.rotary import norm_rope, qk_norm_rope, rope_angles

CASES = 10


@pytest.fixture(scope="module")
def interpreted() -> list[dict[str, Any]]:
    """Figures of a few random cases of every kernel."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    command = [sys.executable, "-m", "anchorshot.benchmarks.kernel_parity", "--cases", str(CASES)]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kernels_equal_their_references(interpreted: list[dict[str, Any]]) -> None:
    from anchorshot.benchmarks.kernel_parity import FAMILIES, MARKS

    assert len(interpreted) == CASES and {found["family"] for found in interpreted} == set(FAMILIES)
    for found in interpreted:
        for name, most in MARKS.items():
            assert found[name] <= most, found


def test_a_cpu_keeps_to_pytorch(monkeypatch) -> None:
    x = torch.randn(1, 4, 8)
    monkeypatch.delenv(launch.SWITCH, raising=False)
    assert not launch.chosen(x)
    monkeypatch.setenv(launch.SWITCH, "off")
    assert not launch.chosen(x)
    monkeypatch.setenv(launch.SWITCH, "sometimes")
    with pytest.raises(InputError, match="ANCHORSHOT_KERNELS: must be auto, always or off.*sometimes"):
        launch.chosen(x)


def test_importing_the_kernels_does_not_import_triton() -> None:
    """It takes a second, and need not be installed."""
    for path in Path(launch.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        assert "triton" not in ast.dump(ast.Module(found, [])), path


def test_segments_are_modulated_by_their_own_rows() -> None:
    x, scale, shift = torch.randn(2, 6, 8), torch.randn(2, 3, 8), torch.randn(1, 3, 8)
    index = torch.tensor([0, 0, 1, 1, 2, 2])
    y = segment_norm_modulate(x, scale, shift)
    torch.testing.assert_close(y, segment_norm_modulate(x, scale, shift, index))
    normed = torch.nn.functional.layer_norm(x, (8,), eps=1e-6)
    torch.testing.assert_close(y[1, 3], normed[1, 3] * (1 + scale[1, 1]) + shift[0, 1])
    torch.testing.assert_close(segment_gate_residual(x, y, scale, index)[0, 5], x[0, 5] + scale[0, 2] * y[0, 5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: segment_norm_modulate(x, torch.ones(1, 4, 8), torch.ones(1, 1, 8)), "scale: .* divides 6 tokens"),
        (lambda x: segment_norm_modulate(x, torch.ones(3, 1, 8), torch.ones(1, 1, 8)), "scale: must be .2 or 1"),
        (lambda x: segment_gate_residual(x, x[:1], torch.ones(1, 1, 8)), "update: must have the shape"),
        (lambda x: segment_gate_residual(x, x, torch.ones(1, 1, 8), torch.zeros(5, dtype=torch.int)), "index: must be"),
        (lambda x: norm_rope(x[..., None, :], torch.ones(4), torch.ones(6, 4)), "weight: must have 8 values"),
        (lambda x: norm_rope(x[..., None, :], torch.ones(8), torch.ones(6, 8)), "cos: must be .6, 4."),
    ],
)
def test_shapes_that_do_not_fit_are_named(call, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(torch.randn(2, 6, 8))


def test_rotary_reference_is_the_stock_arithmetic_of_flux_and_qwen_image() -> None:
    from diffusers.models.embeddings import apply_rotary_emb
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed
    from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

    norm = torch.nn.RMSNorm(16, eps=1e-6)
    norm.weight.data.uniform_(0.5, 2)
    q, k, ids = torch.randn(2, 5, 3, 16), torch.randn(2, 5, 3, 16), torch.randint(0, 60, (5, 3)) + 0.25
    angles = rope_angles(ids, (4, 6, 6))
    ours, _ = qk_norm_rope(q, k, norm.weight, norm.weight, angles)
    table = FluxPosEmbed(10000, [4, 6, 6])(ids)
    torch.testing.assert_close(ours, apply_rotary_emb(norm(q), table, sequence_dim=1), atol=2e-6, rtol=0)
    twice = norm_rope(q, norm.weight, (table[0][..., ::2], table[1][..., ::2]))
    torch.testing.assert_close(ours, twice, atol=2e-6, rtol=0)
    factors = torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(ours, apply_rotary_emb_qwen(norm(q), factors, use_real=False), atol=2e-6, rtol=0)


def test_rotary_reference_is_the_stock_arithmetic_of_wan_and_of_halves(monkeypatch) -> None:
    import diffusers.models.transformers.transformer_wan as wan
    from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

    from anchorshot.models.layouts.chunks import mc_index, rope_table

    attn = wan.WanAttention(32, heads=2, dim_head=16, processor=wan.WanAttnProcessor())
    attn.norm_q.weight.data.uniform_(0.5, 2)
    seen = []
    x = torch.randn(1, 12, 32)
    cos, sin = rope_table(mc_index([1, 2]), 2, 2, (4, 6, 6))
    dispatch = wan.dispatch_attention_fn
    monkeypatch.setattr(wan, "dispatch_attention_fn", lambda q, *args, **kw: seen.append(q) or dispatch(q, *args, **kw))
    attn(x, rotary_emb=(cos, sin))
    q = attn.to_q(x).unflatten(2, (2, 16))
    ours = norm_rope(q, attn.norm_q.weight, (cos[0, :, 0, ::2], sin[0, :, 0, 1::2]), eps=attn.norm_q.eps)
    torch.testing.assert_close(ours, seen[0], atol=2e-6, rtol=0)

    angles, one = rope_angles(torch.arange(12)[:, None], (16,)), torch.ones(16)
    table = torch.cat([angles, angles], 1)[None]
    normed = torch.nn.functional.rms_norm(q, (16,), eps=1e-6)
    theirs, _ = apply_rotary_pos_emb(normed, normed, table.cos(), table.sin(), unsqueeze_dim=2)
    torch.testing.assert_close(norm_rope(q, one, angles, interleaved=False), theirs, atol=2e-6, rtol=0)


LENGTHS = [3, 1, 6, 2]


def qkv(rows: int = 2) -> tuple[torch.Tensor, ...]:
    return torch.randn(3, rows, sum(LENGTHS), 2, 8).unbind(0)


@pytest.mark.parametrize("mode", ["full", "causal", "local"])
def test_packed_pairs_attend_as_under_a_mask(mode: pair_attention.Mode) -> None:
    """What the models do today: one matrix of who sees whom, and the cache joined to the new keys."""
    q, k, v = qkv()
    past = torch.randn(2, 1, 5, 2, 8)
    pair = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    own = {
        "full": torch.ones(12, 12, dtype=torch.bool),
        "causal": pair[:, None] >= pair,
        "local": pair[:, None] == pair,
    }[mode]
    mask = torch.cat([torch.full((12, 5), mode != "local"), own], 1)
    keys, values = (torch.cat([p.expand(2, -1, -1, -1), x], 1) for p, x in zip(past, (k, v), strict=True))
    theirs = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, keys, values)), attn_mask=mask
    )
    ours = pair_attention.pair_attention(q, k, v, LENGTHS, mode, Cache(*past))
    torch.testing.assert_close(ours.out, theirs.transpose(1, 2), atol=2e-6, rtol=0)


def test_parts_of_the_keys_merge_to_the_whole() -> None:
    q, k, v = qkv()
    whole = pair_attention.pair_attention(q, k, v, [12], "full")
    halves = [pair_attention._softmax(q, k[:, a:b], v[:, a:b], 8**-0.5) for a, b in ((0, 5), (5, 12))]
    merged = merge(halves)
    torch.testing.assert_close(merged.out, whole.out, atol=2e-6, rtol=0)
    torch.testing.assert_close(merged.lse, whole.lse, atol=2e-6, rtol=0)


@pytest.mark.parametrize("per", ["token", "head"])
def test_a_cache_in_fp8_changes_little(per) -> None:
    q, k, v = (torch.randn(1, 60, 2, 32) for _ in range(3))
    (keys, key_scale), (values, value_scale) = quantise(k, per), quantise(v, per)
    assert keys.dtype == torch.float8_e4m3fn and keys.float().isfinite().all()
    assert key_scale.shape == ((1, 60, 2) if per == "token" else (1, 1, 2))
    new = (q[:, :4], k[:, :4], v[:, :4], [4], "causal")
    exact = pair_attention.pair_attention(*new, Cache(k, v)).out
    ours = pair_attention.pair_attention(*new, Cache(keys, values, key_scale, value_scale)).out
    assert torch.cosine_similarity(exact.flatten(), ours.flatten(), dim=0) > 0.999
    assert not torch.equal(exact, ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "some"}, "mode: must be one of full, causal, local"),
        ({"lengths": [3, 4]}, "lengths: must sum to 12"),
        ({"k": torch.randn(2, 11, 2, 8)}, "k: must have the shape of q"),
        ({"cache": Cache(torch.ones(3, 5, 2, 8), torch.ones(3, 5, 2, 8))}, "cache.keys: must be .1 or 2, 5, 2, 8."),
        (
            {"cache": Cache(torch.ones(1, 5, 2, 8).to(torch.float8_e4m3fn), torch.ones(1, 5, 2, 8))},
            "cache.keys: must come with a scale",
        ),
    ],
)
def test_pairs_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    q, k, v = qkv()
    with pytest.raises(InputError, match=message):
        pair_attention.pair_attention(**{"q": q, "k": k, "v": v, "lengths": LENGTHS} | change)


def test_the_compiler_sees_shapes_without_running_a_kernel() -> None:
    with FakeTensorMode():
        x, rows = torch.empty(2, 6, 8, dtype=torch.bfloat16), torch.empty(2, 3, 8)
        for out in (
            modulation._norm_modulate(x, rows, rows, None, 1e-6, False),
            modulation._gate_residual(x, x, rows, None),
        ):
            assert out.shape == x.shape and out.dtype == torch.bfloat16
        q, table = torch.empty(2, 6, 3, 8)[:, :, :2], torch.empty(2, 6, 4)
        out = rotary._norm_rope(q, torch.empty(8), table, table, 1e-6, True)
        assert out.shape == q.shape and out.is_contiguous()
        given = (q, q, q, q, q, None, None, [6], "causal", 1.0)
        attended, lse = pair_attention._pair_attention(*given)
        assert attended.shape == q.shape and lse.shape == (2, 2, 6) and lse.dtype == torch.float32
