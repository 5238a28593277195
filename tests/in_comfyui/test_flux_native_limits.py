"""The native Flux adapter beside everything else in ComfyUI: LoRA, other packs, memory, and what it must refuse."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import comfy.model_management
import comfy.sd
import comfy.supported_models
import pytest
import torch
from comfy.controlnet import ControlBase
from comfy.patcher_extension import WrappersMP
from in_comfyui import tiny
from in_comfyui.flux_runs import SIGMAS, SIZE, context_of, core_sample, lora_of, relative, run, stock_run
from in_comfyui.tiny import caption, latent

from anchorshot.core.errors import InputError
from anchorshot.memory.frame_memory import ContextFrame
from anchorshot.models.backbones.flux import native
from anchorshot.models.backbones.flux.native import prepare_pairs, sample_native
from anchorshot.models.layouts.pairs import PairLayout, PairSettings


@pytest.fixture(scope="module")
def model():
    """Tiny random native FLUX.1-dev."""
    return tiny.flux()


def test_lora_applies_and_reverts(model):
    before = run(model)[0]
    weight = model.model.diffusion_model.single_blocks[1].linear1.weight.clone()
    with_lora, _ = comfy.sd.load_lora_for_models(model, None, lora_of(model), 1.0, 0)
    first = run(with_lora)[0]  # LoRA first, then our patch
    assert relative(first, before) > 0.01
    graph = prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], context_of())
    late, _ = comfy.sd.load_lora_for_models(graph.model, None, lora_of(model), 1.0, 0)
    assert torch.equal(core_sample(graph._replace(model=late))[0], first)  # our patch first, then the LoRA
    assert torch.equal(run(model)[0], before)
    comfy.model_management.unload_all_models()
    assert torch.equal(model.model.diffusion_model.single_blocks[1].linear1.weight, weight)


def test_the_original_stays_clean(model):
    names = ("scale_latent_inpaint", "memory_required")
    stock = {name: getattr(type(model.model), name) for name in names}
    before = stock_run(model)
    graph = prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], context_of())
    assert not model.wrappers and not model.object_patches
    core_sample(graph)
    assert torch.equal(stock_run(model), before)
    for name in names:
        assert getattr(model.model, name).__func__ is stock[name]
        assert graph.model.object_patches[name].__func__ is not stock[name]
    assert not model.wrappers and not model.object_patches
    assert native.KEY not in model.model_options["transformer_options"]


def test_patching_twice_counts_once(model):
    graph = prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], context_of())
    assert torch.equal(run(graph.model, context=context_of([(4, 6)]))[0], run(model, context=context_of([(4, 6)]))[0])


def test_wrappers_of_others_still_run(model):
    """A pack's DIFFUSION_MODEL wrapper and attention kernel work around and inside our forward."""
    expected = run(model)[0]
    calls = {"wrapper": 0, "attention": 0}

    def wrapper(executor, *args, **kwargs):
        calls["wrapper"] += 1
        return executor(*args, **kwargs)

    def attention(func, *args, **kwargs):
        calls["attention"] += 1
        return func(*args, **kwargs)

    graph = prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], context_of())
    graph.model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "other", wrapper)
    graph.model.model_options["transformer_options"]["optimized_attention_override"] = attention
    assert torch.equal(core_sample(graph)[0], expected)
    assert calls["wrapper"] == 3
    # context once: 2 double blocks on 3 shapes and 3 single blocks of 3 pairs; then 3 steps of 2 + 3
    assert calls["attention"] == 2 * 3 + 3 * 3 + 3 * 5


def test_memory_is_that_of_what_runs(model, monkeypatch):
    """The packed latent counts as its frames; with a cache only what runs at once, and the cache itself."""
    sizes = ((4, 6), (4, 6), (2, 3))
    numbers = sum(16 * 4 * h * w for h, w in sizes)
    stock = partial(type(model.model).memory_required, model.model)  # a clone may be loaded
    whole = native.patch_pairs(model, PairLayout(sizes, mode="full"), [latent(0, 8, 12), latent(1, 4, 6)])
    required = whole.object_patches["memory_required"]
    assert required([2, 1, numbers]) == pytest.approx(stock([2, 16, numbers // 16]))
    assert required([2, 16, 8, 12]) == stock([2, 16, 8, 12])
    captions = PairLayout(sizes, mode="full", text_lengths=(10, 10, 10))
    longer = native.patch_pairs(model, captions, [latent(0, 8, 12), latent(1, 4, 6)]).object_patches["memory_required"]
    assert longer([1, 1, numbers]) == pytest.approx(stock([1, 16, numbers // 16 + 4 * 20]))
    cached = native.patch_pairs(model, PairLayout(sizes), [latent(0, 8, 12), latent(1, 4, 6)])
    context_tokens = 4 * 6 + 2 * 3
    kept = 2 * 3 * 64 * 4 * context_tokens  # keys and values, 3 blocks, 64 wide, fp32
    room = cached.object_patches["memory_required"]([1, 1, numbers]) - stock([1, 16, 4 * context_tokens])
    assert kept <= room <= kept + stock([1, 16, 1])  # in whole cells
    asked = []
    load = comfy.model_management.load_models_gpu
    monkeypatch.setattr(
        comfy.model_management,
        "load_models_gpu",
        lambda models, memory_required=0, **kw: (asked.append(memory_required), load(models, memory_required, **kw))[1],
    )
    graph = prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], context_of())
    core_sample(graph)
    packed = sum(frame.numel() for frame in graph.latent["samples"].unbind())
    assert asked[0] < stock([2, 1, packed]) / 8


def test_hidden_padding_is_cut_off(model):
    short = caption(1, 5)
    padded = [[torch.cat([short[0][0], torch.ones(1, 3, 32)], 1), dict(short[0][1])]]
    padded[0][1]["attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0]])
    new = [torch.zeros(1, 16, *SIZE)]
    a, b = (
        sample_native(model, [c], new, context_of(), sigmas=SIGMAS, seed=7, disable_pbar=True) for c in (short, padded)
    )
    assert torch.equal(a[0], b[0])


def test_negative_none_is_zero_text(model):
    zero = [[torch.zeros(1, 5, 32), {"pooled_output": torch.zeros(1, 24), "guidance": 3.5}]]
    assert torch.equal(run(model, cfg=2.0)[0], run(model, cfg=2.0, negative=[zero])[0])


def test_a_video_vae_gives_picture_latents_too(model):
    flat, deep = context_of(), [ContextFrame(p.latent[:, :, None], p.text) for p in context_of()]
    assert torch.equal(run(model, context=deep)[0], run(model, context=flat)[0])


def test_padded_flux_captions_come_as_they_are(model):
    """ComfyUI's own FLUX text encoder pads to 256 tokens and says nothing about it."""
    clip = tiny.flux_clip()
    text = clip.encode_from_tokens_scheduled(clip.tokenize("a desert"))
    graph = prepare_pairs(model, [text], [torch.zeros(1, 16, *SIZE)], context_of())
    assert graph.positive[0][0].shape == (1, 256, 32)
    assert core_sample(graph)[0].isfinite().all()


def prepared(model, entry=None, context=None, latents=None, prompts=None, **kwargs):
    prompts = [caption(1, **(entry or {}))] if prompts is None else prompts
    latents = [torch.zeros(1, 16, *SIZE)] if latents is None else latents
    return prepare_pairs(model, prompts, latents, context_of() if context is None else context, **kwargs)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"area": (8, 8, 0, 0)}, "areas of the picture"),
        ({"mask": torch.ones(1, 8, 8)}, "masks"),
        ({"control": ControlBase()}, "ControlNet"),
        ({"gligen": ("position", None, [])}, "GLIGEN"),
        ({"reference_latents": [latent(0, 8, 8)]}, "reference latents"),
        ({"concat_latent_image": latent(0, 8, 8)}, "Fill, Canny, Depth"),
        ({"attention_mask_img_shape": (4, 4)}, "attention mask"),
    ],
)
def test_foreign_conditionings_are_refused(model, entry, message):
    """On a caption, and on the finished conditioning when another node adds it later."""
    with pytest.raises(InputError, match=f"prompts.0..*{message}"):
        prepared(model, entry)
    with pytest.raises(InputError, match=message):
        prepared(model, context=[ContextFrame(latent(1, 4, 6), caption(1, **entry))])
    graph = prepared(model)
    late = [[graph.positive[0][0], graph.positive[0][1] | entry]]
    with pytest.raises(InputError, match=f"positive.*{message}"):
        core_sample(graph._replace(positive=late))


def replace_block(clone):
    clone.set_model_patch_replace(lambda args, extra: args, "dit", "double_block", 0)


def patch_attention(clone):
    clone.set_model_attn1_patch(lambda *args, **kwargs: {})


def scale_rope(clone):
    clone.set_model_rope_options(scale_x=2.0, shift_x=0.0, scale_y=2.0, shift_y=0.0, scale_t=1.0, shift_t=0.0)


def window(clone):
    clone.model_options["context_handler"] = object()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_block, "blocks must not be replaced"),
        (patch_attention, "no patches made for one text"),
        (scale_rope, "position ids"),
        (window, "context windows"),
    ],
)
def test_foreign_patches_are_refused(model, change, message):
    other = model.clone()
    change(other)
    with pytest.raises(InputError, match=message):
        run(other)
    assert run(model)[0].isfinite().all()


def test_other_models_are_refused(model):
    fill = tiny.patcher(comfy.supported_models.FluxInpaint, tiny.FLUX | {"in_channels": 96})
    with pytest.raises(InputError, match="96 channels in, 16 out.*Fill, Canny and Depth"):
        run(fill)
    wide = model.clone()
    wider = torch.zeros(64, 128)
    wide.add_patches({"diffusion_model.img_in.weight": ("diff", (wider, {"pad_weight": True}))})
    with pytest.raises(InputError, match="control LoRA"):
        run(wide)
    assert run(model)[0].isfinite().all()
    with pytest.raises(InputError, match="must be a FLUX.1 model"):
        run(SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Identity())))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"prompts": []}, "at least one new frame"),
        ({"prompts": [caption(1), caption(2)]}, "one for each prompt"),
        ({"prompts": [caption(1) + caption(2)]}, "exactly one prompt"),
        ({"prompts": ["text"]}, "exactly one prompt"),
        ({"prompts": [caption(1, config=tiny.POCKET)]}, "32 wide"),
        ({"latents": [torch.zeros(1, 16, 7, 12)]}, "must be even"),
        ({"latents": [torch.zeros(1, 16, 2, 8, 12)]}, "latent of pictures"),
        ({"latents": [torch.zeros(1, 4, 8, 12)]}, "batch and channels"),
        ({"context": [ContextFrame(latent(0, 4, 6, rows=3), caption(1))]}, "1 or 1 rows"),
        ({"negative": [caption(2), caption(3)]}, "one caption, or 1"),
        ({"settings": PairSettings(mode="local")}, "full or causal"),
        ({"settings": PairSettings(context_noise=1.5)}, "0…1"),
        ({"context": [ContextFrame(latent(0, 4, 6), caption(1, start_percent=0.5))]}, "start_percent"),
        ({"entry": {"attention_mask": torch.tensor([[0, 1, 1, 1, 1]])}}, "padding at the end"),
    ],
)
def test_bad_input_is_refused(model, kwargs, message):
    with pytest.raises(InputError, match=message):
        prepared(model, **kwargs)


def test_new_frames_have_one_size(model):
    with pytest.raises(InputError, match="one size"):
        prepared(model, prompts=[caption(1), caption(2)], latents=[torch.zeros(1, 16, 8, 12), torch.zeros(1, 16, 8, 8)])


def test_parts_of_different_graphs_are_refused(model):
    graph, other = prepared(model), prepared(model, context=context_of([(4, 6)]))
    with pytest.raises(InputError, match="4 captions"):
        core_sample(graph._replace(positive=caption(1)))
    with pytest.raises(InputError, match="4 captions.*got 2"):
        core_sample(graph._replace(positive=other.positive))
    with pytest.raises(InputError, match="its frames must be 8×12, 4×6"):
        core_sample(graph._replace(latent=other.latent))
    zeroed = [[torch.zeros_like(graph.positive[0][0]), graph.positive[0][1]]]
    with pytest.raises(InputError, match="another node has changed"):
        core_sample(graph._replace(negative=zeroed), cfg=2.0)
    with pytest.raises(InputError, match="sizes that were laid out"):
        native.patch_pairs(model, PairLayout(((4, 6), (2, 3))), [latent(0, 8, 12)])
