"""A story of two segments on the pocket weights: by our nodes with core's sampler, and by the headless sampler."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced
from in_comfyui.tiny_wan import relative
from torch import Tensor

from anchorshot.comfyui.mixing import _KEY
from anchorshot.models.studio import Studio, load_studio
from anchorshot.nodes import mixing
from anchorshot.pipelines.story_stage import story_model, story_pictures, story_sampler
from anchorshot.sampling.text2story.action_similarity import SAR
from anchorshot.sampling.text2story.prompt_mixing import DIPW, MixStep
from anchorshot.sampling.text2story.segments import Made, PromptPair, StorySettings

FRAMES, SIZE, GAMMA = 17, (80, 160), 0.3
SEGMENTS = [
    ("wide shot, static, in the snow. a red square on the left.", "a red square dances on the left."),
    ("wide shot, static, on the moon. a red square on the left.", "a red square waves on the left."),
]
SEEDS = (3, 4)


@pytest.fixture(scope="module")
def models() -> Studio:
    return load_studio("pocket")


def headless(models: Studio, preview: Any, settings: StorySettings) -> list[Made]:
    """What `anchorshot tell` does, segment by segment."""
    model = story_model(models, FRAMES, SIZE)
    sampler = story_sampler(models, model, settings, story_pictures(model, preview))
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return sampler.story([PromptPair([scene], [action]) for scene, action in SEGMENTS], generators)


def native(
    studio: dict[str, Any], sigmas: Tensor, preview: str, settings: StorySettings
) -> list[tuple[Tensor, float, list[MixStep]]]:
    """What the story workflow does: latents as the model has them, γ' and the weights of every segment."""
    assert settings.dipw is not None
    clock = {"progress_clock": settings.dipw.prior_clock, "progress_shift": settings.dipw.prior_shift}
    clip, model = studio["video_clip"], studio["video_model"]
    made: list[tuple[Tensor, float, list[MixStep]]] = []
    previous = None
    for i, (scene, action) in enumerate(SEGMENTS):
        before = SEGMENTS[i - 1][1] if i else ""
        gamma = mixing.SAR.execute(clip, before, action, GAMMA).args[0]
        if settings.action_prompt == "whole":
            action = f"{scene} {action}"
        blended = mixing.TWBBlend.execute(model, gamma, previous).args[0]
        words = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (scene, action)]
        guider = mixing.DIPWGuider.execute(
            blended, *words, words[0], 1.0, preview=preview, scene_text=scene, action_text=action,
            clip=studio["retrieval_clip"], clip_vision=studio["clip_vision"], vae=studio["video_vae"], **clock,
        ).args[0]  # fmt: skip
        empty = {"samples": torch.zeros(1, 16, (FRAMES - 1) // 4 + 1, SIZE[0] // 8, SIZE[1] // 8)}
        sampler = comfy.samplers.sampler_object("euler")
        previous = SamplerCustomAdvanced.execute(Noise_RandomNoise(SEEDS[i]), guider, sampler, sigmas, empty).args[0]
        steps = list(guider.model_patcher.attachments[_KEY].runs[-1][1])
        made.append((model.model.process_latent_in(previous["samples"]), gamma, steps))
    return made


TODAY = StorySettings(gamma=GAMMA)
PAPER = StorySettings(DIPW(prior_clock="steps", prior_shift=1.0), "alone", GAMMA)


@pytest.mark.parametrize(
    ("preview", "settings"),
    [("latent_rgb", TODAY), ("latent_rgb", PAPER), ("decoded_frame", TODAY), ("decoded_video", PAPER)],
    ids=lambda value: value if isinstance(value, str) else value.action_prompt,
)
def test_nodes_tell_the_same_story(
    studio: dict[str, Any], models: Studio, preview: Any, settings: StorySettings
) -> None:
    """Latents, γ' and the weights of every step, in both segments. (The prompts differ in length, so that the dominant
    one's end counts.)"""
    ours = headless(models, preview, settings)
    theirs = native(studio, story_model(models, FRAMES, SIZE).sigmas, preview, settings)
    for own, (latents, gamma, steps) in zip(ours, theirs, strict=True):
        weights = [torch.stack([step.weights[0] for step in record]) for record in (steps, own.record)]
        errors = relative(latents, own.latents), float((weights[0] - weights[1]).abs().max())
        print(f"{preview}: latents {errors[0]:.1e}, weights {errors[1]:.1e}")
        assert errors[0] < 1e-3 and errors[1] < 5e-3 and len(steps) == 20
        assert [step.prior[1] for step in steps] == pytest.approx([step.prior[1] for step in own.record], abs=1e-4)
        assert own is ours[0] or gamma == pytest.approx(float(own.gamma), abs=1e-5)
    assert 0.03 < theirs[1][1] < GAMMA and relative(theirs[0][0], theirs[1][0]) > 0.1


@pytest.mark.parametrize("encoder", ["text", "clip"])
@pytest.mark.parametrize("pair", ["actions", "within", "adjacent"])
def test_sar_reads_the_same_in_both_hosts(studio: dict[str, Any], models: Studio, encoder: Any, pair: Any) -> None:
    """γ' of every reading, with and without the story's mean."""
    told = [*SEGMENTS, ("close-up, static, in the town. a blue star on the right.", "a blue star jumps on the right.")]
    pairs = [PromptPair([scene], [action]) for scene, action in told]
    model = story_model(models, FRAMES, SIZE)
    clip = studio["video_clip" if encoder == "text" else "retrieval_clip"]
    encoding = "tokens" if encoder == "text" else "projected"
    for centred in (False, True):
        settings = StorySettings(dipw=None, gamma=GAMMA, sar=SAR(encoder, pair, centred))
        sampler = story_sampler(models, model, settings)
        ours = float(sampler.gamma(pairs[0], pairs[1], sampler.centre(pairs)))
        lines = [texts[0] for each in pairs for texts in settings.sar.texts(each)] if centred else []
        (before, action), (scene, now) = told[0], told[1]
        theirs, alike = mixing.SAR.execute(
            clip, action, now, GAMMA, encoding, pair=pair, scene=scene, previous_scene=before, story="\n".join(lines),
            bounded=False,
        ).args  # fmt: skip
        assert theirs == pytest.approx(ours, abs=1e-4) == pytest.approx(min(0.5, GAMMA * (1 - alike)), abs=1e-4)
