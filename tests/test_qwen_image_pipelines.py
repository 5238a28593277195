"""Whole stock pipelines of diffusers against ours, with tiny random parts in fp32: one frame, and the published pair.

A stacked pair is one image of double height, so the stock pipelines can make it: noise, positions, references at t = 0,
schedule with shift and last level, and guidance with norm rescale are theirs.
"""

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from PIL import Image

from anchorshot.models.backbones import find_backbone
from anchorshot.models.backbones.qwen_image.headless import PairQwen
from anchorshot.models.encoders.text_cond import TextCond
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.io.loading import load_vae
from anchorshot.models.layouts.start_end import Segment, frame_ids, patchify
from anchorshot.sampling.flow import euler
from anchorshot.sampling.pairs import PairSettings, pair_noise, rescaled, sample_pair
from tests.test_qwen_image import CONFIG
from tests.test_qwen_image_files import state_of
from tests.tiny_weights import gap, seeded, strong

SHAPE, GRID = (16, 4, 6), (2, 3)  # a frame's latent and its tokens: 32x48 px
STEPS, SHIFT, LAST, GUIDANCE = 3, 2.2, 0.02, 4.0


def transformer(zero=True):
    from diffusers import QwenImageTransformer2DModel

    config = {**CONFIG, "in_channels": 64, "out_channels": 16, "zero_cond_t": zero}
    return strong(QwenImageTransformer2DModel(**config))


def prompt(seed, length=7) -> TextCond:
    tokens = torch.randn(1, length, 24, generator=torch.Generator().manual_seed(seed))
    return TextCond(tokens, torch.ones(1, length, dtype=torch.bool))


POSITIVE, NEGATIVE = prompt(1), prompt(2, 4)


@pytest.fixture(scope="module")
def vae():
    return seeded(AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 1, 2, 2], num_res_blocks=1))


def pictures() -> list[np.ndarray]:
    g = np.random.default_rng(0)
    return [g.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]


def stock(pipeline_class, vae, noise, height, zero=True, **more):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT, shift_terminal=LAST)
    parts = {"vae": vae, "transformer": transformer(zero), "scheduler": scheduler}
    missing = {"text_encoder", "tokenizer", "processor"}
    if pipeline_class is QwenImagePipeline:
        missing.remove("processor")
    pipeline = pipeline_class(**parts, **dict.fromkeys(missing))
    pipeline.set_progress_bar_config(disable=True)
    texts = {"prompt_embeds": POSITIVE.tokens, "negative_prompt_embeds": NEGATIVE.tokens}
    masks = {"prompt_embeds_mask": POSITIVE.mask.long(), "negative_prompt_embeds_mask": NEGATIVE.mask.long()}
    call = {"height": height, "width": 48, "num_inference_steps": STEPS, "true_cfg_scale": GUIDANCE}
    out = pipeline(**texts, **masks, **call, latents=noise, output_type="latent", **more)
    return out.images, pipeline.scheduler.sigmas


def references(vae, tmp_path) -> list[Segment]:
    from safetensors.torch import save_file

    save_file(to_public("wan_vae", state_of(vae)), tmp_path / "vae.safetensors")
    codec = find_backbone("qwen_image").vae.codec()(load_vae("wan_vae", tmp_path / "vae.safetensors"))
    frames = torch.stack([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures()])
    latents = codec.encode_image(frames)
    return [Segment(patchify(z[None]), frame_ids((4, 4), i + 1), clean=True) for i, z in enumerate(latents)]


def test_one_frame_equals_the_stock_pipeline(vae) -> None:
    noise, _ = pair_noise(SHAPE, 1, torch.Generator().manual_seed(5))
    want, sigmas = stock(QwenImagePipeline, vae, noise, 32)
    model = PairQwen.adopt(transformer())

    def velocity_of(text):
        def velocity(x, t):
            with torch.no_grad():
                return model.forward_segments([Segment(x, frame_ids(GRID))], text.tokens, None, torch.full((1,), t))[0]

        return velocity

    velocity = rescaled(velocity_of(POSITIVE), velocity_of(NEGATIVE), GUIDANCE, True)
    assert gap(euler(velocity, noise, sigmas), want) < 1e-5


@pytest.mark.parametrize("zero", [True, False])
def test_the_published_pair_equals_the_stock_editing_pipeline(vae, tmp_path, monkeypatch, zero) -> None:
    monkeypatch.setattr(pipeline_qwenimage_edit_plus, "VAE_IMAGE_SIZE", 64 * 64)
    noise = torch.cat(pair_noise(SHAPE, 1, torch.Generator().manual_seed(5)), 1)
    shown = [Image.fromarray(p) for p in pictures()]
    want, sigmas = stock(QwenImageEditPlusPipeline, vae, noise, 64, zero, image=shown)
    settings = PairSettings(STEPS, SHIFT, LAST, GUIDANCE)
    assert gap(settings.schedule, sigmas) < 1e-6
    model = PairQwen.adopt(transformer(zero))
    start, end = sample_pair(
        model,
        POSITIVE,
        SHAPE,
        references(vae, tmp_path),
        settings,
        torch.Generator().manual_seed(5),
        negative=NEGATIVE,
    )
    assert gap(torch.cat([patchify(start), patchify(end)], 1), want) < 1e-5
