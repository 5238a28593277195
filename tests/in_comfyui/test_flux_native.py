"""The native Flux adapter on real ComfyUI classes: equal to stock and headless, undone with the clone."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.hooks
import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from in_comfyui import tiny
from in_comfyui.flux_runs import (
    CONTEXT,
    SIGMAS,
    SIZE,
    context_of,
    core_sample,
    lora_of,
    relative,
    run,
    stock_run,
    worst,
)
from in_comfyui.tiny import caption

from anchorshot.models.backbones.flux import native
from anchorshot.models.backbones.flux.headless import CaptainFlux
from anchorshot.models.backbones.flux.native import prepare_pairs
from anchorshot.models.backbones.flux.native_blocks import ContextCaches, run_pairs
from anchorshot.models.encoders.text import TextCond
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.layouts.pair_cache import KVCache
from anchorshot.models.layouts.pairs import Pairs, PairSettings
from anchorshot.models.studio import load_studio
from anchorshot.sampling.flow import flow_sigmas
from anchorshot.sampling.keyframes import ContextFrame, KeyframeSettings, sample_keyframes


@pytest.fixture(scope="module")
def model():
    """Tiny random native FLUX.1-dev."""
    return tiny.flux()


def headless_of(config) -> CaptainFlux:
    return CaptainFlux(
        in_channels=64,
        num_layers=config["depth"],
        num_single_layers=config["depth_single_blocks"],
        attention_head_dim=config["hidden_size"] // config["num_heads"],
        num_attention_heads=config["num_heads"],
        joint_attention_dim=config["context_in_dim"],
        pooled_projection_dim=config["vec_in_dim"],
        guidance_embeds=config["guidance_embed"],
        axes_dims_rope=tuple(config["axes_dim"]),
    ).eval()


@pytest.fixture(scope="module", params=["random", "pocket"])
def both(request):
    """The same weights in both hosts: random ones through the key map, the pocket's from its fp8 file."""
    if request.param == "random":
        headless = tiny.strong_(headless_of(tiny.FLUX), seed=1)
        native_model = tiny.flux(tiny.FLUX, to_public("flux", headless.state_dict()))
        return SimpleNamespace(native=native_model, headless=headless, config=tiny.FLUX)
    return SimpleNamespace(
        native=tiny.pocket_flux(), headless=load_studio("pocket").keyframe.eval(), config=tiny.POCKET
    )


def test_one_frame_is_the_stock_model(model):
    assert relative(run(model, context=[])[0], stock_run(model)) < 1e-6
    pushed = run(model, context=[], rows=2, cfg=2.0, negative=[caption(2)])[0]
    assert relative(pushed, stock_run(model, cfg=2.0, rows=2)) < 1e-6


def test_it_is_left_alone_by_pairs_that_it_cannot_see(model):
    """In causal mode the first of two new frames sees nothing else: it is the stock model's frame."""
    first, second = run(model, prompts=(1, 3), context=[])
    assert relative(first, stock_run(model)) < 1e-5
    alone = run(model, prompts=(3,), context=[])[0]
    assert relative(second, alone) > 0.01


def make_pairs(config, sizes, lengths, seed=0, frames=None) -> Pairs:
    g = torch.Generator().manual_seed(seed)
    rows, n = 2, len(sizes)
    return Pairs(
        latents=[torch.randn(rows, h * w, 64, generator=g) for h, w in sizes],
        sizes=list(sizes),
        texts=[torch.randn(rows, t, config["context_in_dim"], generator=g) for t in lengths],
        pooled=torch.randn(rows, n, config["vec_in_dim"], generator=g),
        timestep=torch.rand(rows, n, generator=g),
        guidance=torch.full((rows, n), 3.5) if config["guidance_embed"] else None,
        frames=frames,
        reference=(4, 6),
    )


@torch.no_grad()
@pytest.mark.parametrize("mode", ["full", "causal", "local"])
def test_forward_equals_headless(both, mode):
    """One forward: mixed sizes and caption lengths, a timestep per frame, two rows, without and with a cache."""
    flux = both.native.model.diffusion_model
    pairs = make_pairs(both.config, [(2, 3), (4, 6), (1, 2), (4, 6)], [5, 3, 5, 4], frames=[-3, -2, -1, 0])

    def native_forward(chosen, past=None, store=None):
        return run_pairs(flux, chosen, native._embed(flux, chosen), {}, mode, past, store)

    whole = native_forward(pairs)
    assert worst(whole, both.headless.forward_pairs(pairs, mode)) < 1e-4
    context, new = pairs.pick([0, 1, 2]), pairs.pick([3])
    store = KVCache()
    assert native_forward(context, store=store) == []
    other = both.headless.encode_context(context, mode)
    assert worst(store.keys + store.values, other.keys + other.values) < 1e-4
    continued = native_forward(new, past=store)
    assert worst(continued, both.headless.forward_pairs(new, mode, other)) < 1e-4
    if mode == "causal":
        assert worst(continued, whole[3:]) < 1e-4  # what comes later never changed the context


def as_text(conditioning, rows) -> TextCond:
    tokens, entry = conditioning[0]
    tokens = tokens.repeat(rows, 1, 1)
    return TextCond(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), entry["pooled_output"].repeat(rows, 1))


RANGE = (0.05, 0.6)


@pytest.mark.parametrize(
    ("mode", "prompts", "sizes", "rows", "cache", "noise", "sampler", "cfg"),
    [
        ("causal", (1,), CONTEXT, 1, True, 0.15, "euler", 1.0),
        ("causal", (1, 2), CONTEXT, 2, True, RANGE, "euler", 1.0),
        ("causal", (1, 2), CONTEXT, 1, False, RANGE, "euler", 1.0),
        ("full", (1, 2), CONTEXT, 2, True, RANGE, "euler", 1.0),
        ("full", (1, 2, 3), [], 1, True, 0.15, "euler", 1.0),
        ("causal", (1, 2), [], 1, True, 0.15, "euler", 1.0),
        ("causal", (1,), CONTEXT, 1, True, RANGE, "heun", 2.5),
        ("causal", (1, 2), CONTEXT, 1, True, 0.15, "dpmpp_2m", 2.5),
        ("full", (1,), CONTEXT, 1, True, RANGE, "dpmpp_2m", -2.5),  # below 0: without a negative prompt
    ],
)
def test_sampling_equals_headless(both, mode, prompts, sizes, rows, cache, noise, sampler, cfg):
    """A whole run from the same seed: same noise, same order, same ids, same noise on the context, same solver."""
    context = context_of(sizes, config=both.config)
    settings = PairSettings(mode, context_noise=noise, cache=cache)
    negative = [caption(9, 4, both.config)] if cfg > 1 else None
    chosen = {"sampler": comfy.samplers.sampler_object(sampler), "cfg": abs(cfg), "negative": negative}
    found = run(both.native, prompts, context, rows, both.config, settings=settings, **chosen)
    scale = both.native.model.latent_format
    expected = sample_keyframes(
        both.headless,
        [as_text(caption(seed, config=both.config), rows) for seed in prompts],
        (16, *SIZE),
        [
            ContextFrame(scale.process_in(pair.latent).repeat(rows, 1, 1, 1), as_text(pair.text, rows))
            for pair in context
        ],
        KeyframeSettings(
            steps=len(SIGMAS) - 1,
            context_noise=noise,
            mode=mode,
            guidance=3.5 if both.config["guidance_embed"] else None,
            cache=cache,
            cfg=abs(cfg),
            sampler=sampler,
        ),
        torch.Generator().manual_seed(7),
        negative=None if negative is None else as_text(negative[0], 1),
    )
    assert len(found) == len(prompts)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative(scale.process_in(ours), theirs) < 1e-4


@pytest.fixture
def lengths(model, monkeypatch):
    """Tokens that reach the first single-stream block, call by call."""
    block, seen = model.model.diffusion_model.single_blocks[0], []
    forward = block.forward
    monkeypatch.setattr(
        block, "forward", lambda x, *args, **kw: (seen.append(tuple(x.shape[:2])), forward(x, *args, **kw))[1]
    )
    return seen


@pytest.fixture
def caches(monkeypatch):
    """Every cache holder that a run makes."""
    made = []

    class Recorded(ContextCaches):
        def __init__(self):
            super().__init__()
            made.append(self)

    monkeypatch.setattr(native, "ContextCaches", Recorded)
    return made


def test_cached_equals_recomputed(model, lengths, caches):
    cached = run(model, prompts=(1, 2))
    context = sum(h * w // 4 for h, w in CONTEXT) + 4 + 5 + 4
    new = 2 * (SIZE[0] * SIZE[1] // 4 + 5)
    assert lengths == [(1, context), (1, new), (1, new), (1, new)]
    assert len(caches) == 1 and not caches[0].entries  # let go of at the end
    lengths.clear()
    again = run(model, prompts=(1, 2), settings=PairSettings(cache=False))
    assert lengths == [(1, context + new)] * 3
    assert max(relative(a, b) for a, b in zip(cached, again, strict=True)) < 1e-5


@pytest.mark.parametrize("length", [5, 7])
def test_positive_and_negative_have_their_own_cache(model, lengths, length):
    """As rows of one batch (equal lengths), and one after the other (captions that cannot be stacked)."""
    negative = [caption(9, length)]
    cached = run(model, cfg=3.0, negative=negative)
    rows = {r for r, _ in lengths}
    assert rows == ({2} if length == 5 else {1})
    again = run(model, cfg=3.0, negative=negative, settings=PairSettings(cache=False))
    assert relative(cached[0], again[0]) < 1e-5
    assert relative(cached[0], run(model)[0]) > 0.01  # the negative does something


def test_queued_runs_do_not_mix(model):
    """Two prepared graphs on one model, sampled in turn: each gives what it gives alone."""
    first, second = context_of(seed=50), context_of(seed=80)
    alone = [run(model, context=c)[0] for c in (first, second)]
    graphs = [prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], c) for c in (first, second)]
    for i in (0, 1, 0, 1):
        assert torch.equal(core_sample(graphs[i])[0], alone[i])
    assert relative(*alone) > 0.01
    # the same patched model with other captions: its cache is not the earlier run's
    other = [ContextFrame(pair.latent, caption(90 + i, 4 + i % 2)) for i, pair in enumerate(first)]
    changed = prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], other)
    mixed = graphs[0]._replace(positive=changed.positive)
    assert torch.equal(core_sample(mixed)[0], run(model, context=other)[0])


def test_cache_follows_its_inputs():
    """What a cache was computed from is compared; a conditioning is never cached twice."""
    caches, made = ContextCaches(), []

    def get(key, value):
        def encode():
            made.append(value)
            return KVCache()

        return caches.get(key, [torch.tensor(value)], encode)

    one = get(("a", "b", "cpu"), 1.0)
    assert get(("a", "b", "cpu"), 1.0) is one and made == [1.0]
    assert get(("a", "b", "cpu"), 2.0) is not one and made == [1.0, 2.0]
    get(("c", "cpu"), 3.0)
    assert len(caches.entries) == 2
    get(("a", "cpu"), 4.0)  # `a` now runs alone: what it had with `b` is let go of
    assert set(caches.entries) == {("c", "cpu"), ("a", "cpu")}


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "dpmpp_2m", "uni_pc", "ddim"])
def test_core_samplers_keep_the_context(model, sampler):
    graph = prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], context_of())
    new, *context = core_sample(graph, sampler)
    assert new.shape == (1, 16, *SIZE) and new.isfinite().all()
    assert all(torch.equal(frame, pair.latent) for frame, pair in zip(context, context_of(), strict=True))


def test_ksampler_equals_sample_native(model):
    """KSampler's own path: its schedule is the model's, the rest is ours."""
    graph = prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], context_of())
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 3)
    out = comfy.sample.sample(
        graph.model,
        comfy.sample.prepare_noise(graph.latent["samples"], 7),
        steps=3,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        positive=graph.positive,
        negative=graph.negative,
        latent_image=graph.latent["samples"],
        noise_mask=graph.latent["noise_mask"],
        disable_pbar=True,
        seed=7,
    )
    assert torch.equal(native.frames_of(out)[0], run(model, sigmas=sigmas)[0])


def test_two_stages_equal_one(model):
    """A run cut in two: the second stage gets the context clean, whatever became of it and of its mask."""
    settings = PairSettings(context_noise=0.0)
    graph = prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], context_of(), settings=settings)
    new, *context = core_sample(graph, sigmas=SIGMAS[:3])
    samples = NestedTensor([new, *(torch.randn_like(frame) for frame in context)])
    silent = NestedTensor([torch.zeros_like(frame) for frame in samples.unbind()])
    graph.latent.pop("noise_mask")
    done = core_sample(graph, sigmas=SIGMAS[2:], noise=silent, samples=samples)
    assert max(relative(a, b) for a, b in zip(done, core_sample(graph), strict=True)) < 1e-5


def test_sigmas_are_only_read(model):
    """uni_pc writes into its schedule; the caller's must stay what it was."""
    sigmas = SIGMAS.clone()
    run(model, sigmas=sigmas, sampler=comfy.samplers.sampler_object("uni_pc"))
    assert torch.equal(sigmas, flow_sigmas(3))


def test_a_silent_second_stage_still_carries_context_noise(model):
    graph = prepare_pairs(model, [caption(1)], [torch.zeros(1, 16, *SIZE)], context_of())
    silent = NestedTensor([torch.zeros_like(frame) for frame in graph.latent["samples"].unbind()])
    noisy = core_sample(graph, sigmas=SIGMAS[1:], noise=silent)[0]
    clean = prepare_pairs(
        model, [caption(1)], [torch.zeros(1, 16, *SIZE)], context_of(), settings=PairSettings(context_noise=0.0)
    )
    assert relative(noisy, core_sample(clean, sigmas=SIGMAS[1:], noise=silent)[0]) > 1e-3


def test_callback_shows_the_new_frame_first(model):
    seen = []
    result = run(model, callback=lambda step, x0, x, steps: seen.append((step, steps, x0)))
    assert [s[:2] for s in seen] == [(0, 3), (1, 3), (2, 3)]
    frames = seen[-1][2].unbind()
    assert [tuple(f.shape[-2:]) for f in frames] == [SIZE, *CONTEXT]
    # the last step foresees the result
    assert relative(model.model.process_latent_out(frames[0]), result[0]) < 1e-5


def test_previews_run_on_nested_latents(model, monkeypatch):
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod

    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Latent2RGB)
    shown = []
    monkeypatch.setattr(
        latent_preview.Latent2RGBPreviewer,
        "decode_latent_to_preview_image",
        lambda self, kind, x0: shown.append(self.decode_latent_to_preview(x0)),
    )
    run(model, callback=latent_preview.prepare_callback(model, 3))
    assert [picture.size for picture in shown] == [SIZE[::-1]] * 3


def test_weights_that_change_between_steps_are_not_cached(model, lengths):
    """A LoRA hook that comes in half way: the context is computed anew with the weights of each step."""

    def hooked(conditioning):
        group = comfy.hooks.HookKeyframeGroup()
        group.add(comfy.hooks.HookKeyframe(strength=0.0, start_percent=0.0))
        group.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.4))
        lora = comfy.hooks.create_hook_lora(lora_of(model), strength_model=1.0, strength_clip=0.0)
        lora.set_keyframes_on_hooks(group)
        return comfy.hooks.set_hooks_for_conditioning(conditioning, lora)

    new = [torch.zeros(1, 16, *SIZE)]
    plain = run(model)[0]
    lengths.clear()
    graph = prepare_pairs(model, [hooked(caption(1))], new, context_of())
    changed = core_sample(graph)[0]
    assert len(lengths) == 6  # context and new frame in each of the three steps
    uncached = PairSettings(cache=False)
    expected = core_sample(prepare_pairs(model, [hooked(caption(1))], new, context_of(), settings=uncached))[0]
    assert relative(changed, expected) < 1e-5
    assert relative(changed, plain) > 0.01
    assert torch.equal(run(model)[0], plain)


def test_interrupt_leaves_everything_usable(model, caches):
    before = run(model)[0]

    def stop(step, *_):
        if step == 1:
            comfy.model_management.interrupt_current_processing(True)

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(model, callback=stop)
    comfy.model_management.interrupt_current_processing(False)
    assert all(not holder.entries for holder in caches)
    assert torch.equal(run(model)[0], before)
    assert stock_run(model).isfinite().all()
