"""Nodes that use models, with the pocket studio: memory, keyframes, video. Good inputs, bad inputs, cancel, memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import latent_preview
import numpy as np
import pytest
import torch
from in_comfyui.node_inputs import STORY, encode
from in_comfyui.odd_values import drawn, prompt
from in_comfyui.tiny import FLUX, flux_clip
from torch import Tensor

import nodes as comfy_nodes
from anchorshot.comfyui.images import fitted
from anchorshot.comfyui.similarity import embed_images, embed_query
from anchorshot.core.errors import InputError
from anchorshot.memory.frame_memory import MemoryFrame
from anchorshot.memory.golden_mem import GoldenMem, token_report
from anchorshot.models.studio import load_studio
from anchorshot.nodes import extend, keyframes, memory, story, video
from anchorshot.story import stages
from anchorshot.story.storyboard import Storyboard
from anchorshot.story.timeline import Timeline

pytestmark = pytest.mark.usefixtures("folders")


# --- memory ----------------------------------------------------------------------------------------------------------


def context(studio: dict[str, Any], frames: Any, **inputs: Any) -> tuple[Any, Tensor, int]:
    """GoldenMem Context as ComfyUI calls it: every input is a list."""
    given = {"retrieval": "clip", "groups": 3, "images": 1, "first_tier": 0, "query": "", "captions": "",
             "clip": studio["clip"], "clip_vision": studio["clip_vision"],
             "retrieval_clip": studio["retrieval_clip"]}  # fmt: skip
    lists = {name: [value] for name, value in (given | inputs).items() if value is not None}
    return memory.GoldenMemContext.execute(vae=[studio["vae"]], frames=frames, **lists).args


def test_context_ranks_as_the_headless_side_does(studio: dict[str, Any], pictures: Tensor) -> None:
    """CLIP retrieval with CLIP_VISION and CLIP on the same pictures gives the same order."""
    query = "a red triangle with a hat, on the moon"
    made, picture, tokens = context(studio, {"frame_0": [pictures[:4]], "frame_1": [pictures[4:]]}, query=query)
    recalled = [rank.frame.image[0].movedim(0, -1) for rank in made.recall()]
    order = [next(i for i, p in enumerate(pictures) if torch.equal(p, picture)) for picture in recalled]
    scorer = load_studio("pocket").clip
    scores = scorer.embed_images(pictures.movedim(-1, 1)) @ scorer.embed_texts([query])[0]
    assert order == scores.argsort(descending=True)[:3].tolist()
    assert tokens == token_report(GoldenMem(3, 1, 0).plan(6, (5, 10)), (5, 10))["context_image"]
    assert picture.ndim == 4 and picture.shape[-1] == 3 and picture.shape[2] == 800


def test_context_encodes_each_frame_at_its_size(studio: dict[str, Any], pictures: Tensor) -> None:
    made, _, tokens = context(studio, {"frame_0": [pictures[:3]]}, retrieval="recency")
    latents = [rank.frame.latent(rank.slot.size, made.encoders) for rank in made.recall()]
    assert [tuple(latent.shape) for latent in latents] == [(1, 16, 10, 20), (1, 16, 6, 12), (1, 16, 2, 4)]
    assert tokens == 50 + 18 + 2
    newest = studio["vae"].encode(pictures[2:3])
    assert torch.allclose(latents[0], newest, atol=1e-5)


def test_frames_shrunk_as_latents_equal_headless(studio: dict[str, Any], pictures: Tensor) -> None:
    from anchorshot.sampling.frame_encoders import StudioEncoders

    made, _, _ = context(studio, {"frame_0": [pictures[:3]]}, retrieval="recency", level="latent")
    headless = StudioEncoders(load_studio("pocket"))
    for number, rank in enumerate(made.recall()):
        frame, slot = rank.frame, rank.slot
        latent = studio["keyframe_model"].model.process_latent_in(frame.latent(slot.size, made.encoders, "latent"))
        same = MemoryFrame(pictures[2 - number][None].movedim(-1, 1))
        wanted = same.latent(slot.size, headless, "latent")
        assert torch.allclose(latent, wanted, atol=1e-4)
        pixels = frame.latent(slot.size, made.encoders)
        assert (number == 0) == torch.allclose(pixels, frame.latent(slot.size, made.encoders, "latent"), atol=1e-3)


def test_context_takes_captions_and_query_from_the_storyboard(
    studio: dict[str, Any], pictures: Tensor, board: Storyboard
) -> None:
    made, _, _ = context(studio, {"frame_0": [pictures[:1]]}, storyboard=board)
    assert made.query == board.captions()[1].query and made.frames[0].text == board.captions()[0].prompt
    assert made.encoders.caption(made.frames[0])[0][0].shape[-1] == 128
    written, _, _ = context(studio, {"frame_0": [pictures[:1]]}, captions="first frame\nnext frame", retrieval="text")
    assert written.query == "next frame" and written.frames[0].queries == ("first frame",)
    empty, picture, tokens = context(studio, {}, storyboard=board)
    assert empty.recall(["anything"]) == [] and tokens == 0 and picture.shape[-1] == 3


def test_context_errors_say_what_to_do(studio: dict[str, Any], pictures: Tensor, board: Storyboard) -> None:
    mixed = {"frame_0": [pictures[:1]], "frame_1": [pictures[:1, :64]]}
    for frames, inputs, said in [
        (mixed, {}, r"^frames: all pictures must have one size \(got \"160x80, 160x64\"\)"),
        ({"frame_0": [pictures[:1, :72]]}, {}, "frames: width and height must divide by 16"),
        ({"frame_0": [pictures]}, {"captions": "one"}, "captions: must be 6, one for each frame"),
        ({"frame_0": [pictures]}, {"storyboard": board}, "frames: must be at most 3, the storyboard's keyframes"),
        ({}, {"clip_vision": None}, "clip_vision: is needed to rank frames by clip"),
        ({}, {"retrieval": "text", "clip": None}, "clip: is needed to rank frames by text"),
        (
            {"frame_0": [pictures]},
            {"retrieval_clip": studio["video_clip"], "query": "x"},
            r"got \"no CLIP text model\"",
        ),
    ]:
        with pytest.raises(InputError, match=said):
            context(studio, frames, **inputs)
    with pytest.raises(InputError, match="query: is needed to rank frames by clip"):
        context(studio, {"frame_0": [pictures[:2]]})[0].recall()


def test_clip_text_must_be_projected_into_the_space_of_pictures(studio: dict[str, Any], pictures: Tensor) -> None:
    """Common loaders give CLIP text without a projection; ranking by it would mean nothing, and look fine."""
    embedding = embed_images(studio["clip_vision"], pictures[:1].movedim(-1, 1))[0]
    by_pair, by_keyframe_clip = (
        embed_query(studio[name], "a red circle", len(embedding)) for name in ("retrieval_clip", "clip")
    )
    assert torch.allclose(by_pair, by_keyframe_clip, atol=1e-5)
    narrow, unfilled = flux_clip(), flux_clip(FLUX | {"vec_in_dim": len(embedding)})
    assert embed_query(unfilled, "a red circle", len(embedding)).shape == embedding.shape
    torch.nn.init.zeros_(unfilled.cond_stage_model.clip_l.transformer.text_projection.weight)
    for clip in (narrow, unfilled):
        with pytest.raises(InputError, match="retrieval_clip: must have a text model projected to the 64 dimensions"):
            embed_query(clip, "a red circle", len(embedding))


def test_references_join_the_conditioning(studio: dict[str, Any], pictures: Tensor) -> None:
    made, _, tokens = context(studio, {"frame_0": [pictures[:3]]}, retrieval="recency")
    before = encode(studio["clip"], "a yellow square")
    after, count, used = memory.GoldenMemReferences.execute(before, made).args
    references = after[0][1]["reference_latents"]
    assert count == 3 and used == tokens and [r.shape[-1] for r in references] == [20, 12, 4]
    assert "reference_latents" not in before[0][1]
    twice = memory.GoldenMemReferences.execute(after, made).args[0]
    assert len(twice[0][1]["reference_latents"]) == 6
    # Qwen-Image's VAE is a video VAE: its references keep their frame axis
    as_video, _, _ = context(studio | {"vae": studio["video_vae"]}, {"frame_0": [pictures[:1]]}, retrieval="recency")
    assert memory.GoldenMemReferences.execute(before, as_video).args[0][0][1]["reference_latents"][0].ndim == 5


# --- keyframes -------------------------------------------------------------------------------------------------------


def sample(studio: dict[str, Any], positive: list[Any], **inputs: Any) -> Any:
    """The Interleaved Keyframe Sampler as ComfyUI calls it, in two steps."""
    latent = {"samples": torch.zeros(1, 16, 10, 20), "downscale_ratio_spacial": 8}
    given = {"model": studio["keyframe_model"], "latent": latent, "vae": studio["vae"], "seed": 0, "steps": 2,
             "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "attention": "causal",
             "context_noise": 0.1, "window": 1}  # fmt: skip
    lists = {name: [value] for name, value in (given | inputs).items() if value is not None}
    return keyframes.InterleavedKeyframeSampler.execute(positive=positive, **lists)


def test_a_film_of_keyframes_remembers_as_it_goes(studio: dict[str, Any], board: Storyboard) -> None:
    prompts = [encode(studio["clip"], prompt) for prompt in story.Storyboard.execute(STORY).args[1]]
    empty, _, _ = context(studio, {})
    out = sample(studio, prompts, context=empty, storyboard=board)
    images, latents, grown = out.args
    assert [tuple(i.shape) for i in images] == [(1, 80, 160, 3), (2, 80, 160, 3)]
    assert [tuple(x["samples"].shape) for x in latents] == [(1, 16, 10, 20), (2, 16, 10, 20)]
    assert len(grown.frames) == 3 and len(empty.frames) == 0 and len(out.ui.as_dict()["images"]) == 3
    assert grown.frames[2].label == "s02, keyframe 2"
    # the second keyframe looks back at the first: without a memory it comes out otherwise, the first does not
    alone = sample(studio, prompts, storyboard=board).args[0]
    assert torch.equal(alone[0], images[0]) and not torch.allclose(alone[1], images[1], atol=0.02)
    # a graph may chain samplers instead: the second shot from the context that the first one grew
    first = sample(studio, prompts[:1], context=empty, seed=stages.stage_seed(board.shots[0], 1, "keyframe-0")).args
    seed = stages.stage_seed(board.shots[1], 1, "keyframe-0")
    second = sample(studio, prompts[1:], context=first[2], seed=seed).args[0]
    assert torch.allclose(first[0][0], images[0], atol=1e-5) and torch.allclose(second[0], images[1][:1], atol=1e-4)


def test_own_pictures_are_taken_as_they_are(studio: dict[str, Any], pictures: Tensor, folders: Path) -> None:
    from anchorshot.media.image import write_image

    write_image(folders / "input" / "mira.png", pictures[0].movedim(-1, 0))
    text = STORY.replace("frames: 5}", "frames: 5, keyframes: [{at: 0, image: mira.png}]}")
    board, prompts = story.Storyboard.execute(text).args[:2]
    out = sample(studio, [encode(studio["clip"], p) for p in prompts], storyboard=board, context=context(studio, {})[0])
    assert torch.allclose(out.args[0][0], pictures[:1], atol=1 / 255)
    before = story.Storyboard.fingerprint_inputs(text)
    write_image(folders / "input" / "mira.png", torch.rand(3, 80, 160))
    assert story.Storyboard.fingerprint_inputs(text) != before


def test_frames_of_a_window_see_each_other(studio: dict[str, Any]) -> None:
    prompts = [encode(studio["clip"], "wide shot, static, in the desert."), encode(studio["clip"], "close-up, static.")]
    apart, together = (sample(studio, prompts, window=w).args[0] for w in (1, 2))
    assert [i.shape[0] for i in together] == [1, 1] and not torch.allclose(apart[1], together[1], atol=0.01)


def test_a_joint_film_equals_headless(studio: dict[str, Any], board: Storyboard, tmp_path: Path) -> None:
    """All keyframes of a film in one window, full attention; and then two windows, the second with a noisy memory."""
    from anchorshot.media.image import read_image
    from anchorshot.pipelines.film import make_film

    prompts = [encode(studio["clip"], prompt) for prompt in story.Storyboard.execute(STORY).args[1]]
    for window in (3, 2):
        change = {"window": window, "mode": "full", "steps": 2, "context_noise": [0.0, 0.5], "groups": 3, "images": 3,
                  "first_tier": 0}  # fmt: skip
        make_film(board, load_studio("pocket"), tmp_path / str(window), keyframe=change)
        wanted = [read_image(path) for path in sorted((tmp_path / str(window) / "keyframes").iterdir())]
        inputs = {"window": window, "attention": "full", "context_noise": 0.0, "context_noise_high": 0.5}
        made, _, _ = context(studio, {}, images=3)
        found = torch.cat(sample(studio, prompts, storyboard=board, context=made, **inputs).args[0]).movedim(-1, 1)
        assert (found - torch.stack(wanted)).abs().max() < 1.5 / 255  # a picture's rounding to 8 bits, twice


def test_keyframe_errors_say_what_to_do(studio: dict[str, Any], pictures: Tensor, board: Storyboard) -> None:
    prompt = encode(studio["clip"], "wide shot")
    small, _, _ = context(studio, {"frame_0": [pictures[:1, :64]]}, captions="a")
    batch = {"samples": torch.zeros(2, 16, 10, 20)}
    for positive, inputs, said in [
        ([], {}, r"^positive: at least one keyframe is needed \(got 0\)"),
        (
            [prompt],
            {"storyboard": board},
            "positive: must be 3 prompts, one for each keyframe, or 2, one for each shot",
        ),
        ([prompt], {"latent": batch}, "latent: must be of one picture"),
        ([prompt], {"context": small}, "context: must have the size of the new frames, 160x80"),
        ([prompt] * 3, {"context": context(studio, {})[0]}, "query: is needed to rank frames by clip"),
        ([prompt], {"model": studio["video_model"]}, "^model: "),
    ]:
        with pytest.raises(InputError, match=said):
            sample(studio, positive, **inputs)
    with pytest.raises(InputError, match="captions: every context frame needs a caption"):
        sample(studio, [prompt], context=context(studio, {"frame_0": [pictures[:1]]})[0])


def test_out_of_memory_is_one_sentence(studio: dict[str, Any]) -> None:
    """An error of the device itself, raised where it comes up: inside the model."""

    def full(executor: Any, *args: Any, **kwargs: Any) -> Any:
        raise comfy.model_management.OOM_EXCEPTION("CUDA out of memory. Tried to allocate 90.00 GiB")

    small = studio.copy()
    for name in ("keyframe_model", "video_model"):
        small[name] = studio[name].clone()
        small[name].add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", full)
    with pytest.raises(InputError, match="needs more memory than the device has") as keyframe:
        sample(small, [encode(studio["clip"], "wide shot")])
    assert "1 new and 0 remembered frames of 160x80" in str(keyframe.value)
    with pytest.raises(InputError, match="needs more memory than the device has") as shot:
        shoot(small, Timeline.plan(8, 0.6, []), width=160, height=80)
    assert "5 frames of 160x80" in str(shot.value)
    assert "\n" not in f"{keyframe.value}{shot.value}"


def test_interrupt_leaves_nothing_behind(studio: dict[str, Any]) -> None:
    prompt = encode(studio["clip"], "wide shot")
    before = sample(studio, [prompt]).args[0][0]

    def cancel(executor: Any, *args: Any, **kwargs: Any) -> Any:
        comfy.model_management.interrupt_current_processing(True)
        return executor(*args, **kwargs)

    model = studio["keyframe_model"].clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "test", cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(studio, [prompt], model=model)
    assert torch.equal(sample(studio, [prompt]).args[0][0], before)


# --- video -----------------------------------------------------------------------------------------------------------

PLAN = Timeline.plan(8, 1.25, [0.0, 0.7])


def shoot(studio: dict[str, Any], planned: Timeline, **inputs: Any) -> tuple[Tensor, dict[str, Any]]:
    given: dict[str, Any] = {"positive": encode(studio["video_clip"], "wide shot, static, in the desert."),
                             "seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
                             "method": "multi_chunk"}  # fmt: skip
    models = (studio["video_model"], studio["video_vae"], planned)
    return video.MultiChunkVideoSampler.execute(*models, **(given | inputs)).args


def test_keyframes_land_on_their_frames(studio: dict[str, Any], pictures: Tensor) -> None:
    images, latent = shoot(studio, PLAN, keyframes=pictures[:2])
    assert images.shape == (PLAN.frames, 80, 160, 3) and PLAN.keyframe_frames == [0, 5]
    through_the_vae = studio["vae"].decode(studio["vae"].encode(pictures[:2]))
    assert torch.allclose(images[PLAN.keyframe_frames], through_the_vae, atol=1e-4)
    assert torch.equal(video.MultiChunkDecode.execute(latent, studio["video_vae"]).args[0], images)


def test_pictures_of_another_size_are_fitted(studio: dict[str, Any], pictures: Tensor) -> None:
    """Where width and height are given: filled and cropped, or whole on black; equal ones stay as they are."""
    large = torch.nn.functional.interpolate(pictures[:2].movedim(-1, 1), (160, 160)).movedim(1, -1)
    for fit, cells in (("cover", 10), ("contain", 10)):
        _, latent = video.MultiChunkModel.execute(
            studio["video_model"], studio["video_vae"], PLAN, "multi_chunk", large, 160, 80, fit
        ).args
        assert latent["samples"].shape[-2:] == (cells, 20)
    whole = fitted(large, (80, 160), "contain", "keyframes")
    assert whole.shape == (2, 80, 160, 3) and not whole[:, :, :40].any() and not whole[:, :, 120:].any()
    filled = fitted(large, (80, 160), "cover", "keyframes")
    assert torch.allclose(filled, large[:, 40:120], atol=1e-6)
    assert fitted(pictures, (80, 160), "cover", "keyframes") is pictures


def test_a_saved_latent_is_decoded_with_its_timeline(studio: dict[str, Any], pictures: Tensor) -> None:
    """Saving loses the layout; the timeline gives it back, and another one is refused."""
    images, latent = shoot(studio, PLAN, keyframes=pictures[:2])
    decode, saved = video.MultiChunkDecode.execute, {"samples": latent["samples"]}
    assert torch.equal(decode(saved, studio["video_vae"], PLAN).args[0], images)
    assert torch.equal(decode(latent, studio["video_vae"], PLAN).args[0], images)
    other = Timeline.plan(8, 2.0, [0.0])
    for given, planned, said in [
        (saved, None, "latent: must be laid out by a timeline.*to decode a saved one, connect its timeline"),
        (saved, other, "latent: must have 5 latent frames, as its timeline"),
        (latent, other, "timeline: must be that of the latent"),
        ({"samples": latent["samples"][:, :4]}, PLAN, r"latent: must be a video's latent \[B, 16, F, h, w\]"),
    ]:
        with pytest.raises(InputError, match=said):
            decode(given, studio["video_vae"], planned)


def test_a_model_that_gives_nan_is_named(studio: dict[str, Any], pictures: Tensor) -> None:
    """As one does that overflows in fp16; before, the film was black."""

    def overflow(executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        return executor(x, *args, **kwargs) * float("nan")

    broken = studio.copy()
    for name in ("keyframe_model", "video_model"):
        broken[name] = studio[name].clone()
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        broken[name].add_wrapper_with_key(kind, "test", overflow)
    said = "model: must (hold|sample) finite values.*bf16 or fp32"
    with pytest.raises(InputError, match=said):
        sample(broken, [encode(studio["clip"], "wide shot")])
    with pytest.raises(InputError, match=said):
        shoot(broken, PLAN, keyframes=pictures[:2])


def test_one_bar_over_all_shots_and_the_finished_pictures_last(
    studio: dict[str, Any], pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shot of a film goes on where the one before ended; the last preview is what was made, not a latent."""
    sent: list[tuple[float, float, Any]] = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda v, t, p, node_id=None: sent.append((v, t, p)))
    monkeypatch.setattr(latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB)
    for number in (1, 2, 3):
        shoot(studio, replace(PLAN, part=(number, 3, f"s0{number}")), keyframes=pictures[:2])
    values = [value for value, total, preview in sent if total == 6]
    assert values == sorted(values) and values[-1] == 6 and len(sent) >= 6
    sent.clear()
    images = sample(studio, [encode(studio["clip"], "wide shot, static, in the desert.")] * 2).args[0]
    last = torch.from_numpy(np.array(sent[-1][2][1])).float() / 255
    assert last.shape == (80, 320, 3) and torch.allclose(last[:, 160:], images[1][0], atol=1 / 255)


def test_a_size_far_from_the_models_own_is_said(
    studio: dict[str, Any], pictures: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    large = torch.nn.functional.interpolate(pictures[:2].movedim(-1, 1), (256, 512)).movedim(1, -1)
    video.MultiChunkModel.execute(studio["video_model"], studio["video_vae"], PLAN, "multi_chunk", pictures[:2])
    assert not caplog.messages
    video.MultiChunkModel.execute(studio["video_model"], studio["video_vae"], PLAN, "multi_chunk", large)
    assert "512x256 is far from the 160x80 that this model was made for" in caplog.text


def test_core_sampler_on_the_model_gives_the_same_video(studio: dict[str, Any], pictures: Tensor) -> None:
    images, _ = shoot(studio, PLAN, keyframes=pictures[:2])
    model, latent = video.MultiChunkModel.execute(
        studio["video_model"], studio["video_vae"], PLAN, "multi_chunk", pictures[:2]
    ).args
    prompt = encode(studio["video_clip"], "wide shot, static, in the desert.")
    out = comfy_nodes.KSampler().sample(model, 1, 2, 1.0, "euler", "simple", prompt, prompt, latent)[0]
    assert torch.allclose(video.MultiChunkDecode.execute(out, studio["video_vae"]).args[0], images, atol=1e-4)
    moved = {**out, "samples": out["samples"] + 1}
    pinned = video.RepinKeyframes.execute(moved, latent).args[0]["samples"]
    keep = latent["noise_mask"][:, 0, :, 0, 0][0] == 0
    assert torch.equal(pinned[:, :, keep], latent["samples"][:, :, keep])
    assert torch.equal(pinned[:, :, ~keep], moved["samples"][:, :, ~keep])


def test_two_experts_of_one_model_are_one_model(studio: dict[str, Any], pictures: Tensor) -> None:
    one, _ = shoot(studio, PLAN, keyframes=pictures[:2])
    two, _ = shoot(studio, PLAN, keyframes=pictures[:2], model_low=studio["video_model"], boundary=0.9)
    assert torch.allclose(one, two, atol=1e-3)


def test_keyframes_survive_both_experts(studio: dict[str, Any], pictures: Tensor) -> None:
    """Two models that differ: the second changes the video, and the keyframes stay as the VAE shows them."""
    low = studio["video_model"].clone()
    weight = low.model.diffusion_model.blocks[0].self_attn.q.weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    low.add_patches({"diffusion_model.blocks.0.self_attn.q.weight": ("diff", (noise * weight.std().item(),))})
    one, _ = shoot(studio, PLAN, keyframes=pictures[:2])
    two, _ = shoot(studio, PLAN, keyframes=pictures[:2], model_low=low, boundary=0.9)
    free = [i for i in range(PLAN.frames) if i not in PLAN.keyframe_frames]
    assert (one[free] - two[free]).abs().max() > 0.02
    through_the_vae = studio["vae"].decode(studio["vae"].encode(pictures[:2]))
    assert torch.allclose(two[PLAN.keyframe_frames], through_the_vae, atol=1e-4)


def test_extension_starts_where_the_clip_ends(studio: dict[str, Any], pictures: Tensor) -> None:
    clip = pictures[:1].expand(5, -1, -1, -1)
    more = Timeline.plan(8, 0.6, [])
    with pytest.raises(InputError, match="clip_fps: must be the timeline's"):
        extend.ExtendVideo.execute(studio["video_model"], studio["video_vae"], clip, more, 0, clip_fps=more.fps * 1.03)
    model, latent = extend.ExtendVideo.execute(
        studio["video_model"], studio["video_vae"], clip, more, 0, clip_fps=more.fps
    ).args
    assert latent["samples"].shape[2] == 3 and latent["noise_mask"][0, 0, :, 0, 0].tolist() == [0, 0, 1]
    prompt = encode(studio["video_clip"], "wide shot, static, in the desert.")
    out = comfy_nodes.KSampler().sample(model, 1, 2, 1.0, "euler", "simple", prompt, prompt, latent)[0]
    assert video.MultiChunkDecode.execute(out, studio["video_vae"]).args[0].shape[0] == more.frames - 1


def test_video_errors_say_what_to_do(studio: dict[str, Any], pictures: Tensor) -> None:
    none = Timeline.plan(8, 0.6, [])
    for planned, inputs, said in [
        (PLAN, {}, "keyframes: must be 2 images, the timeline's keyframes"),
        (none, {"keyframes": pictures[:1]}, "keyframes: must be 0 images"),
        (none, {}, "width: and height are needed without keyframes"),
        (PLAN, {"keyframes": pictures[:2], "width": 160}, "height: is needed with the other side"),
        (PLAN, {"keyframes": pictures[:2], "width": 160, "height": 72}, "height: must divide by 16"),
        (PLAN, {"keyframes": pictures[:2], "width": 160, "height": 96, "fit": "off"}, "keyframes: must have the size"),
        (PLAN, {"keyframes": pictures[:1]}, "keyframes: must be 2 images.*Rebatch Images joins a list"),
        (PLAN, {"keyframes": pictures[:2], "positive": prompt(drawn(1, 5, 64))}, "positive: must be 128 wide"),
        (PLAN, {"keyframes": pictures[:2], "sigmas": torch.tensor([14.6, 0.0])}, "sigmas: must start at the model's 1"),
        (PLAN, {"keyframes": [pictures[0], pictures[1, :64]]}, "keyframes: must all have one size"),
        (PLAN, {"keyframes": pictures[:2], "cfg": 4.0}, "negative: is needed when cfg is not 1"),
        (
            PLAN,
            {"keyframes": pictures[:2], "sampler_name": "euler_ancestral"},
            "sampler_name: must be a core sampler",
        ),
    ]:
        with pytest.raises(InputError, match=said):
            shoot(studio, planned, **inputs)
    check = video.MultiChunkVideoSampler.validate_inputs
    assert check("euler") is True and check(None) is True
    for name in ("euler_ancestral", "dpmpp_2m_sde", "lcm", "no such sampler"):
        assert "sampler_name: must be a core sampler that adds no noise" in str(check(name))
    with pytest.raises(InputError, match="vae: must be a video VAE"):
        shoot(studio | {"video_vae": studio["vae"]}, PLAN, keyframes=pictures[:2])
    images, _ = shoot(studio, none, width=160, height=80)
    assert images.shape == (none.frames, 80, 160, 3)
