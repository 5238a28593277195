"""Public checkpoint names ↔ diffusers names: exact both ways, at the published and at pocket sizes."""

import json

import diffusers.loaders.single_file_utils as stock
import pytest
import torch
from diffusers import (
    AutoencoderKLMochi,
    AutoencoderKLWan,
    FluxTransformer2DModel,
    MochiTransformer3DModel,
    WanTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.wan.vae_keymap import WAN22_STATISTICS
from anchorshot.models.io.keymaps import detect_kind, from_public, infer_config, is_public, to_public

POCKET_FLUX = dict(
    in_channels=64,
    num_layers=2,
    num_single_layers=6,
    attention_head_dim=40,
    num_attention_heads=4,
    joint_attention_dim=128,
    pooled_projection_dim=32,
    guidance_embeds=False,
    axes_dims_rope=(8, 16, 16),
)
POCKET_WAN = dict(
    num_attention_heads=4,
    attention_head_dim=40,
    in_channels=16,
    out_channels=16,
    text_dim=128,
    freq_dim=128,
    ffn_dim=480,
    num_layers=5,
    rope_max_seq_len=64,
)
VAE21 = dict(base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True])
VAE22 = dict(
    base_dim=8,
    decoder_base_dim=12,
    z_dim=16,
    dim_mult=[1, 2, 2],
    num_res_blocks=1,
    patch_size=2,
    temperal_downsample=[True, True],
    is_residual=True,
    in_channels=12,
    out_channels=12,
    latents_mean=[0.0] * 16,
    latents_std=[1.0] * 16,
    scale_factor_spatial=8,
)
MOCHI = dict(
    num_attention_heads=2,
    attention_head_dim=12,
    num_layers=3,
    pooled_projection_dim=20,
    in_channels=12,
    text_embed_dim=16,
    time_embed_dim=8,
)
MOCHI_VAE = dict(
    encoder_block_out_channels=(32, 64, 96, 128),
    decoder_block_out_channels=(32, 64, 64, 96),
    layers_per_block=(1, 2, 1, 3, 2),
)
T5_SIZES = dict(vocab_size=64, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu")

MODELS = {
    "flux": (FluxTransformer2DModel, POCKET_FLUX, "flux"),
    "flux with guidance": (FluxTransformer2DModel, {**POCKET_FLUX, "guidance_embeds": True}, "flux"),
    "wan": (WanTransformer3DModel, POCKET_WAN, "wan"),
    "wan with image embedder": (
        WanTransformer3DModel,
        {**POCKET_WAN, "image_dim": 24, "added_kv_proj_dim": 160, "pos_embed_seq_len": 6},
        "wan",
    ),
    "wan vae 2.1": (AutoencoderKLWan, VAE21, "wan_vae"),
    "wan vae 2.2": (AutoencoderKLWan, VAE22, "wan_vae"),
    "mochi": (MochiTransformer3DModel, MOCHI, "mochi"),
    "mochi vae": (AutoencoderKLMochi, MOCHI_VAE, "mochi_vae"),
}


def random_state(cls, config, seed=0):
    """A random state dict in which no two elements are equal by construction, so a swapped part shows."""
    torch.manual_seed(seed)
    state = cls(**config).state_dict()
    return {k: torch.randn(v.shape) for k, v in state.items()}


def on_meta(cls, config):
    with torch.device("meta"):
        return cls(**config).state_dict()


def assert_same(a, b):
    assert set(a) == set(b)
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", MODELS)
def test_round_trip_is_exact(name):
    cls, config, kind = MODELS[name]
    state = random_state(cls, config)
    public = to_public(kind, state)
    assert is_public(kind, public) and not is_public(kind, state)
    assert detect_kind(public) == kind and detect_kind(state) == kind
    assert_same(from_public(kind, public), state)
    assert_same(to_public(kind, from_public(kind, public)), public)


@pytest.mark.parametrize("name", MODELS)
def test_parts_share_no_memory(name):
    """safetensors and layerwise casting need tensors of their own storage."""
    cls, config, kind = MODELS[name]
    tensors = from_public(kind, to_public(kind, random_state(cls, config))).values()
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)
    assert all(t.is_contiguous() for t in tensors)


def test_flux_equals_diffusers_converter_at_its_width():
    """diffusers' converter is written for width 3072; one block of each kind at that width."""
    config = {
        **POCKET_FLUX,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 128,
        "num_attention_heads": 24,
        "axes_dims_rope": (16, 56, 56),
        "guidance_embeds": True,
    }
    meta = on_meta(FluxTransformer2DModel, config)
    generator = torch.Generator().manual_seed(0)
    # One random row value per output row is enough to see order; full random matrices would be gigabytes.
    rows = {k: torch.rand(v.shape[0], *[1] * (v.ndim - 1), generator=generator) for k, v in meta.items()}
    state = {k: v.expand(meta[k].shape) for k, v in rows.items()}
    public = to_public("flux", state)
    theirs = stock.convert_flux_transformer_checkpoint_to_diffusers(dict(public))
    assert set(theirs) == set(state)
    for key, tensor in theirs.items():
        assert torch.equal(tensor, state[key]), key


def test_flux_fused_and_swapped_parts_at_pocket_width():
    state = random_state(FluxTransformer2DModel, POCKET_FLUX)
    public = to_public("flux", state)
    # The swap of (shift, scale), the one place where values move.
    shift, scale = public["final_layer.adaLN_modulation.1.weight"].chunk(2)
    assert torch.equal(torch.cat([scale, shift]), state["norm_out.linear.weight"])
    rows = public["single_blocks.3.linear1.bias"].split([160, 160, 160, 640])
    names = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"]
    for name, part in zip(names, rows, strict=True):
        assert torch.equal(part, state[f"single_transformer_blocks.3.{name}.bias"])


@pytest.mark.parametrize("name", ["wan", "wan with image embedder"])
def test_wan_equals_diffusers_converter(name):
    cls, config, kind = MODELS[name]
    state = random_state(cls, config)
    public = to_public(kind, state)
    position = public.pop("img_emb.emb_pos", None)  # the converter has no name for it
    theirs = stock.convert_wan_transformer_to_diffusers(dict(public))
    if position is not None:
        theirs["condition_embedder.image_embedder.pos_embed"] = position
    assert_same(theirs, state)


def test_mochi_equals_diffusers_converter():
    """diffusers' converter is written for 48 blocks."""
    state = random_state(MochiTransformer3DModel, {**MOCHI, "num_layers": 48})
    assert_same(stock.convert_mochi_transformer_checkpoint_to_diffusers(dict(to_public("mochi", state))), state)


@pytest.mark.parametrize("name", ["mochi", "mochi vae"])
def test_mochi_sizes_are_in_the_shapes(name):
    """Also unusual ones: nothing is left to a config but the latent statistics of another number of channels."""
    cls, config, kind = MODELS[name]
    inferred = infer_config(kind, to_public(kind, on_meta(cls, config)))
    with torch.device("meta"):
        ours, given = (
            {k: list(v) if isinstance(v, tuple) else v for k, v in cls(**arguments).config.items() if k[0] != "_"}
            for arguments in (inferred, config)
        )
    assert ours == given


def test_mochi_vae_in_two_files():
    """genmo's decoder.safetensors and encoder.safetensors say nowhere which side they are."""
    state = random_state(AutoencoderKLMochi, MOCHI_VAE)
    public = to_public("mochi_vae", state)
    sides = {side: {k[8:]: v for k, v in public.items() if k.startswith(side)} for side in ("encoder.", "decoder.")}
    for part in sides.values():
        assert detect_kind(part) == "mochi_vae" and is_public("mochi_vae", part)
    decoder = from_public("mochi_vae", sides["decoder."])
    assert_same(decoder, {k: v for k, v in state.items() if k.startswith("decoder.")})
    assert infer_config("mochi_vae", sides["decoder."])["temporal_expansions"] == [1, 2, 3]
    for call in (from_public, infer_config):
        with pytest.raises(InputError, match="must hold a decoder.*an encoder alone"):
            call("mochi_vae", sides["encoder."])


def test_wan_vae_21_equals_diffusers_converter():
    state = random_state(AutoencoderKLWan, VAE21)
    assert_same(stock.convert_wan_vae_to_diffusers(dict(to_public("wan_vae", state))), state)


def test_wan_vae_22_names():
    """The published Wan 2.2 names: residual stages inside stages."""
    public = to_public("wan_vae", random_state(AutoencoderKLWan, VAE22))
    for key in (
        "encoder.downsamples.0.downsamples.0.residual.2.weight",
        "encoder.downsamples.0.downsamples.1.resample.1.bias",
        "encoder.downsamples.1.downsamples.1.time_conv.weight",
        "encoder.downsamples.1.downsamples.0.shortcut.weight",
        "decoder.upsamples.0.upsamples.1.residual.6.bias",
        "decoder.upsamples.1.upsamples.2.resample.1.weight",
        "decoder.head.2.weight",
        "decoder.middle.1.to_qkv.weight",
        "conv1.bias",
        "conv2.weight",
    ):
        assert key in public, key


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model."])
def test_prefix_of_all_in_one_checkpoints(prefix):
    state = random_state(FluxTransformer2DModel, POCKET_FLUX)
    public = {prefix + k: v for k, v in to_public("flux", state).items()}
    public["vae.encoder.conv_in.weight"] = torch.zeros(1)
    assert detect_kind(public) == "flux"
    assert_same(from_public("flux", public), state)


def test_norm_scale_and_weight_are_both_read():
    state = random_state(FluxTransformer2DModel, POCKET_FLUX)
    public = to_public("flux", state)
    assert "single_blocks.0.norm.query_norm.scale" in public
    assert_same(from_public("flux", {k.replace("_norm.scale", "_norm.weight"): v for k, v in public.items()}), state)


PUBLISHED = {
    "FLUX.1-dev": (FluxTransformer2DModel, dict(guidance_embeds=True), "flux", 780),
    "FLUX.1-schnell": (FluxTransformer2DModel, dict(guidance_embeds=False), "flux", 776),
    "Wan 2.2 TI2V 5B": (
        WanTransformer3DModel,
        dict(num_attention_heads=24, num_layers=30, ffn_dim=14336, in_channels=48, out_channels=48),
        "wan",
        825,
    ),
    "Wan 2.2 T2V A14B": (WanTransformer3DModel, dict(), "wan", 1095),
    "Wan 2.2 I2V A14B": (WanTransformer3DModel, dict(in_channels=36), "wan", 1095),
    "Wan 2.1 T2V 1.3B": (WanTransformer3DModel, dict(num_attention_heads=12, num_layers=30, ffn_dim=8960), "wan", 825),
    "Wan 2.1 I2V 14B": (
        WanTransformer3DModel,
        dict(in_channels=36, image_dim=1280, added_kv_proj_dim=5120),
        "wan",
        1303,
    ),
    "Wan 2.1 VAE": (AutoencoderKLWan, dict(), "wan_vae", 194),
    "Wan 2.2 VAE": (
        AutoencoderKLWan,
        dict(
            base_dim=160,
            decoder_base_dim=256,
            z_dim=48,
            is_residual=True,
            in_channels=12,
            out_channels=12,
            patch_size=2,
            scale_factor_spatial=16,
            latents_mean=list(WAN22_STATISTICS[0]),
            latents_std=list(WAN22_STATISTICS[1]),
        ),
        "wan_vae",
        196,
    ),
    "Mochi 1": (MochiTransformer3DModel, dict(), "mochi", 879),
    "Mochi 1 VAE": (AutoencoderKLMochi, dict(), "mochi_vae", 405),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    """Every key and shape of the full-size models maps, and their arguments are read back from shapes alone."""
    cls, config, kind, tensors = PUBLISHED[name]
    with torch.device("meta"):
        model = cls(**config)
    state = model.state_dict()
    public = to_public(kind, state)
    assert len(public) == tensors
    inferred = infer_config(kind, public)
    for argument, value in inferred.items():
        expected = model.config[argument]
        if argument == "decoder_base_dim" and expected is None:
            expected = model.config["base_dim"]
        assert (list(value) if isinstance(value, tuple) else value) == (
            list(expected) if isinstance(expected, tuple) else expected
        ), argument
    back = from_public(kind, public, inferred)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in state.items()}


@pytest.mark.parametrize(
    "kind, config_class, cls", [("t5", T5Config, T5EncoderModel), ("umt5", UMT5Config, UMT5EncoderModel)]
)
def test_t5_and_umt5(kind, config_class, cls):
    torch.manual_seed(0)
    model = cls(config_class(**T5_SIZES))
    public = to_public(kind, model.state_dict())
    assert "encoder.embed_tokens.weight" not in public and detect_kind(public) == kind
    inferred = infer_config(kind, public)
    assert inferred.pop("model_type") == kind
    assert {k: inferred[k] for k in T5_SIZES} == T5_SIZES
    # A file that names the table the other way, and carries what ComfyUI embeds.
    other = {("encoder.embed_tokens.weight" if k == "shared.weight" else k): v for k, v in public.items()}
    other["spiece_model"] = torch.zeros(4, dtype=torch.uint8)
    fresh = cls(config_class(**T5_SIZES))
    fresh.load_state_dict(from_public(kind, other))
    assert_same(fresh.state_dict(), model.state_dict())


def test_config_from_metadata_wins():
    state = to_public("flux", random_state(FluxTransformer2DModel, POCKET_FLUX))
    assert infer_config("flux", state, {"config": json.dumps(POCKET_FLUX)})["axes_dims_rope"] == [8, 16, 16]
    with pytest.raises(InputError, match="metadata.config.*JSON"):
        infer_config("flux", state, {"config": "{not json"})


@pytest.mark.parametrize(
    "name, argument",
    [
        ("flux", "axes_dims_rope"),
        ("wan", "num_attention_heads"),
        ("wan vae 2.2", "latents_mean"),
        ("mochi vae", "latents_mean"),
    ],
)
def test_unusual_sizes_ask_for_a_config(name, argument):
    cls, config, kind = MODELS[name]
    if kind == "mochi_vae":
        config = {**config, "latent_channels": 16}
    with pytest.raises(InputError, match=argument):
        infer_config(kind, to_public(kind, random_state(cls, config)))


def test_wrong_tensors_are_named():
    wan = to_public("wan", random_state(WanTransformer3DModel, POCKET_WAN))
    with pytest.raises(InputError, match="every tensor name must belong"):
        from_public("flux", wan)
    with pytest.raises(InputError, match="depth.*got 40"):
        from_public("wan", wan, {"num_layers": 40})
    with pytest.raises(InputError, match="no img_in.weight"):
        infer_config("flux", wan)
    with pytest.raises(InputError, match='kind.*got "sdxl"'):
        to_public("sdxl", wan)
    flux = random_state(FluxTransformer2DModel, POCKET_FLUX)
    del flux["transformer_blocks.1.attn.to_k.weight"]
    with pytest.raises(InputError, match=r"transformer_blocks\.1\.attn\.to_k\.weight"):
        to_public("flux", flux)
    assert detect_kind({"some.weight"}) is None
