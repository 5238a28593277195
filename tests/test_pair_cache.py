"""The context's keys and values: in place, in less memory, shared, and steps that neither wait nor compile again."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from anchorshot.benchmarks.ragged import captions, memory_pairs, new_pair
from anchorshot.core.errors import InputError
from anchorshot.models.backbones.flux.headless import CaptainFlux
from anchorshot.models.encoders.text_cond import TextCond
from anchorshot.models.io.loading import compile_blocks
from anchorshot.sampling import keyframes
from anchorshot.sampling.keyframes import ContextFrame, KeyframeSettings, sample_keyframes
from tests.test_flux import CONFIG, strong_

SMALL, FRAME = CONFIG | {"num_layers": 1, "num_single_layers": 2}, (5, 10)


@pytest.fixture(scope="module")
def model() -> CaptainFlux:
    return strong_(CaptainFlux(**SMALL))


@torch.no_grad()
@pytest.mark.parametrize(("precision", "share", "alike"), [("bf16", 0.5, 0.9999), ("fp8", 0.32, 0.9995)])
def test_a_smaller_cache_hardly_turns_the_velocity(model, precision, share, alike):
    """Heads of 16 channels: a scale of 4 bytes for 16 of fp8; for 128, as FLUX.1 has, it is 3 %."""
    memory, new = memory_pairs(SMALL, captions(9), FRAME), new_pair(SMALL, FRAME)
    whole, small = model.encode_context(memory), model.encode_context(memory, precision=precision)
    assert small.bytes <= share * whole.bytes
    assert small.keys[0].untyped_storage().data_ptr() == small.keys[1].untyped_storage().data_ptr(), "one block"
    a, b = (torch.cat(model.forward_pairs(new, "causal", past), 1).flatten() for past in (whole, small))
    assert F.cosine_similarity(a, b, dim=0) > alike and not torch.equal(a, b)


@torch.no_grad()
def test_guidance_s_rows_share_a_cache(model):
    memory, new = memory_pairs(SMALL, captions(9), FRAME), new_pair(SMALL, FRAME, rows=2)
    copies = memory_pairs(SMALL, captions(9), FRAME, rows=2)
    new.texts = [torch.cat([new.texts[0][:1], 0 * new.texts[0][:1]])]
    one, two = model.encode_context(memory), model.encode_context(copies)
    assert 2 * one.bytes == two.bytes
    shared, own = (model.forward_pairs(new, "causal", past)[0] for past in (one.repeat(2), two))
    assert (shared - own).abs().max() < 1e-5


def text(length: int) -> TextCond:
    g = torch.Generator().manual_seed(length)
    return TextCond(
        torch.randn(1, length, 32, generator=g), torch.ones(1, length).bool(), torch.randn(1, 24, generator=g)
    )


def test_unknown_precisions_are_refused(model):
    with pytest.raises(InputError, match="cache_precision: must be one of model, bf16, fp8"):
        sample_keyframes(model, [text(3)], (4, 4, 8), settings=KeyframeSettings(cache_precision="int4"))  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["model", "fp8"])
def test_a_step_reads_nothing_back(model, monkeypatch, precision):
    """Fake tensors hold no numbers: .item(), .tolist() or bool() of one raises. So nothing waits for the device."""
    asked = []

    def probe(velocity, x, sigmas, callback):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            asked.append(velocity(mode.from_tensor(x), 0.7))
        return x

    monkeypatch.setattr(keyframes, "SOLVERS", {"euler": probe})
    context = [ContextFrame(torch.randn(1, 4, 2 * h, 8), text(3 + h)) for h in (2, 1)]
    settings = KeyframeSettings(guidance=3.5, cfg=2.0, cache_precision=precision)
    sample_keyframes(model, [text(4), text(5)], (4, 4, 8), context, settings)
    assert asked[0].shape == (1, 16, 16)


@torch.no_grad()
def test_steps_are_compiled_once(model):
    """Filling and steps at 8 pairs, then at 48: blocks compile whole, and not again after two steps."""
    compiled = copy.deepcopy(model)
    compile_blocks(compiled, backend="eager", fullgraph=True)
    torch._dynamo.reset()
    counters.clear()
    for earlier in (7, 47):
        memory = memory_pairs(SMALL, captions(earlier), FRAME)
        past = compiled.encode_context(memory)
        for step in range(4):
            if step == 2:
                graphs = counters["stats"]["unique_graphs"]
            new = new_pair(SMALL, FRAME, 0.9 - 0.1 * step)
            out = compiled.forward_pairs(new, "causal", past)[0]
        assert counters["stats"]["unique_graphs"] == graphs > 0
        assert (out - model.forward_pairs(new, "causal", model.encode_context(memory))[0]).abs().max() < 1e-5
