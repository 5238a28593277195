"""Mochi: our loop equals the stock pipeline, masks never make padding live, and a story runs on it."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d
from transformers import T5Config, T5EncoderModel

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.mochi.headless import ChunkMochi
from anchorshot.models.backbones.mochi.spec import MOCHI_1
from anchorshot.models.backbones.mochi.vae import MochiVAE
from anchorshot.models.encoders.text import TextCond, TextEncoder
from anchorshot.models.encoders.tokenizer import JsonTokenizer
from anchorshot.models.layouts.chunks import VideoSettings, latent_length
from anchorshot.pocket.tokenizer import build_tokenizer
from anchorshot.sampling.text2story.prompt_mixing import mix
from anchorshot.sampling.text2story.segments import PromptPair, StorySampler, StorySettings
from anchorshot.sampling.text2story.text_to_video import TextToVideoModel

T, D = 32, 32
NEGATIVE = ""


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    """A real T5 of random weights with the pocket tokenizer."""
    torch.manual_seed(2)
    tokenizer = build_tokenizer()
    sizes = {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    model = T5EncoderModel(T5Config(vocab_size=tokenizer.get_vocab_size(), d_model=D, **sizes))
    for parameter in model.parameters():  # as initialised, attention hardly matters
        parameter.data = torch.randn_like(parameter) * 0.3 + (parameter.ndim == 1)
    return TextEncoder(model, JsonTokenizer(tokenizer.to_str()))


@pytest.fixture(scope="module")
def transformer() -> MochiTransformer3DModel:
    torch.manual_seed(0)
    model = MochiTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=3,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=D,
        time_embed_dim=16,
        max_sequence_length=T,
    ).eval()
    with torch.no_grad():  # as initialised it hardly reads its text
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(2.0 if "attn" in name else 1.5)
    return model


@pytest.fixture(scope="module")
def vae() -> MochiVAE:
    torch.manual_seed(1)
    widths = (32, 32, 32, 32)
    model = AutoencoderKLMochi(
        latent_channels=12,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
        layers_per_block=(1, 1, 1, 1, 1),
    )
    return MochiVAE(model.eval())


def story(
    transformer: MochiTransformer3DModel, vae: MochiVAE, encoder: TextEncoder, guidance: float = 4.5
) -> TextToVideoModel:
    settings = VideoSettings(steps=6, guidance=guidance)
    return TextToVideoModel(MOCHI_1, ChunkMochi.adopt(transformer), vae, encoder, 13, (64, 64), settings)


def padded(cond: TextCond) -> tuple[torch.Tensor, torch.Tensor]:
    missing = T - cond.tokens.shape[1]
    pad = torch.nn.functional.pad
    return pad(cond.tokens, (0, 0, 0, missing)), pad(cond.mask, (0, missing))


@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_our_loop_is_the_stock_pipeline(transformer, vae, encoder, guidance: float) -> None:
    model = story(transformer, vae, encoder, guidance=guidance)
    text, empty = model.encode(["Mira waves on the left"]), model.encode([NEGATIVE])
    ours = model.denoise(lambda t: text, 1, torch.Generator().manual_seed(5))
    noise = torch.randn(1, 12, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    scheduler = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    pipe = MochiPipeline(scheduler, vae.model, None, None, transformer)
    pipe.set_progress_bar_config(disable=True)
    states, mask = padded(text)
    nothing, nothing_mask = padded(empty)
    stock = pipe(
        height=64,
        width=64,
        num_frames=13,
        num_inference_steps=6,
        guidance_scale=guidance,
        latents=noise.clone(),
        prompt_embeds=states,
        prompt_attention_mask=mask,
        negative_prompt_embeds=nothing,
        negative_prompt_attention_mask=nothing_mask,
        output_type="latent",
    ).frames
    assert (ours - noise).abs().mean() > 0.1
    torch.testing.assert_close(ours, stock, atol=2e-4, rtol=1e-4)


def test_padding_stays_dead(transformer, vae, encoder) -> None:
    """Whatever stands at masked positions, a mixed prompt gives the same video; what the mask shows does count."""
    model = story(transformer, vae, encoder, guidance=1.0)
    scene, action = (
        model.encode(["a fox in a wide green wood", "a bear"]),
        model.encode(["runs", "it sleeps in a cave"]),
    )
    cut = max(scene.tokens.shape[1], action.tokens.shape[1])
    weights = torch.tensor([[0.8, 0.2], [0.3, 0.7]])

    def filled(cond: TextCond, value: float) -> TextCond:
        missing = cut - cond.tokens.shape[1]
        mask = torch.nn.functional.pad(cond.mask, (0, missing))
        tokens = torch.nn.functional.pad(cond.tokens, (0, 0, 0, missing))
        return TextCond(torch.where(mask[..., None], tokens, torch.full_like(tokens, value)), mask)

    def run(text: TextCond) -> torch.Tensor:
        return model.denoise(lambda t: text, 2, torch.Generator().manual_seed(0))

    mixed = mix(filled(scene, 0.0), filled(action, 0.0), weights)
    assert mixed.lengths == [scene.lengths[0], action.lengths[1]] != action.lengths  # the dominant prompt's tokens
    noisy = mixed.tokens.clone()
    noisy[~mixed.mask] = 7.0
    dead = run(TextCond(noisy, mixed.mask))
    torch.testing.assert_close(run(mixed), dead, atol=1e-5, rtol=0)
    live = mixed.tokens.clone()
    live[0, 1] = 7.0
    assert (run(TextCond(live, mixed.mask)) - dead)[0].abs().max() > 1e-3


def test_a_story_of_two_segments(transformer, vae, encoder) -> None:
    model = story(transformer, vae, encoder)
    sampler = StorySampler(model, StorySettings(gamma=0.5, semantic=False))
    pairs = [
        PromptPair(["a red square in the forest"], ["a red square walks"]),
        PromptPair(["a red square in the town"], ["a red square jumps"]),
    ]
    made = sampler.story(pairs, [torch.Generator().manual_seed(i) for i in range(2)])
    plain = StorySampler(model, StorySettings(dipw=None, gamma=0.0)).story(
        pairs, [torch.Generator().manual_seed(i) for i in range(2)]
    )

    def gap(films) -> float:
        return float((films[0].latents[:, :, -1] - films[1].latents[:, :, 0]).abs().mean())

    assert gap(made) < gap(plain)
    assert [len(segment.record) for segment in made] == [6, 6]
    (frames,) = model.decode(made[1].latents)
    assert frames.shape == (1, 13, 3, 64, 64) and 0 <= frames.min() and frames.max() <= 1


def test_equal_prompts_are_the_plain_sampler(transformer, vae, encoder) -> None:
    model = story(transformer, vae, encoder)
    pair = PromptPair(["a red square walks in the town"], ["a red square walks in the town"])
    mixed = StorySampler(model, StorySettings(gamma=0.0, semantic=False))
    plain = StorySampler(model, StorySettings(dipw=None, gamma=0.0, semantic=False))
    first, second = (s.segment(pair, generator=torch.Generator().manual_seed(0)).latents for s in (mixed, plain))
    assert torch.equal(first, second)


def test_latents_are_the_transformer_s(vae) -> None:
    """Scaled by the config's statistics; a picture is a video of one frame."""
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    z = vae.encode_image(picture)
    raw = vae.model.encode(picture[:, :, None] * 2 - 1).latent_dist.mode()
    config = vae.model.config
    mean, std = (torch.tensor(v).view(1, 12, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    torch.testing.assert_close(z[:, :, None], (raw - mean) * config.scaling_factor / std, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(vae.decode_image(z), vae.decode_video(z[:, :, None])[:, 0])


def test_decoding_goes_through_time(vae) -> None:
    """Parts of a video are those of the whole one, and past its first frames diffusers' own decoder agrees."""
    z = torch.randn(2, 12, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    parts = list(MochiVAE(vae.model, pixels_per_call=1).decode_stream(z))
    assert [part.shape[1] for part in parts] == [1, 6, 6, 6, 6]
    whole = vae.decode_video(z)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)
    with torch.no_grad():
        stock = vae.model.decode(z * vae._std + vae._mean).sample.movedim(1, 2) / 2 + 0.5
    apart = (whole - stock.clamp(0, 1)).abs().amax((0, 2, 3, 4))
    assert apart[19:].max() < 1e-4 < 0.05 < apart[0]  # it lets the first frame look at frames that it drops


def test_a_convolution_without_a_past_keeps_none(vae) -> None:
    """One that sees its own frame alone leaves the parts of a video what they are in the whole."""
    model = AutoencoderKLMochi.from_config(vae.model.config)
    model.load_state_dict(vae.model.state_dict())
    for block in (*model.decoder.block_in.resnets, *model.decoder.block_out.resnets):
        width = block.conv1.conv.in_channels
        block.conv1 = CogVideoXCausalConv3d(width, block.conv1.conv.out_channels, (1, 3, 3), pad_mode="replicate")
        assert block.conv1.time_pad == 0
    z = torch.randn(1, 12, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    parts = list(MochiVAE(model, pixels_per_call=1).decode_stream(z))
    assert [part.shape[1] for part in parts] == [1, 6, 6]
    torch.testing.assert_close(torch.cat(parts, 1), MochiVAE(model).decode_video(z), atol=1e-5, rtol=0)


def test_lengths_and_given_frames_are_refused(transformer, vae, encoder) -> None:
    assert [latent_length(n, stride=6) for n in (1, 7, 163)] == [1, 2, 28]
    for frames, near in ((0, "use 1"), (8, "use 7"), (17, "use 13 or 19")):
        with pytest.raises(InputError, match=near):
            latent_length(frames, stride=6)
    model = story(transformer, vae, encoder)
    text = model.encode(["a red square"])
    with pytest.raises(InputError, match="clean_latents: must be empty: Mochi takes text alone"):
        model.denoise(lambda t: text, 1, None, clean_latents=torch.zeros(1, 12, 1, 8, 8))
