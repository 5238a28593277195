"""CaptainFlux against the stock Flux and against itself: the invariants of Captain Cinema's hybrid attention (§3.2)."""

import pytest
import torch
from diffusers import FluxTransformer2DModel
from hypothesis import given
from hypothesis import strategies as st

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.flux.headless import CaptainFlux, KVCache, Pairs
from anchorshot.models.layouts.pair_cache import for_rows
from anchorshot.models.layouts.pairs import causal_spans, pack_latent, pair_ids, segment_index, unpack_latent

CONFIG = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
    "guidance_embeds": True,
    "axes_dims_rope": (4, 6, 6),
}
B, P, T, SIZE = 2, 4, 5, (6, 4)


def strong_(model, seed=0):
    """Random weights with signal: attention far from uniform, so that a wrong mask or position shows."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if p.ndim == 1 and "norm" in name and name.endswith("weight") and "linear" not in name:
                p.copy_(1.5 + 0.3 * noise)
            else:
                p.copy_(noise / max(p[0].numel(), 1) ** 0.5 if p.ndim > 1 else 0.3 * noise)
    return model.eval()


@pytest.fixture(scope="module")
def model():
    return strong_(CaptainFlux(**CONFIG))


@pytest.fixture(scope="module")
def stock(model):
    stock = FluxTransformer2DModel(**CONFIG).eval()
    stock.load_state_dict(model.state_dict())
    return stock


def make_pairs(sizes, lengths=None, seed=0, **kwargs) -> Pairs:
    g = torch.Generator().manual_seed(seed)
    lengths = lengths or [T] * len(sizes)
    n = len(sizes)
    return Pairs(
        latents=[torch.randn(B, h * w, 16, generator=g) for h, w in sizes],
        sizes=list(sizes),
        texts=[torch.randn(B, t, 32, generator=g) for t in lengths],
        pooled=torch.randn(B, n, 24, generator=g),
        timestep=torch.rand(B, n, generator=g),
        guidance=torch.full((B, n), 3.5),
        **kwargs,
    )


def pick(pairs: Pairs, index, **kwargs) -> Pairs:
    return Pairs(
        [pairs.latents[i] for i in index],
        [pairs.sizes[i] for i in index],
        [pairs.texts[i] for i in index],
        pairs.pooled[:, index],
        pairs.timestep[:, index],
        pairs.guidance[:, index],
        frames=[pairs.frame_index[i] for i in index],
        reference=pairs.reference,
        **kwargs,
    )


def run_stock(stock, pairs, p):
    length = pairs.texts[p].shape[1]
    ids = pair_ids(length, pairs.sizes[p], 0, None)
    return stock(
        pairs.latents[p],
        pairs.texts[p],
        pairs.pooled[:, p],
        pairs.timestep[:, p],
        ids[length:],
        ids[:length],
        pairs.guidance[:, p],
        return_dict=False,
    )[0]


def worst(a, b):
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))


@torch.no_grad()
def test_one_pair_equals_stock(model, stock):
    pairs = make_pairs([SIZE])
    assert worst(model.forward_pairs(pairs), [run_stock(stock, pairs, 0)]) < 1e-6
    shifted = make_pairs([SIZE], frames=[7])  # the whole pair moves: nothing inside it changes
    assert worst(model.forward_pairs(shifted), [run_stock(stock, pairs, 0)]) < 1e-5


@torch.no_grad()
def test_inherited_forward_is_stock(model, stock):
    pairs = make_pairs([SIZE])
    assert torch.equal(run_stock(model, pairs, 0), run_stock(stock, pairs, 0))


@torch.no_grad()
def test_local_mode_equals_separate_calls(model, stock):
    pairs = make_pairs([SIZE] * P)
    assert worst(model.forward_pairs(pairs, "local"), [run_stock(stock, pairs, p) for p in range(P)]) < 2e-5


@torch.no_grad()
@pytest.mark.parametrize("mode", ["full", "causal"])
def test_modes_equal_a_dense_mask(model, mode):
    """The loop over pairs against one attention call with the L×L mask it stands for."""
    pairs = make_pairs([SIZE, (4, 2), SIZE, (2, 2)], [5, 3, 4, 6])
    lengths = [t.shape[1] + x.shape[1] for t, x in zip(pairs.texts, pairs.latents, strict=True)]
    segment = segment_index(lengths)
    dense = segment[:, None] >= segment[None] if mode == "causal" else torch.ones(len(segment), len(segment)).bool()
    expected = model.forward_pairs(pairs, mode)
    stock_attend = torch.nn.functional.scaled_dot_product_attention

    def masked(query, key, value, **kwargs):
        if query.shape[-2] == len(segment):
            kwargs["attn_mask"] = dense
        return stock_attend(query, key, value, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = masked
    try:
        outputs = model.forward_pairs(pairs, "full")
    finally:
        torch.nn.functional.scaled_dot_product_attention = stock_attend
    assert worst(outputs, expected) < 2e-5


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("mode", ["local", "causal", "full"])
def test_a_packed_row_equals_one_shape_at_a_time(model, mode, masked):
    """Different captions and sizes share a row; matrix products of other shapes may round the last bits otherwise."""
    pairs = make_pairs([SIZE, SIZE, (4, 2), SIZE, (2, 2)], [5, 5, 3, 4, 6], reference=SIZE)
    if masked:
        pairs.masks = [None, None, torch.tensor([[True] * 3, [True, False, True]]), None, None]
    one = CaptainFlux(**CONFIG).eval()
    one.load_state_dict(model.state_dict())
    one.packs = False
    assert worst(model.forward_pairs(pairs, mode), one.forward_pairs(pairs, mode)) < 1e-5


@torch.no_grad()
def test_causal_pairs_ignore_the_future_and_full_ones_do_not(model):
    pairs = make_pairs([SIZE] * P)
    changed = make_pairs([SIZE] * P)
    changed.latents[3] = changed.latents[3] + 1
    a, b = model.forward_pairs(pairs, "causal"), model.forward_pairs(changed, "causal")
    assert worst(a[:3], b[:3]) == 0
    a, b = model.forward_pairs(pairs, "full"), model.forward_pairs(changed, "full")
    assert worst(a[:3], b[:3]) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[SIZE] * P, [(2, 2), (4, 2), (4, 2), SIZE]])
def test_cache_equals_recompute(model, sizes):
    pairs = make_pairs(sizes, [4, 5, 3, 5], reference=SIZE)
    expected = model.forward_pairs(pairs, "causal")[3]
    past = model.encode_context(pick(pairs, [0, 1, 2]))
    got = model.forward_pairs(pick(pairs, [3]), "causal", past)[0]
    assert worst([got], [expected]) < 2e-5


@torch.no_grad()
def test_one_cache_serves_many_targets(model):
    context, targets = make_pairs([SIZE] * 2), make_pairs([SIZE], seed=3)
    past = model.encode_context(context)
    alone = model.forward_pairs(pick(targets, [0]), "causal", past)[0]
    doubled = Pairs(
        [targets.latents[0].repeat_interleave(2, 0)],
        [SIZE],
        [targets.texts[0].repeat_interleave(2, 0)],
        targets.pooled.repeat_interleave(2, 0),
        targets.timestep.repeat_interleave(2, 0),
        targets.guidance.repeat_interleave(2, 0),
    )
    shared = past.repeat(2)
    many = model.forward_pairs(doubled, "causal", shared)[0]
    assert worst([many[::2], many[1::2]], [alone, alone]) < 2e-5
    assert all(a is b for a, b in zip(shared.keys + shared.values, past.keys + past.values, strict=True))


@torch.no_grad()
def test_a_shared_cache_keeps_its_rows_apart():
    g = torch.Generator().manual_seed(0)
    cache = KVCache([torch.randn(2, 3, 1, 4, generator=g)], [torch.randn(2, 3, 1, 4, generator=g)])
    cache.mask = torch.tensor([[True, True, False], [True, True, True]])
    k, v = torch.randn(2, 6, 1, 1, 4, generator=g)
    shared = cache.repeat(3)
    keys, values = shared.before(0, k, v)
    for row in range(6):
        assert torch.equal(keys[row], torch.cat([cache.keys[0][row // 3], k[row]]))
        assert torch.equal(values[row], torch.cat([cache.values[0][row // 3], v[row]]))
    assert shared.key_mask(6, k.device).tolist() == cache.mask.repeat_interleave(3, 0).tolist()
    one = cache.keys[0][:1]
    assert for_rows(one, 4).data_ptr() == one.data_ptr(), "one row for many is a view"


@torch.no_grad()
@pytest.mark.parametrize("mode", ["full", "causal"])
def test_masked_padding_changes_nothing(model, mode):
    pairs = make_pairs([SIZE] * P)
    padded = make_pairs([SIZE] * P)
    mask = torch.cat([torch.ones(B, T), torch.zeros(B, 3)], 1).bool()
    padded.texts = [torch.cat([t, torch.randn(B, 3, 32)], 1) for t in padded.texts]
    padded.masks = [mask] * P
    assert worst(model.forward_pairs(padded, mode), model.forward_pairs(pairs, mode)) < 2e-5


@torch.no_grad()
def test_order_does_not_matter_in_full_mode(model):
    pairs = make_pairs([SIZE, (4, 2), SIZE, (2, 2)], reference=SIZE)
    order = [2, 0, 3, 1]
    a = model.forward_pairs(pairs)
    b = model.forward_pairs(pick(pairs, order))
    assert worst([a[i] for i in order], b) < 2e-5


def test_checkpointing_leaves_gradients_alone(model):
    gradients = []
    for checkpoint in (False, True):
        student = strong_(CaptainFlux(**CONFIG)).train()
        if checkpoint:
            student.enable_gradient_checkpointing()
        out = student.forward_pairs(make_pairs([SIZE] * 2), "causal")
        sum(o.square().mean() for o in out).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in student.parameters() if p.grad is not None]))
    assert worst(*[[g] for g in gradients]) < 1e-6


def test_config_survives_saving(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = CaptainFlux.from_pretrained(tmp_path)
    assert dict(again.config)["num_single_layers"] == 3
    with torch.no_grad():
        pairs = make_pairs([SIZE] * 2)
        assert worst(again.forward_pairs(pairs), model.forward_pairs(pairs)) == 0
    assert type(FluxTransformer2DModel.from_pretrained(tmp_path)) is FluxTransformer2DModel


@torch.no_grad()
def test_compiled_blocks_agree(model):
    pairs = make_pairs([SIZE] * 2)
    expected = model.forward_pairs(pairs, "causal")
    compiled = strong_(CaptainFlux(**CONFIG))
    compiled.compile_repeated_blocks(backend="eager", fullgraph=False)
    assert worst(compiled.forward_pairs(pairs, "causal"), expected) < 1e-5


def test_missing_guidance_is_named(model):
    pairs = make_pairs([SIZE])
    pairs.guidance = None
    with pytest.raises(ValueError, match="guidance"):
        model.forward_pairs(pairs)


@pytest.mark.cuda
@torch.no_grad()
def test_bf16_on_cuda_is_close_to_fp32(model):
    pairs = make_pairs([SIZE] * P)
    expected = model.forward_pairs(pairs, "causal")
    moved = strong_(CaptainFlux(**CONFIG)).to("cuda", torch.bfloat16)
    move = lambda x: x.to("cuda", torch.bfloat16)  # noqa: E731
    pairs.latents, pairs.texts = [move(x) for x in pairs.latents], [move(x) for x in pairs.texts]
    pairs.pooled, pairs.timestep, pairs.guidance = move(pairs.pooled), pairs.timestep.cuda(), pairs.guidance.cuda()
    got = [o.float().cpu() for o in moved.forward_pairs(pairs, "causal")]
    scale = max(o.abs().max().item() for o in expected)
    assert worst(got, expected) < 0.05 * scale


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_packing_is_inverse(channels, h, w):
    x = torch.arange(2 * channels * 4 * h * w, dtype=torch.float32).view(2, channels, 2 * h, 2 * w)
    assert torch.equal(unpack_latent(pack_latent(x), (h, w)), x)


def test_odd_latents_are_refused():
    with pytest.raises(InputError, match="even"):
        pack_latent(torch.zeros(1, 4, 3, 4))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_spans_cover_the_sequence(lengths):
    spans = causal_spans(lengths)
    assert spans[0][0] == 0 and spans[-1][1] == sum(lengths)
    assert all(a[1] == b[0] for a, b in zip(spans[:-1], spans[1:], strict=True))


@given(st.tuples(st.integers(1, 8), st.integers(1, 8)), st.tuples(st.integers(1, 8), st.integers(1, 8)))
def test_compressed_frames_span_the_reference_field(size, reference):
    """Centre on centre: mean position equal, extent inside the reference's cells."""
    ids = pair_ids(3, size, 2, reference)[3:]
    for axis, n in ((1, reference[0]), (2, reference[1])):
        assert torch.isclose(ids[:, axis].mean(), torch.tensor((n - 1) / 2), atol=1e-4)
        assert ids[:, axis].min() >= -0.5 and ids[:, axis].max() <= n - 0.5
    assert (ids[:, 0] == 2).all()
