"""A story of two segments on the pocket weights: by our nodes with core's sampler, and by the headless sampler."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced
from comfyui.tiny_wan import relative
from torch import Tensor

from anchorshot.models.studio import Studio, load_studio
from anchorshot.nodes import mixing
from anchorshot.nodes.mixing_run import _KEY
from anchorshot.pipelines.story_stage import story_model, story_pictures, story_sampler
from anchorshot.sampling.prompt_mixing import MixStep
from anchorshot.sampling.story import Made, PromptPair, StorySettings

FRAMES, SIZE, GAMMA = 17, (80, 160), 0.3
SEGMENTS = [
    ("wide shot, static, in the snow. a red square on the left.", "a red square dances on the left."),
    ("wide shot, static, on the moon. a red square on the left.", "a red square waves on the left."),
]
SEEDS = (3, 4)


@pytest.fixture(scope="module")
def models() -> Studio:
    return load_studio("pocket")


def headless(models: Studio, preview: Any) -> list[Made]:
    """What `anchorshot tell` does, segment by segment."""
    model = story_model(models, FRAMES, SIZE)
    sampler = story_sampler(models, model, StorySettings(gamma=GAMMA), story_pictures(model, preview))
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return sampler.story([PromptPair([scene], [action]) for scene, action in SEGMENTS], generators)


def native(studio: dict[str, Any], sigmas: Tensor, preview: str) -> list[tuple[Tensor, float, list[MixStep]]]:
    """What the story workflow does: latents as the model has them, γ' and the weights of every segment."""
    clip, model = studio["video_clip"], studio["video_model"]
    made: list[tuple[Tensor, float, list[MixStep]]] = []
    previous = None
    for i, (scene, action) in enumerate(SEGMENTS):
        before = SEGMENTS[i - 1][1] if i else ""
        gamma = mixing.SAR.execute(clip, before, action, GAMMA).args[0]
        blended = mixing.TWBBlend.execute(model, gamma, previous).args[0]
        words = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (scene, action)]
        guider = mixing.DIPWGuider.execute(
            blended, *words, words[0], 1.0, preview=preview, scene_text=scene, action_text=action,
            clip=studio["retrieval_clip"], clip_vision=studio["clip_vision"], vae=studio["video_vae"],
        ).args[0]  # fmt: skip
        empty = {"samples": torch.zeros(1, 16, (FRAMES - 1) // 4 + 1, SIZE[0] // 8, SIZE[1] // 8)}
        sampler = comfy.samplers.sampler_object("euler")
        previous = SamplerCustomAdvanced.execute(Noise_RandomNoise(SEEDS[i]), guider, sampler, sigmas, empty).args[0]
        steps = list(guider.model_patcher.attachments[_KEY].runs[-1][1])
        made.append((model.model.process_latent_in(previous["samples"]), gamma, steps))
    return made


@pytest.mark.parametrize("preview", ["latent_rgb", "decoded_frame", "decoded_video"])
def test_nodes_tell_the_same_story(studio: dict[str, Any], models: Studio, preview: Any) -> None:
    """Latents, γ' and the weights of every step, in both segments."""
    ours = headless(models, preview)
    theirs = native(studio, story_model(models, FRAMES, SIZE).sigmas, preview)
    for own, (latents, gamma, steps) in zip(ours, theirs, strict=True):
        weights = [torch.stack([step.weights[0] for step in record]) for record in (steps, own.record)]
        errors = relative(latents, own.latents), float((weights[0] - weights[1]).abs().max())
        print(f"{preview}: latents {errors[0]:.1e}, weights {errors[1]:.1e}")
        assert errors[0] < 1e-3 and errors[1] < 5e-3 and len(steps) == 20
        assert own is ours[0] or gamma == pytest.approx(float(own.gamma), abs=1e-5)
    assert 0.1 < theirs[1][1] < GAMMA and relative(theirs[0][0], theirs[1][0]) > 0.1
