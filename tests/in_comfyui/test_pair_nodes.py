"""Memory Pack, Start-End Pair Predictor and Pairs to Timeline with tiny random models of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from in_comfyui import tiny_qwen
from torch import Tensor

from anchorshot.comfyui.pair_inputs import timeline_outputs
from anchorshot.core.errors import InputError
from anchorshot.memory.memory_pack import MemoryPack
from anchorshot.nodes import pairs
from anchorshot.nodes.timeline import KeyframeTimeline
from anchorshot.pocket.native_pairs import load_pair_clip, load_pair_model
from anchorshot.story.timeline import Timeline

pytestmark = pytest.mark.usefixtures("folders")
HEIGHT, WIDTH = 64, 96
PROMPTS = ["<Mira> (smiling) waves.", "<Pip> jumps.", "<Mira> and <Pip> dance."]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory, studio: dict[str, Any]) -> dict[str, Any]:
    """MODEL, CLIP, VAE, CLIP_VISION and its CLIP: the pair model is random, the rest the pocket studio's."""
    folder = tmp_path_factory.mktemp("pair")
    return {
        "model": load_pair_model(tiny_qwen.write_transformer(folder)),
        "clip": load_pair_clip(tiny_qwen.write_text_encoder(folder, {"picture_area": 14112})),
        "vae": studio["vae"],
        "clip_vision": studio["clip_vision"],
        "retrieval_clip": studio["retrieval_clip"],
    }


def pack(parts: dict[str, Any], frames: Any = None, **inputs: Any) -> Any:
    """Memory Pack as ComfyUI calls it: every input is a list."""
    given = {"rank_by": "clip", "packing": "canvas", "pyramid": False, "aspect": "squeeze", "level": "latent",
             "limit": 0, "area": 1.0, "query": ""}  # fmt: skip
    given |= {name: parts[name] for name in ("vae", "clip_vision", "retrieval_clip")} | inputs
    return pairs.MemoryPackNode.execute(
        frames={} if frames is None else frames, **{k: [v] for k, v in given.items() if v is not None}
    ).args


def predict(parts: dict[str, Any], **inputs: Any) -> Any:
    """Start-End Pair Predictor as ComfyUI calls it; lists are given as they are."""
    given: dict[str, Any] = {
        "width": WIDTH, "height": HEIGHT, "seed": 3, "steps": 2, "cfg": 1.0, "sampler_name": "euler",
        "scheduler": "simple", "layout": "stacked", "match_cut": False, "reference_timestep": "auto", "rescale": True,
        "prompts": PROMPTS,
    }  # fmt: skip
    given |= {name: parts[name] for name in ("model", "clip", "vae")} | inputs
    lists = {name: value if isinstance(value, list) else [value] for name, value in given.items() if value is not None}
    return pairs.StartEndPairPredictor.execute(**lists).args


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_a_list_of_prompts_becomes_a_list_of_pairs(parts: dict[str, Any]) -> None:
    context, _, _ = pack(parts)
    starts, ends, memory, layout, tokens = predict(parts, context=context)
    assert [tuple(f.shape) for f in starts] == [tuple(f.shape) for f in ends] == [(1, HEIGHT, WIDTH, 3)] * 3
    assert len(memory.frames) == 6 and not context.frames
    assert [frame.label for frame in memory.frames][:3] == ["shot 1 start", "shot 1 end", "shot 2 start"]
    assert tokens == MemoryPack().tokens(4, (4, 6)) and layout.shape[2] == 800


def test_earlier_shots_count(parts: dict[str, Any]) -> None:
    """The second pair depends on the memory, and on the end frame that the encoder sees."""
    context, _, _ = pack(parts)
    whole = predict(parts, context=context)
    blind = predict(parts)  # no memory; the encoder still sees the frame before
    assert torch.equal(whole[0][0], blind[0][0]) and not torch.allclose(whole[0][1], blind[0][1], atol=1e-3)
    alone = predict(parts, prompts=[PROMPTS[1]], seed=4)
    assert not torch.allclose(alone[0][0], blind[0][1], atol=1e-3)


def test_a_match_cut_starts_with_the_frame_before(parts: dict[str, Any]) -> None:
    starts, ends, *_ = predict(parts, match_cut=True, context=pack(parts)[0], cfg=2.0)
    assert torch.equal(starts[1], ends[0]) and torch.equal(starts[2], ends[1])
    assert not torch.equal(ends[0], ends[1])


def test_given_frames_stay_as_they_are(parts: dict[str, Any]) -> None:
    own = [picture(1), picture(2)]
    starts, ends, *_ = predict(parts, start_frames=own, end_frames=[picture(3)])
    assert torch.equal(starts[0], own[0]) and torch.equal(starts[1], own[1]) and torch.equal(ends[0], picture(3))
    free = predict(parts)
    assert not torch.equal(free[1][1], ends[1])


def test_negative_and_positive_conditionings(parts: dict[str, Any]) -> None:
    clip = parts["clip"]
    encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in PROMPTS]
    starts, *_ = predict(parts, positive=encoded, prompts=None, cfg=3.0, negative="blurry")
    assert all(torch.isfinite(frame).all() for frame in starts) and len(starts) == 3
    context, *_ = pack(parts, {"frame_0": [picture(1), picture(2)]})
    with pytest.raises(InputError, match="queries: are needed to rank frames by clip"):
        predict(parts, positive=encoded[:1], prompts=None, context=context)


def test_system_prompt_and_dropped_states(parts: dict[str, Any]) -> None:
    plain, told, dropped = (
        predict(parts, prompts=PROMPTS[:1], **more)[0][0]
        for more in ({}, {"system_prompt": "Both frames in one picture."}, {"drop_tokens": 3})
    )
    assert not torch.allclose(plain, told, atol=1e-4) and not torch.allclose(plain, dropped, atol=1e-4)


@pytest.mark.parametrize("rank_by", ["clip", "image", "recency"])
@pytest.mark.parametrize("packing", ["canvas", "references"])
def test_the_pack_shows_frames_and_counts_tokens(parts: dict[str, Any], rank_by: str, packing: str) -> None:
    frames = {"frame_0": [torch.cat([picture(i) for i in range(3)])]}
    context, layout, tokens = pack(parts, frames, rank_by=rank_by, packing=packing, query="a red circle")
    assert tokens == {"canvas": 12 + 6 + 2, "references": 3 * 24}[packing]
    assert layout.shape[0] == 1 and layout.shape[2] == 800
    starts, *_ = predict(parts, prompts=PROMPTS[:1], context=context)
    assert torch.isfinite(starts[0]).all()


def test_sizes_come_from_what_is_there(parts: dict[str, Any]) -> None:
    context, _, _ = pack(parts, {"frame_0": [picture(1, 48, 64)]}, rank_by="recency")
    starts, *_ = predict(parts, width=0, height=0, prompts=PROMPTS[:1], context=context)
    assert tuple(starts[0].shape) == (1, 48, 64, 3)
    starts, *_ = predict(parts, width=0, height=0, prompts=PROMPTS[:1], end_frames=[picture(2, 32, 80)])
    assert tuple(starts[0].shape) == (1, 32, 80, 3)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"prompts": None}, ["prompts", "storyboard"]),
        ({"width": 0}, ["width", "other side"]),
        ({"width": 0, "height": 0}, ["width", "storyboard"]),
        ({"queries": ["a"]}, ["queries", "3"]),
        ({"prompts": [PROMPTS[0], " ", PROMPTS[2]]}, ["prompts[1]", "empty"]),
        ({"queries": ["a", "b", ""]}, ["queries[2]", "empty"]),
        ({"start_frames": [picture(i) for i in range(4)]}, ["start_frames", "3"]),
        ({"clip": "retrieval_clip"}, ["clip", "Qwen2.5-VL"]),
        ({"model": "keyframe_model"}, ["model", "Qwen-Image"]),
        ({"sigmas": torch.tensor([3.0, 0.0])}, ["sigmas"]),
        ({"drop_tokens": 4000}, ["drop_tokens"]),
    ],
)
def test_bad_inputs_name_the_input(
    parts: dict[str, Any], studio: dict[str, Any], inputs: dict[str, Any], words: list[str]
) -> None:
    given = {name: studio[value] if isinstance(value, str) else value for name, value in inputs.items()}
    with pytest.raises(InputError) as error:
        predict(parts, **given)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_ranking_by_clip_needs_models(parts: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="clip_vision"):
        pack(parts, clip_vision=None)


def test_golden_mem_is_no_memory_of_pairs(parts: dict[str, Any]) -> None:
    from dataclasses import replace

    from anchorshot.memory.golden_mem import GoldenMem

    context = replace(pack(parts)[0], packing=GoldenMem(3, 1))
    with pytest.raises(InputError, match="Memory Pack"):
        predict(parts, context=context)


def test_pairs_become_keyframes(folders: Path) -> None:
    timeline = KeyframeTimeline.execute(fps=8.0, seconds=2.0, timeline="").args[0]
    planned, both, start, end, frames, fps = pairs.PairsToTimeline.execute(picture(1), picture(2), timeline).args
    assert planned.keyframe_frames == [0, planned.frames - 1] and frames == timeline.frames == 17 and fps == 8.0
    assert torch.equal(both, torch.cat([start, end]))


def test_a_shot_of_one_frame_has_no_room() -> None:
    with pytest.raises(InputError, match="timeline"):
        timeline_outputs(picture(1), picture(2), Timeline.plan(8, 0.1))
    with pytest.raises(InputError, match="end"):
        timeline_outputs(picture(1), picture(2, 32, 32), Timeline.plan(8, 2.0))


@pytest.mark.parametrize("template", ["no shot", "{text} {other}", "5"])
def test_a_template_must_hold_the_shot(parts: dict[str, Any], template: str) -> None:
    from anchorshot.story.storyboard import parse_storyboard

    board = parse_storyboard("shots: [{scene: A circle., frames: 5}]")
    with pytest.raises(InputError, match=r"template.*\{text\}"):
        predict(parts, storyboard=board, prompts=None, template=template)
