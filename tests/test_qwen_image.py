"""`PairQwen` against the stock diffusers class, with the same tiny random weights."""

import copy

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from peft import LoraConfig

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.qwen_image.headless import PairQwen
from anchorshot.models.layouts.start_end import Segment, frame_ids, pair_ids
from tests.tiny_weights import gap, strong

CONFIG = {
    "in_channels": 16,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 24,
    "axes_dims_rope": (4, 6, 6),
}
GRID, TOKENS = (4, 6), 24
TIMES = torch.tensor([0.7, 0.3])


def stock(**kwargs) -> QwenImageTransformer2DModel:
    return strong(QwenImageTransformer2DModel(**CONFIG, **kwargs))


@pytest.fixture
def model() -> PairQwen:
    return PairQwen.adopt(stock(zero_cond_t=True))


def tokens(count=TOKENS, seed=0, rows=2) -> torch.Tensor:
    return torch.randn(rows, count, 16, generator=torch.Generator().manual_seed(seed))


def texts(length=7, rows=2) -> torch.Tensor:
    return torch.randn(rows, length, 24, generator=torch.Generator().manual_seed(99))


def pair(layout="stacked", seed=0) -> list[Segment]:
    return [Segment(tokens(seed=seed + i), ids) for i, ids in enumerate(pair_ids(GRID, layout))]


def memory(grid=GRID, frame=1) -> Segment:
    return Segment(tokens(grid[0] * grid[1], seed=10 + frame), frame_ids(grid, frame), clean=True)


def run(model, segments, mask=None, times=TIMES, **kwargs):
    with torch.no_grad():
        return model.forward_segments(segments, texts(), mask, times, **kwargs)


def stock_run(model, segments, shapes, mask=None):
    x = torch.cat([s.tokens for s in segments], 1)
    with torch.no_grad():
        return model(x, texts(), mask, TIMES, [shapes] * 2, return_dict=False)[0]


RAGGED = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])


@pytest.mark.parametrize("mask", [None, RAGGED])
def test_one_frame_equals_the_stock_model(model, mask) -> None:
    segment = Segment(tokens(), frame_ids(GRID))
    (out,) = run(model, [segment], mask)
    assert gap(out, stock_run(stock(), [segment], [(1, *GRID)], mask)) < 1e-6


@pytest.mark.parametrize("zero", [True, False])
def test_references_equal_the_stock_model(zero) -> None:
    segments = [Segment(tokens(), frame_ids(GRID)), memory(), memory((5, 8), 2)]
    expected = stock_run(stock(zero_cond_t=zero), segments, [(1, *GRID), (1, *GRID), (1, 5, 8)], RAGGED)
    (out,) = run(PairQwen.adopt(stock(zero_cond_t=zero)), segments, RAGGED)
    assert gap(out, expected[:, :TOKENS]) < 1e-6


def test_references_may_share_the_noisy_t_or_not_whatever_the_config(model) -> None:
    segments = [*pair(), memory()]
    shared = run(model, segments, reference_timestep="shared")
    other = run(PairQwen.adopt(stock()), segments)
    assert gap(shared[0], other[0]) < 1e-6
    assert gap(shared[0], run(model, segments)[0]) > 1e-2
    with pytest.raises(InputError, match="zero or shared"):
        run(model, segments, reference_timestep="none")


def test_a_stacked_pair_equals_the_stock_model_on_an_image_of_double_height(model) -> None:
    start, end = run(model, pair())
    expected = stock_run(stock(), pair(), [(1, 2 * GRID[0], GRID[1])])
    assert gap(torch.cat([start, end], 1), expected) < 1e-6


def test_a_sequence_equals_the_stock_model_on_two_images(model) -> None:
    out = run(model, pair("sequence"))
    assert gap(torch.cat(out, 1), stock_run(stock(), pair("sequence"), [(1, *GRID)] * 2)) < 1e-6


def test_the_end_frame_is_at_t_where_the_stock_model_would_put_it_at_zero(model) -> None:
    segments = [*pair("sequence"), memory(frame=2)]
    out = torch.cat(run(model, segments), 1)
    wrong = stock_run(stock(zero_cond_t=True), segments, [(1, *GRID)] * 3)[:, : 2 * TOKENS]
    assert gap(out, wrong) > 1e-2


def test_segments_may_come_in_any_order(model) -> None:
    start, end = pair()
    remembered = memory()
    mask = torch.ones(2, 3 * TOKENS, dtype=torch.bool)
    mask[1, :TOKENS] = False
    a = run(model, [remembered, start, end], image_mask=mask)
    b = run(model, [start, end, remembered], image_mask=mask.roll(-TOKENS, 1))
    assert max(gap(x, y) for x, y in zip(a, b, strict=True)) < 1e-6


def test_a_masked_memory_is_no_memory(model) -> None:
    mask = torch.ones(2, 4 * TOKENS, dtype=torch.bool)
    mask[1, 3 * TOKENS :] = False
    both = run(model, [*pair(), memory(), memory(frame=2)], image_mask=mask)
    full = run(model, [*pair(), memory(), memory(frame=2)])
    less = run(model, [*pair(), memory()])
    for x, y, z in zip(both, full, less, strict=True):
        assert gap(x[0], y[0]) < 1e-6 and gap(x[1], z[1]) < 1e-6
        assert gap(x[1], y[1]) > 1e-3


def test_padding_of_texts_has_no_effect(model) -> None:
    (a, _), padded = run(model, pair(), RAGGED), texts()
    padded[1, 5:] = 100.0
    with torch.no_grad():
        b, _ = model.forward_segments(pair(), padded, RAGGED, TIMES)
    assert gap(a, b) < 1e-6


def test_t_stays_exact_in_bf16() -> None:
    """bf16 cannot tell 0.5 from 0.501; the network must."""
    model = PairQwen.adopt(stock()).to(torch.bfloat16)
    seen = []
    model.time_text_embed.time_proj.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    segments = [Segment(s.tokens.bfloat16(), s.ids) for s in pair()]
    with torch.no_grad():
        model.forward_segments(segments, texts().bfloat16(), None, torch.tensor([0.501, 0.5]))
    assert torch.equal(seen[0], torch.tensor([0.501, 0.5]))


def test_checkpointing_gives_the_same_gradients(model) -> None:
    grads = []
    for checkpointed in (False, True):
        copied = copy.deepcopy(model).train().requires_grad_(True)
        if checkpointed:
            copied.enable_gradient_checkpointing()
        out = copied.forward_segments([*pair(), memory()], texts(), RAGGED, TIMES)
        sum(o.square().mean() for o in out).backward()
        grads.append(copied.transformer_blocks[0].attn.to_q.weight.grad)
    assert torch.equal(*grads)


def test_lora_counts_and_its_scale_too(model) -> None:
    model.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    full, none = (run(model, pair(), attention_kwargs={"scale": s})[0] for s in (1.0, 0.0))
    model.disable_adapters()
    assert gap(none, run(model, pair())[0]) < 1e-6 < 1e-3 < gap(full, none)


def test_the_stock_forward_and_the_state_dict_are_kept(model) -> None:
    segments = [Segment(tokens(), frame_ids(GRID)), memory()]
    shapes = [(1, *GRID)] * 2
    assert torch.equal(stock_run(model, segments, shapes), stock_run(stock(zero_cond_t=True), segments, shapes))
    assert model.state_dict().keys() == stock().state_dict().keys()
    assert PairQwen(**CONFIG).config.num_layers == 3
    assert PairQwen.adopt(model) is model


def test_what_cannot_be_run_is_refused(model) -> None:
    with pytest.raises(InputError, match="noisy segment"):
        run(model, [memory()])
    with pytest.raises(InputError, match="use_additional_t_cond"):
        PairQwen.adopt(stock(use_additional_t_cond=True))
    with pytest.raises(InputError, match="QwenImageTransformer2DModel"):
        PairQwen.adopt(torch.nn.Linear(1, 1))
