"""Video sampling against loops that are written out: the stock pipeline's, a per-token one, the paper's."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from tiny_video import CHANNELS, EMPTY, FPS, HEIGHT, TEXT, WIDTH, pixels, plan, seed, transformer, video_vae

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.wan.headless import DirectorWan
from anchorshot.models.backbones.wan.vae import VideoVAE
from anchorshot.models.layouts.chunks import mc_index, pad_text
from anchorshot.sampling.flow import flow_sigmas
from anchorshot.sampling.video import Experts, VideoSettings, denoise, plan_video, sample_video
from anchorshot.story.timeline import Timeline


@pytest.fixture(scope="module")
def model() -> DirectorWan:
    return DirectorWan.adopt(transformer())


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    return video_vae()


def stock_latents(experts: list[WanTransformer3DModel], steps: int, guidance: float, **config: float) -> tuple:
    """What diffusers' own WanPipeline samples, and the noise levels it used."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    net = AutoencoderKLWan(base_dim=4, z_dim=CHANNELS, dim_mult=[1, 2, 2, 2], num_res_blocks=1)
    low = experts[1] if len(experts) > 1 else None
    pipeline = WanPipeline(None, None, net, scheduler, experts[0], transformer_2=low, **config)
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        prompt_embeds=TEXT,
        negative_prompt_embeds=EMPTY,
        height=HEIGHT,
        width=WIDTH,
        num_frames=9,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=seed(),
        output_type="latent",
    ).frames
    return latents, scheduler.sigmas


def test_without_keyframes_it_is_the_stock_pipeline(model: DirectorWan) -> None:
    want, sigmas = stock_latents([transformer()], 4, 2.5)
    layout = plan_video(Timeline(FPS, [9]))
    got = denoise(
        model, TEXT, layout, torch.zeros(1, CHANNELS, 0, 2, 4), sigmas, negative=EMPTY, guidance=2.5, generator=seed()
    )
    assert torch.allclose(got, want, atol=1e-4) and want.abs().mean() > 0.1


def test_two_experts_change_over_where_the_stock_pipeline_does(model: DirectorWan) -> None:
    want, sigmas = stock_latents([transformer(), transformer(1)], 5, 2.5, boundary_ratio=0.875)
    experts = Experts(model, DirectorWan.adopt(transformer(1)), boundary=0.875)
    layout, nothing = plan_video(Timeline(FPS, [9])), torch.zeros(1, CHANNELS, 0, 2, 4)
    options = {"negative": EMPTY, "generator": seed()}
    got = denoise(experts, TEXT, layout, nothing, sigmas, guidance=(2.5, 2.5), **options)
    assert torch.allclose(got, want, atol=1e-4)
    assert 0 < (sigmas[:-1] >= 0.875).sum() < 5  # both were asked
    options = {"negative": EMPTY, "generator": seed()}
    assert not torch.allclose(denoise(model, TEXT, layout, nothing, sigmas, guidance=2.5, **options), want, atol=1e-2)


def test_a_first_frame_is_the_stock_per_token_loop(model: DirectorWan, vae: VideoVAE) -> None:
    """Wan 2.2 TI2V's way to condition on a first frame, with the stock network and scheduler."""
    stock, timeline, image = transformer(), plan([0.0], 9 / FPS), pixels(1)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=flow_sigmas(4, 5.0)[:-1].tolist())
    key = vae.encode_image(image)[:, :, None]
    z = torch.randn(1, CHANNELS, 3, 2, 4, generator=seed())
    for t in scheduler.timesteps:
        z[:, :, :1] = key
        tokens = torch.tensor([0.0, t, t]).repeat_interleave(1 * 2)[None]
        with torch.no_grad():
            v = stock(z, tokens, TEXT, return_dict=False)[0]
        z = scheduler.step(v, t, z, return_dict=False)[0]
    z[:, :, :1] = key
    got = sample_video(model, vae, TEXT, timeline, image, settings=VideoSettings(steps=4, shift=5.0), generator=seed())
    assert torch.allclose(got, z, atol=1e-4)


def test_chunks_are_the_paper_s_loop(model: DirectorWan, vae: VideoVAE) -> None:
    """SmartDirector §3.2 written out: clean keyframes at t = 0, the rest at t, MC-RoPE, Euler."""
    timeline, images = plan([0.0, 0.6, 1.3]), pixels(3)
    latents, keys = timeline.latents, timeline.keyframe_latents

    def by_hand(u: torch.Tensor) -> torch.Tensor:
        sigmas = flow_sigmas(3, 4.0)
        z = torch.randn(1, CHANNELS, latents, 2, 4, generator=seed())
        clean = torch.cat([vae.encode_image(image[None])[:, :, None] for image in images], dim=2)
        for t, t_next in zip(sigmas[:-1], sigmas[1:], strict=True):
            z[:, :, keys] = clean
            t_i = torch.tensor([[0.0 if i in keys else float(t) for i in range(latents)]])
            with torch.no_grad():
                v = model(z, None, TEXT, frame_timestep=t_i * 1000, rope_index=u, return_dict=False)[0]
            z = z + (t_next - t) * v
        z[:, :, keys] = clean
        return z

    got = sample_video(model, vae, TEXT, timeline, images, settings=VideoSettings(steps=3, shift=4.0), generator=seed())
    assert torch.allclose(got, by_hand(mc_index(timeline.latent_chunks)), atol=1e-4)
    assert not torch.allclose(got, by_hand(mc_index([latents])), atol=1e-2)


def test_guidance(model: DirectorWan, vae: VideoVAE) -> None:
    timeline, image = plan([0.0]), pixels(1)

    def sample(negative: torch.Tensor | None = None, guidance: float = 1.0) -> torch.Tensor:
        settings = VideoSettings(steps=1, guidance=guidance)
        return sample_video(model, vae, TEXT, timeline, image, settings, generator=seed(), negative=negative)

    plain, empty = (
        sample(),
        sample_video(model, vae, EMPTY, timeline, image, settings=VideoSettings(steps=1), generator=seed()),
    )
    assert torch.equal(sample(negative=EMPTY, guidance=1.0), plain)
    # One Euler step is linear in the velocity, so guidance extrapolates the result itself.
    assert torch.allclose(sample(negative=EMPTY, guidance=3.0), empty + 3 * (plain - empty), atol=1e-4)
    with pytest.raises(InputError, match="negative: is needed when guidance is not 1"):
        sample(guidance=3.0)


def test_text_with_a_mask_is_padded_with_zeros(model: DirectorWan, vae: VideoVAE) -> None:
    timeline, image = plan([0.0], 5 / FPS), pixels(1)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0]])
    cond = SimpleNamespace(tokens=TEXT, mask=mask)
    got = sample_video(
        model, vae, cond, timeline, image, settings=VideoSettings(steps=1, text_length=12), generator=seed()
    )  # type: ignore
    by_hand = torch.cat([TEXT[:, :3], torch.zeros(1, 9, 16)], dim=1)
    assert torch.equal(
        got, sample_video(model, vae, by_hand, timeline, image, settings=VideoSettings(steps=1), generator=seed())
    )
    assert torch.equal(pad_text(TEXT, mask, 12), by_hand)
