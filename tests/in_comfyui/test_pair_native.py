"""Start-end pairs on the native Qwen-Image class, against the command line's network with the same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.sample
import comfy.samplers
import pytest
import torch
from in_comfyui import tiny_qwen
from in_comfyui.tiny_qwen import frame, prompt
from torch import Tensor

from anchorshot.core.errors import InputError
from anchorshot.memory.memory_pack import MemoryPack
from anchorshot.models.backbones.native_pairs import PAIR, PairModelSettings
from anchorshot.models.backbones.qwen_image.native import sample_pair
from anchorshot.models.layouts.start_end import Segment, pair_ids, patchify, reference_ids, unpatchify
from anchorshot.sampling.flow import flow_sigmas

SIZE, GRID = (8, 12), (4, 6)
SIGMAS = flow_sigmas(3)
PLAIN = PairModelSettings()
NOISE = {name: frame(seed) for seed, name in enumerate(PAIR)}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_qwen.native()


def remembered(model: Any, pack: MemoryPack, count: int = 3) -> list[Any]:
    """Random frames in their places, as the VAE would give them."""
    raw = [model.model.process_latent_out(frame(10 + i)[:, :, None])[:, :, 0] for i in range(count)]
    return pack.pack(raw, GRID)


def native_pair(model: Any, **kwargs: Any) -> dict[str, Tensor]:
    given = {"sigmas": SIGMAS, "noise": NOISE, "disable_pbar": True} | kwargs
    made = sample_pair(model, prompt(1), prompt(2, 4), SIZE, **given)
    return {name: model.model.process_latent_in(latent[:, :, None])[:, :, 0] for name, latent in made.items()}


def headless_pair(
    model: Any,
    memory: Any = (),
    given: Any = None,
    settings: PairModelSettings = PLAIN,
    cfg: float = 1.0,
    zero: bool = True,
    against: str = "text",
) -> dict[str, Tensor]:
    """Euler over the command line's network, in plain arithmetic."""
    network = tiny_qwen.headless(model, zero)
    into = model.model.process_latent_in
    places = dict(zip(PAIR, pair_ids(GRID, settings.layout), strict=True))
    ids = reference_ids([tile for tile, _ in memory], GRID, settings.layout, settings.packing)
    clean = {name: into(latent[:, :, None])[:, :, 0] for name, latent in (given or {}).items()}
    fixed = [Segment(patchify(latent), places[name], True) for name, latent in clean.items()]
    fixed += [
        Segment(patchify(into(latent[:, :, None])[:, :, 0]), place, True)
        for (_, latent), place in zip(memory, ids, strict=True)
    ]
    new = [name for name in PAIR if name not in clean]
    x = [patchify(NOISE[name]) for name in new]
    texts = [prompt(1)[0][0], prompt(2, 4)[0][0]]

    def velocity(text: Tensor, t: float, clean: list[Segment] = fixed) -> list[Tensor]:
        segments = [Segment(tokens, places[name]) for tokens, name in zip(x, new, strict=True)] + clean
        with torch.no_grad():
            return network.forward_segments(
                segments, text, None, torch.tensor([t]), reference_timestep=settings.reference_timestep
            )

    for now, after in zip(SIGMAS[:-1].tolist(), SIGMAS[1:].tolist(), strict=True):
        v = velocity(texts[0], now)
        if cfg != 1.0:
            away = velocity(texts[against != "memory"], now, fixed if against == "text" else fixed[: len(clean)])
            guided = [b + cfg * (a - b) for a, b in zip(v, away, strict=True)]
            if settings.rescale:
                pairs = zip(guided, v, strict=True)
                guided = [g * a.norm(dim=-1, keepdim=True) / g.norm(dim=-1, keepdim=True) for g, a in pairs]
            v = guided
        x = [tokens + (after - now) * step for tokens, step in zip(x, v, strict=True)]
    return clean | {name: unpatchify(tokens, SIZE) for name, tokens in zip(new, x, strict=True)}


def gap(made: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert made.keys() == wanted.keys()
    return max(float((made[name] - wanted[name]).abs().max() / wanted[name].abs().max()) for name in wanted)


CANVAS, REFERENCES, PYRAMID = MemoryPack("canvas"), MemoryPack("references"), MemoryPack("references", pyramid=True)


@pytest.mark.parametrize("layout", ["stacked", "sequence"])
@pytest.mark.parametrize("pack", [CANVAS, REFERENCES, PYRAMID, MemoryPack("canvas", aspect="fit")])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_pairs_equal_the_command_line(model: Any, layout: Any, pack: MemoryPack, cfg: float) -> None:
    memory, settings = remembered(model, pack), PairModelSettings(layout, pack.packing)
    made = native_pair(model, memory=memory, settings=settings, cfg=cfg)
    assert gap(made, headless_pair(model, memory, settings=settings, cfg=cfg)) < 1e-5


@pytest.mark.parametrize("name", PAIR)
@pytest.mark.parametrize("pack", [None, CANVAS])
def test_a_given_frame_is_clean_and_untouched(model: Any, name: Any, pack: MemoryPack | None) -> None:
    given = {name: model.model.process_latent_out(frame(30)[:, :, None])[:, :, 0]}
    memory = [] if pack is None else remembered(model, pack)
    settings = PairModelSettings(packing="canvas")
    made = sample_pair(model, prompt(1), prompt(2), SIZE, memory, given, settings, sigmas=SIGMAS, noise=NOISE)
    assert torch.equal(made[name], given[name])
    made = native_pair(model, memory=memory, given=given, settings=settings, cfg=3.0)
    assert gap(made, headless_pair(model, memory, given, settings, 3.0)) < 1e-5


@pytest.mark.parametrize("against", ["memory", "both"])
@pytest.mark.parametrize("names", [(), ("start",)])
@pytest.mark.parametrize("pack", [None, CANVAS])
def test_guidance_against_what_is_not_remembered(model: Any, against: Any, names: Any, pack: MemoryPack | None) -> None:
    given = {name: model.model.process_latent_out(frame(30)[:, :, None])[:, :, 0] for name in names}
    memory = [] if pack is None else remembered(model, pack)
    settings = PairModelSettings(packing="canvas", guidance_against=against, rescale=not names)
    calls = []
    handle = model.model.diffusion_model.img_in.register_forward_hook(lambda *_: calls.append(1))
    try:
        made = native_pair(model, memory=memory, given=given, settings=settings, cfg=3.0)
    finally:
        handle.remove()
    once = against == "memory" and not memory
    assert once == (len(calls) == len(SIGMAS) - 1), "without a memory there is nothing to lead away from"
    assert gap(made, headless_pair(model, memory, given, settings, 3.0, against=against)) < 1e-5
    if memory:
        other = native_pair(
            model, memory=memory, given=given, settings=replace(settings, guidance_against="text"), cfg=3
        )
        assert gap(made, other) > 1e-3


def test_what_memory_is_modulated_at(model: Any) -> None:
    """The file's own unless the user says otherwise; and the two differ."""
    old, pack = tiny_qwen.native(zero=False), REFERENCES
    memory = remembered(model, pack)
    own, shared = native_pair(model, memory=memory), native_pair(old, memory=memory)
    assert gap(own, headless_pair(model, memory)) < 1e-5
    assert gap(shared, headless_pair(old, memory, zero=False)) < 1e-5
    assert gap(own, shared) > 1e-3
    forced = native_pair(old, memory=memory, settings=PairModelSettings(reference_timestep="zero"))
    assert gap(forced, own) < 1e-5


def test_a_frame_alone_equals_the_stock_model(model: Any) -> None:
    """No memory, one image: what core's KSampler makes."""
    stock = comfy.sample.sample_custom(
        model, NOISE["start"][:, :, None], 1.0, comfy.samplers.sampler_object("euler"), SIGMAS, prompt(1), prompt(2),
        torch.zeros(1, 16, 1, *SIZE), disable_pbar=True,
    )  # fmt: skip
    from anchorshot.models.backbones.qwen_image.native import patch_pair
    from anchorshot.models.backbones.qwen_image.native_inputs import PairSequence

    alone = PairSequence(GRID, ("start",), (), (), PairModelSettings("sequence"))
    ours = comfy.sample.sample_custom(
        patch_pair(model, alone), NOISE["start"][:, :, None], 1.0, comfy.samplers.sampler_object("euler"), SIGMAS,
        prompt(1), prompt(2), torch.zeros(1, 16, 1, *SIZE), disable_pbar=True,
    )  # fmt: skip
    assert torch.allclose(stock, ours, atol=1e-6)


def test_the_left_over_area_is_never_seen(model: Any) -> None:
    """A canvas of one tile brings half a frame's tokens, not a frame of zeros."""
    seen = []
    network = model.model.diffusion_model
    handle = network.img_in.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    try:
        native_pair(model, memory=remembered(model, CANVAS, 1), settings=PairModelSettings(packing="canvas"))
    finally:
        handle.remove()
    assert set(seen) == {24 + 24 + 12}


def test_the_model_is_not_changed(model: Any) -> None:
    before = model.model_options.copy(), list(model.wrappers)
    native_pair(model, memory=remembered(model, CANVAS), cfg=2.0)
    assert (model.model_options, list(model.wrappers)) == before


def test_a_method_on_the_prompt_does_not_count(model: Any) -> None:
    """`reference_latents_method` of a CONDITIONING would move the ids and the time of what is remembered."""
    memory = remembered(model, REFERENCES)
    kwargs: Any = {"sigmas": SIGMAS, "noise": NOISE, "disable_pbar": True}
    plain = sample_pair(model, prompt(1), prompt(2), SIZE, memory, **kwargs)
    told = prompt(1, reference_latents_method="negative_index")
    other = sample_pair(model, told, prompt(2), SIZE, memory, **kwargs)
    assert torch.equal(plain["start"], other["start"])


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ({"reference_latents": [frame(1)[:, :, None]]}, ["positive", "memory"]),
        ({"control": object()}, ["positive", "ControlNet"]),
        ({"mask": torch.ones(1, 8, 8)}, ["positive", "Set Mask"]),
    ],
)
def test_foreign_conditionings_are_refused(model: Any, entry: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(InputError) as error:
        sample_pair(model, prompt(1, **entry), prompt(2), SIZE, sigmas=SIGMAS, noise=NOISE)
    assert all(name in str(error.value) for name in names)


def test_bad_inputs_are_told(model: Any) -> None:
    kwargs: Any = {"sigmas": SIGMAS, "noise": NOISE}
    for change, word in (
        ({"size": (7, 12)}, "even"),
        ({"given": {"start": frame(1), "end": frame(2)}}, "leave a frame"),
        ({"given": {"start": frame(1, 4, 4)}}, "start frame"),
        ({"memory": [(CANVAS.tiles(1, GRID)[0], frame(1))]}, "memory[0]"),
    ):
        with pytest.raises(InputError) as error:
            sample_pair(model, prompt(1), prompt(2), **({"size": SIZE} | change), **kwargs)
        assert word in str(error.value)


def test_another_cfg_function_is_refused(model: Any) -> None:
    other = model.clone()
    other.set_model_sampler_cfg_function(lambda args: args["cond"])
    with pytest.raises(InputError, match="guidance"):
        sample_pair(other, prompt(1), prompt(2), SIZE, sigmas=SIGMAS, noise=NOISE, cfg=2.0)
    settings = PairModelSettings(rescale=False)
    sample_pair(other, prompt(1), prompt(2), SIZE, settings=settings, sigmas=SIGMAS, noise=NOISE, cfg=2.0)
