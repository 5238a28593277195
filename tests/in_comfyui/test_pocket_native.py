"""Small studios as ComfyUI's own objects: what core nodes get out of them is what the headless studio computes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import latent_preview
import pytest
import torch
from in_comfyui.tiny_wan import VAE, noise, relative, vae_file
from safetensors.torch import load_file, save_file
from torch import Tensor

from anchorshot.comfyui.video import chunk_vae
from anchorshot.core.errors import InputError
from anchorshot.memory.golden_mem import resize_context
from anchorshot.models.backbones.flux.native import sample_native as sample_pairs
from anchorshot.models.backbones.wan.native import patch_video, sample_native
from anchorshot.models.backbones.wan.vae import VideoVAE
from anchorshot.models.io.loading import load_transformer, load_vae
from anchorshot.models.layouts.chunks import pad_text, plan_video
from anchorshot.models.layouts.pairs import PairSettings, pack_latent, pair_ids, unpack_latent
from anchorshot.models.layouts.video_latents import decode_frames, multi_chunk_video
from anchorshot.models.studio import Studio, load_studio
from anchorshot.pocket import native
from anchorshot.pocket.bank import picture_bank, to_tensor
from anchorshot.pocket.native_studio import NativeStudio
from anchorshot.sampling.flow import flow_sigmas
from anchorshot.sampling.keyframes import ContextFrame, KeyframeSettings, sample_keyframes
from anchorshot.sampling.video import VideoSettings, decode_video, sample_video
from anchorshot.story.timeline import Timeline

CAPTIONS = [
    "wide shot, static, in the desert. <Mira>, a yellow square with a crown, waves on the left.",
    "<Pip>'s (a pink circle with a bow) stands on the right.",
    "<Zed> embedding:x (walks:1.4)",
    "",
]
STUDIOS = ["tiny", "pocket"]


@pytest.fixture(scope="module", params=STUDIOS)
def studios(request, tiny_studio) -> tuple[NativeStudio, Studio]:
    name = tiny_studio if request.param == "tiny" else "pocket"
    return NativeStudio(name), load_studio(name)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """IMAGE [4, 80, 160, 3] of the pocket world."""
    return to_tensor(picture_bank(4, "test")).movedim(1, -1)


# --- VAE -----------------------------------------------------------------------------------------------------------


def test_vae_for_video_and_for_pictures(studios, images) -> None:
    made, expected = studios
    codec = expected.video_vae
    pictures, pixels = made.image_vae, images.movedim(-1, -3)
    z = pictures.encode(images)
    assert z.shape == (4, 16, 10, 20) and relative(z, codec.encode_image(pixels)) < 1e-4
    assert torch.allclose(pictures.decode(z), codec.decode_image(z).movedim(-3, -1), atol=1e-4)
    video = made.video_vae
    clip = torch.cat([images, images[:1]])
    z = video.encode(clip)  # five pictures are one clip of two latents
    assert z.shape == (1, 16, 2, 10, 20)
    assert relative(z, codec.encode_chunks(clip.movedim(-1, -3)[None], [5])) < 1e-4
    frames = torch.cat(list(codec.decode_chunks(z, [2])), dim=1).movedim(-3, -1)
    assert torch.allclose(video.decode(z), frames, atol=1e-4)
    assert torch.allclose(video.decode(z[:, :, 0]), pictures.decode(z[:, :, 0]))  # pictures' latents decode too
    assert pictures.patcher is video.patcher and pictures.latent_dim == 2 and video.latent_dim == 3


def test_statistics_normalise_and_stay_out_of_the_file(tmp_path, images) -> None:
    path = vae_file(tmp_path)
    made = native.load_video_vae(path).for_images()
    headless = VideoVAE(load_vae("wan_vae", path))
    assert VAE["latents_std"][0] != 1
    assert relative(made.encode(images), headless.encode_image(images.movedim(-1, -3))) < 1e-4
    saved = {key: tensor for key, tensor in made.get_sd().items()}
    assert saved.keys() == load_file(path).keys()


@torch.inference_mode()
def test_tiled_decoding_keeps_size_and_range(tmp_path) -> None:
    """Core's fallback when memory runs out."""
    made = native.load_video_vae(vae_file(tmp_path))
    z = noise(1, 16, 2, 8, 12)
    frames = made.decode_tiled(z, tile_x=8, tile_y=8, overlap=2)
    assert frames.shape == (1, 5, 64, 96, 3) and 0 <= frames.min() and frames.max() <= 1
    assert made.for_images().decode_tiled(z[:, :, 0], tile_x=8, tile_y=8, overlap=2).shape == (1, 64, 96, 3)


def test_making_a_vae_warns_about_nothing(tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        native.load_video_vae(vae_file(tmp_path))
    assert not caplog.records


# --- CLIP and CLIP_VISION ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caption", CAPTIONS)
def test_keyframe_text(studios, caption) -> None:
    """T5 states at their real length and pooled CLIP text; parentheses are text."""
    made, expected = studios
    clip = made.keyframe_clip
    tokens, pooled = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
    text = expected.keyframe_text.encode([caption])
    assert tokens.shape == text.tokens.shape and relative(tokens, text.tokens) < 1e-4
    assert relative(pooled, text.pooled) < 1e-4


@pytest.mark.parametrize("caption", CAPTIONS)
def test_video_text(studios, caption) -> None:
    """Filled up with zeros as the headless studio does it."""
    made, expected = studios
    clip, length = made.video_clip, expected.defaults.video.text_length
    tokens = clip.encode_from_tokens(clip.tokenize(caption))
    text = expected.video_text.encode([caption])
    wanted = pad_text(text.tokens, text.mask, length)
    assert tokens.shape == wanted.shape and relative(tokens, wanted) < 1e-4


def test_video_text_is_padded_and_cut(tiny_studio) -> None:
    path = tiny_studio.parent / "t5.safetensors"
    expected = load_studio(tiny_studio).video_text.encode(CAPTIONS[:1])
    for length in (8, 64):
        clip = native.load_video_clip(path, length)
        tokens = clip.encode_from_tokens(clip.tokenize(CAPTIONS[0]))
        wanted = pad_text(expected.tokens, expected.mask, length)
        assert tokens.shape == (1, length, 128) and relative(tokens, wanted) < 1e-4


def test_names_are_told(studios) -> None:
    made, expected = studios
    assert made.names == expected.keyframe_text.names and made.names[0].lower() == "mira"


def test_retrieval_embeddings(studios, images) -> None:
    """Pictures and text in one space, as the headless scorer has them; core rounds pixels to 8 bits, hence 2 %."""
    made, expected = studios
    clip = made.retrieval_clip
    for caption in CAPTIONS[:2]:
        _, pooled = clip.encode_from_tokens(clip.tokenize(caption), return_pooled=True)
        unit = torch.nn.functional.normalize(pooled, dim=-1)
        assert relative(unit, expected.clip.embed_texts([caption])) < 1e-4
    found = made.clip_vision.encode_image(images)["image_embeds"]
    unit = torch.nn.functional.normalize(found, dim=-1)
    assert relative(unit, expected.clip.embed_images(images.movedim(-1, -3))) < 2e-2


# --- MODEL ---------------------------------------------------------------------------------------------------------


def test_keyframe_model_equals_headless(studios) -> None:
    """One forward of the Flux class; the pocket's file is scaled fp8."""
    made, expected = studios
    z, text, pooled = noise(1, 16, 10, 20), noise(1, 9, 128, seed=1), noise(1, 32, seed=2)
    model = made.keyframe.model
    with torch.no_grad():
        found = model.apply_model(z, torch.tensor([0.6]), c_crossattn=text, y=pooled)
        ids = pair_ids(9, (5, 10), 0, None)
        velocity = expected.keyframe(
            hidden_states=pack_latent(z),
            timestep=torch.tensor([0.6]),
            encoder_hidden_states=text,
            pooled_projections=pooled,
            txt_ids=ids[:9],
            img_ids=ids[9:],
            return_dict=False,
        )[0]
    wanted = z - 0.6 * unpack_latent(velocity, (5, 10))
    assert relative(found - z, wanted - z) < 1e-4


def test_guided_keyframe_model(tmp_path) -> None:
    """A file with guidance becomes the FLUX.1-dev class, with the same schedule shift."""
    from diffusers import FluxTransformer2DModel

    from anchorshot.models.io.keymaps import to_public
    from anchorshot.pocket.configs import KEYFRAME

    config = KEYFRAME | {"guidance_embeds": True, "num_layers": 1, "num_single_layers": 1}
    state = to_public("flux", FluxTransformer2DModel(**config).state_dict())
    path = tmp_path / "flux.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, path, metadata={"config": json.dumps(config)})
    for shift in (1.0, 3.0):
        model = native.load_keyframe_model(path, shift)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 5)
        assert torch.allclose(sigmas, flow_sigmas(5, shift), atol=2e-3)
        assert model.model.diffusion_model.params.guidance_embed


def test_schedules_are_the_studio_s(studios) -> None:
    made, expected = studios
    for model, shift in (
        (made.keyframe, expected.defaults.keyframe.shift),
        (made.video, expected.defaults.video.shift),
    ):
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 20)
        assert torch.allclose(sigmas, flow_sigmas(20, shift), atol=1e-5)


def test_a_keyframe_equals_headless(studios, images) -> None:
    """A whole run with the studio's steps, from captions and remembered pictures to the latent."""
    made, expected = studios
    defaults, codec = expected.defaults.keyframe, expected.image_vae
    clip = made.keyframe_clip
    new, *earlier = (clip.encode_from_tokens_scheduled(clip.tokenize(caption)) for caption in CAPTIONS[:3])
    sizes = [(80, 160), (48, 96)]  # a full frame, and one a tier further back
    small = [resize_context(picture[None].movedim(-1, 1), size) for picture, size in zip(images, sizes, strict=False)]
    found = sample_pairs(
        made.keyframe,
        [new],
        [torch.zeros(1, 16, 10, 20)],
        [ContextFrame(made.image_vae.encode(p.movedim(1, -1)), text) for p, text in zip(small, earlier, strict=True)],
        None,
        PairSettings(context_noise=0.1),
        sigmas=scheduled(made.keyframe, defaults.steps),
        seed=5,
        disable_pbar=True,
    )
    texts = expected.keyframe_text.encode(CAPTIONS[:3]).rows()
    wanted = sample_keyframes(
        expected.keyframe,
        texts[:1],
        (16, 10, 20),
        [ContextFrame(codec.encode_image(p), text) for p, text in zip(small, texts[1:], strict=True)],
        KeyframeSettings(defaults.steps, 1.0 if defaults.shift is None else defaults.shift, context_noise=0.1),
        torch.Generator().manual_seed(5),
    )
    error = relative(made.keyframe.model.process_latent_in(found[0]), wanted[0])
    print(f"keyframe latent after {defaults.steps} steps: relative error {error:.1e}")
    assert error < 1e-4


def scheduled(model: Any, steps: int) -> Tensor:
    """The sigmas that core's samplers and our nodes take from the model."""
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)


def test_a_shot_equals_headless(studios, images) -> None:
    """Captions in, frames out, through VAE, CLIP and MODEL: a whole run with keyframes."""
    made, expected = studios
    timeline = Timeline.plan(8, 1.125, [0.0, 0.5])
    video = multi_chunk_video(chunk_vae(made.video_vae), timeline, images[:2])
    clip, defaults = made.video_clip, expected.defaults.video
    positive = clip.encode_from_tokens_scheduled(clip.tokenize(CAPTIONS[0]))
    sigmas = scheduled(made.video, defaults.steps)
    latent = sample_native(
        patch_video(made.video, video), positive, positive, video.latent, sigmas, seed=5, disable_pbar=True
    )
    wanted = sample_video(
        expected.video,
        expected.video_vae,
        expected.video_text.encode(CAPTIONS[:1]),
        timeline,
        images[:2].movedim(-1, -3),
        settings=VideoSettings(steps=defaults.steps, shift=defaults.shift, text_length=defaults.text_length),
        generator=torch.Generator().manual_seed(5),
    )
    error = relative(latent["samples"], wanted)
    print(f"video latent after {defaults.steps} steps: relative error {error:.1e}")
    assert error < 1e-4
    frames = decode_frames(chunk_vae(made.video_vae), latent)
    headless = torch.cat(list(decode_video(expected.video_vae, wanted, plan_video(timeline))), dim=1)
    assert torch.allclose(frames, headless[0].movedim(-3, -1), atol=1e-2)


def test_previews_show_the_picture(images) -> None:
    """The fitted map explains most of a picture it has not seen, and core's previewer draws with it."""
    made = NativeStudio("pocket")
    z = made.image_vae.encode(images)
    factors, bias = native.preview_factors(made.image_vae)
    found = z.movedim(1, -1) @ factors + bias
    wanted = torch.nn.functional.interpolate(images.movedim(-1, 1) * 2 - 1, size=z.shape[-2:], mode="area")
    wanted = wanted.movedim(1, -1)
    unexplained = (found - wanted).square().mean() / (wanted - wanted.mean((0, 1, 2))).square().mean()
    assert unexplained < 0.5
    for model, x0 in ((made.keyframe, z[:1]), (made.video, z[:1, :, None])):
        previewer = latent_preview.Latent2RGBPreviewer(
            model.model.latent_format.latent_rgb_factors, model.model.latent_format.latent_rgb_factors_bias
        )
        assert previewer.decode_latent_to_preview(x0).size == (20, 10)


def test_core_sampling_and_weight_patches_work(tiny_studio) -> None:
    """KSampler's way, with a patched weight as a LoRA makes it, and without."""
    model = NativeStudio(tiny_studio).video
    latent, text = torch.zeros(1, 16, 2, 4, 6), [[noise(1, 5, 128), {}]]
    key = "diffusion_model.blocks.0.self_attn.q.weight"
    tuned = model.clone()
    tuned.add_patches({key: ("diff", (noise(160, 160),))})

    def run(patcher) -> Tensor:
        start = comfy.sample.prepare_noise(latent, 1)
        options = {"disable_pbar": True, "seed": 1}
        return comfy.sample.sample(patcher, start, 2, 1.0, "euler", "simple", text, text, latent, **options)

    with torch.no_grad():
        before = run(model)
        assert relative(run(tuned), before) > 1e-4
        assert torch.equal(run(model), before)


# --- clear errors --------------------------------------------------------------------------------------------------


def damaged(source: Path, target: Path, **changes) -> Path:
    """A copy of a file with tensors replaced, or removed where the value is None, and its metadata."""
    from safetensors import safe_open

    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    state = {**load_file(source), **{key.replace("__", "."): value for key, value in changes.items()}}
    save_file({k: v for k, v in state.items() if v is not None}, target, metadata=metadata)
    return target


def test_broken_files(tiny_studio, tmp_path) -> None:
    folder, target = tiny_studio.parent, tmp_path / "broken.safetensors"
    video = folder / "video.safetensors"
    with pytest.raises(InputError, match="broken.safetensors: tensors must be complete .*head.head.bias"):
        native.load_video_model(damaged(video, target, head__head__bias=None))
    with pytest.raises(InputError, match="file must hold a wan model"):
        native.load_video_model(damaged(video, target, head__modulation=None, patch_embedding__weight=None))
    with pytest.raises(InputError, match="tensors must all belong .*extra"):
        native.load_video_model(damaged(video, target, extra=torch.zeros(1)))
    with pytest.raises(InputError, match="shapes of the configuration"):
        native.load_video_model(damaged(video, target, head__head__bias=torch.zeros(3)))
    with pytest.raises(InputError, match="must be finite .*head.head.bias"):
        native.load_video_model(damaged(video, target, head__head__bias=torch.full((64,), torch.nan)))
    with pytest.raises(InputError, match="file must hold a flux model"):
        native.load_keyframe_model(video)
    with pytest.raises(InputError, match="open_clip's names"):
        native.load_clip_vision(video)
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(folder / "t5.safetensors"), bare)
    with pytest.raises(InputError, match="needs its tokenizer"):
        native.load_video_clip(bare)
    with pytest.raises(InputError, match="patches of 2"):
        native.load_video_vae(vae_file(tmp_path, VAE | {"patch_size": None, "in_channels": 3, "out_channels": 3}))


def test_studios_without_files(tiny_studio, tmp_path) -> None:
    with pytest.raises(InputError, match="ComfyUI's own loaders"):
        _ = NativeStudio("flux-wan").video
    lost = tmp_path / "lost.yaml"
    lost.write_text(tiny_studio.read_text())
    with pytest.raises(InputError, match="video.file: file must exist"):
        _ = NativeStudio(lost).video


def test_transformer_files_are_those_of_the_headless_loader(tiny_studio) -> None:
    """The same file gives the same weights on both hosts."""
    path = tiny_studio.parent / "video.safetensors"
    ours = native.load_video_model(path).model.diffusion_model.patch_embedding.weight
    assert torch.equal(ours, load_transformer("wan", path).patch_embedding.weight)
