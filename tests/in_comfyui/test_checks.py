"""What comes into nodes is looked at once, before any work: every kind of socket, every node."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from in_comfyui.odd_values import CHANGED, MADE, drawn, prompt

from anchorshot.comfyui.checks import MAX_TEXT, check_inputs, finite
from anchorshot.comfyui.mixing import mixing_guider, mixing_patch
from anchorshot.comfyui.mixing_weighting import Weighting
from anchorshot.core.errors import InputError
from anchorshot.nodes import NODES
from anchorshot.nodes.mixing import TWBBlend
from anchorshot.nodes.video import MultiChunkModel
from anchorshot.story.timeline import Timeline
from nodes import common_ksampler

NAN = float("nan")
GOOD: dict[str, Any] = {
    "IMAGE": drawn(2, 8, 8, 3),
    "LATENT": {"samples": drawn(1, 16, 3, 4, 4), "noise_mask": torch.ones(1, 1, 3, 4, 4)},
    "CONDITIONING": prompt(drawn(1, 5, 8), pooled_output=drawn(1, 4), guidance=3.5),
    "SIGMAS": torch.tensor([1.0, 0.5, 0.0]),
    "AUDIO": {"waveform": drawn(1, 2, 80), "sample_rate": 8000},
}
"""One right value of every kind of socket that carries numbers."""

INPUTS = [(node.GET_SCHEMA(), part) for node in NODES for part in node.GET_SCHEMA().inputs]


def check(schema: Any, part: Any, value: Any) -> None:
    check_inputs(schema, {part.id: [value] if schema.is_input_list else value})


def kind_of(part: Any) -> str:
    template = getattr(part, "template", None)
    return (part if template is None else template.input).get_io_type()


def test_every_node_checks_its_inputs() -> None:
    assert not [
        node.__name__
        for node in NODES
        if node.GET_SCHEMA().inputs and not hasattr(node.execute.__func__, "__wrapped__")
    ]


@pytest.mark.parametrize("kind", GOOD)
def test_numbers_must_be_finite_at_every_node(kind: str) -> None:
    """One NaN anywhere in a value is found, and the error names the input."""
    places = [(schema, part) for schema, part in INPUTS if kind_of(part) == kind]
    assert places
    for schema, part in places:
        check(schema, part, GOOD[kind])
        for change in ("one nan", "infinite"):
            spoilt = (
                {**GOOD[kind], "waveform": drawn(1, 2, 80) * NAN} if kind == "AUDIO" else CHANGED[change](GOOD[kind])
            )
            with pytest.raises(InputError, match=rf"^{part.id}: must hold finite .*NaN or infinity in \d+ of \d+"):
                check(schema, part, spoilt)


def test_no_value_gives_another_error() -> None:
    """Whatever another pack's node hands over: it is taken, or the sentence names the input, in one line."""
    texts = []
    for name, make in MADE.items():
        value = make()
        for schema, part in INPUTS:
            try:
                check(schema, part, value)
            except InputError as error:
                texts.append(str(error))
                assert str(error).startswith(part.id) and "\n" not in str(error) and len(str(error)) < 600, name
    assert len(texts) > 1000


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("IMAGE", "no picture", "must not be empty of pictures"),
        ("IMAGE", "pictures to 255", "must hold values in 0…1 .got .*255"),
        ("IMAGE", "bytes of pictures", 'must hold pictures in floating point .got "uint8"'),
        ("IMAGE", "seven channels", r"must be pictures \[B, H, W, C\]"),
        ("LATENT", "latent without samples", r"must be a LATENT with samples .*noise_mask"),
        ("LATENT", "latent of no row", "must not be empty of samples"),
        ("LATENT", "mask of nan", "must hold finite mask values"),
        ("CONDITIONING", "no prompt", "must be a CONDITIONING of at least one prompt"),
        ("CONDITIONING", "pooled of nan", "must hold finite numbers in pooled_output"),
        ("CONDITIONING", "references of text", "must have a list of tensors as its reference_latents"),
        ("CONDITIONING", "guidance of nan", "must have a finite guidance"),
        ("SIGMAS", "levels in a table", r"must be noise levels \[steps \+ 1\]"),
        ("SIGMAS", "one level", "must hold at least two noise levels"),
        ("SIGMAS", "rising levels", "must fall from step to step"),
        ("SIGMAS", "levels below zero", "must fall from step to step and end at 0 or above"),
        ("VAE", "nothing", "must be connected to a VAE .*a checkpoint may lack this part"),
        ("CLIP", "object", 'must be a CLIP .got "a value of type object"'),
        ("INT", "minus", "must be a whole number of at least"),
        ("FLOAT", "nan", "must be a finite number of at least"),
        ("COMBO", "text", "must be one of"),
    ],
)
def test_errors_say_what_is_wrong(kind: str, name: str, said: str) -> None:
    schema, part = next(
        (s, p) for s, p in INPUTS if kind_of(p) == kind and not s.is_input_list and p.optional == (kind == "SIGMAS")
    )
    with pytest.raises(InputError, match=f"^{part.id}: {said}"):
        check(schema, part, MADE[name]())


def test_texts_that_are_encoded_have_a_limit() -> None:
    """A text encoder's memory grows with the square of the length; captions are many short texts."""
    for schema, part in INPUTS:
        if kind_of(part) == "STRING" and part.id not in ("story", "timeline"):
            check(schema, part, "x" * MAX_TEXT)
            with pytest.raises(InputError, match=f"^{part.id}: must be a text of at most {MAX_TEXT} characters"):
                check(schema, part, "walks " * 200_000)
    schema, captions = next((s, p) for s, p in INPUTS if p.id == "captions")
    check(schema, captions, "\n".join(["x" * 100] * 400))


def test_one_thing_for_all_keyframes_must_be_one() -> None:
    """A list where a node that takes lists wants one value: its first would be taken without a word."""
    schema, seed = next((s, p) for s, p in INPUTS if s.is_input_list and p.id == "seed")
    for values in ([3], [3, 3]):
        check_inputs(schema, {"seed": values})
    with pytest.raises(InputError, match="^seed: must be the same for all"):
        check_inputs(schema, {"seed": [3, 4]})
    with pytest.raises(InputError, match="^latent: must not be an empty list"):
        check_inputs(schema, {"latent": []})
    check_inputs(schema, {"latent": [GOOD["LATENT"], GOOD["LATENT"]]})
    with pytest.raises(InputError, match=r"^positive\[1\]: must be a CONDITIONING"):
        check_inputs(schema, {"positive": [GOOD["CONDITIONING"], []]}, ["positive"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_every_floating_type_is_looked_through(dtype: torch.dtype) -> None:
    values = torch.tensor([0.5, -2.0, 1.0]).to(dtype)
    assert finite(values, "x") == (-2.0, 1.0)
    with pytest.raises(InputError, match="^x: must hold finite values"):
        finite(torch.tensor([0.5, NAN]).to(dtype), "x")


def test_people_see_a_short_name_of_the_error() -> None:
    """ComfyUI shows the class by its module, which there begins with a folder's path; it still travels by pickle."""
    error = InputError("a", "must be 1", 2, "write 1", "story.yaml line 3")
    assert f"{type(error).__module__}.{type(error).__qualname__}" == "anchorshot.InputError"
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, InputError) and str(again) == str(error) and again.where == error.where


def test_the_pocket_studio_says_what_core_nodes_give_it_wrongly(studio: dict[str, Any]) -> None:
    """Core's VAE and vision nodes look at nothing."""
    for shape in ((0, 16, 10, 20), (1, 16, 0, 20)):
        with pytest.raises(InputError, match="^samples: must not be empty"):
            studio["video_vae"].decode(torch.zeros(shape))
    for shape in ((1, 4, 10, 20), (1, 4, 3, 10, 20)):
        with pytest.raises(InputError, match=r"^samples: must be latents \[B, 16, H, W\] or .*which the pocket studio"):
            studio["video_vae"].decode(torch.zeros(shape))
    with pytest.raises(InputError, match=r"^pixels: must be pictures \[B, 3, H, W\]"):
        studio["vae"].encode(torch.zeros(1, 80, 160, 1))
    with pytest.raises(InputError, match=r"^pixels: must be at least \d+ pixels a side .got .5x2"):
        studio["vae"].encode(torch.zeros(1, 2, 5, 3))
    for image in (None, torch.zeros(0, 80, 160, 3), torch.zeros(1, 80, 160, 1)):
        with pytest.raises(InputError, match="^image: must be pictures"):
            studio["clip_vision"].encode_image(image)


def test_prompts_of_another_encoder_are_refused_wherever_a_patched_model_is_sampled(studio: dict[str, Any]) -> None:
    model, other, right = studio["video_model"], prompt(drawn(1, 5, 32)), prompt(drawn(1, 5, 128))
    timeline = Timeline.plan(8, 0.6, [0])
    laid, latent = MultiChunkModel.execute(
        model, studio["video_vae"], timeline, "multi_chunk", drawn(1, 80, 160, 3)
    ).args
    blended = TWBBlend.execute(model, 0.25, latent).args[0]
    mixed = mixing_patch(model, right, Weighting())
    for patched, name in ((laid, "positive"), (blended, "positive"), (mixed, "scene")):
        with pytest.raises(InputError, match=rf"^{name}: must be 128 wide, as the model reads it"):
            common_ksampler(patched, 0, 1, 1.0, "euler", "simple", other, right, latent)
    for scene, action, negative, name in ((other, right, right, "scene"), (right, other, right, "action"),
                                          (right, right, other, "negative")):  # fmt: skip
        with pytest.raises(InputError, match=f"^{name}: must be 128 wide"):
            mixing_guider(model, scene, action, negative, 1.0, Weighting())
