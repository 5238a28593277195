"""Studio files: what they may say, where files are looked for, and that every part loads and fits the others."""

import json

import open_clip
import pytest
import sentencepiece
import torch
import yaml
from diffusers import AutoencoderKL, AutoencoderKLWan, FluxTransformer2DModel, WanTransformer3DModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.flux.vae_keymap import FLUX_VAE_CONFIG
from anchorshot.models.encoders.vae_tiling import Tiling
from anchorshot.models.io.keymaps import to_public
from anchorshot.models.studio import Studio, built_in, load_studio
from anchorshot.models.studio_config import StudioConfig, read_studio
from anchorshot.pocket.tokenizer import build_tokenizer
from anchorshot.sampling.keyframes import ContextFrame, KeyframeSettings, sample_keyframes
from anchorshot.sampling.video import VideoSettings, decode_video, plan_video, sample_video
from anchorshot.story.timeline import Timeline

FLUX = dict(
    in_channels=16,
    num_layers=1,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    pooled_projection_dim=16,
    guidance_embeds=False,
    axes_dims_rope=[4, 6, 6],
)
WAN = dict(
    num_attention_heads=2,
    attention_head_dim=24,
    in_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=16,
    ffn_dim=64,
    num_layers=1,
    rope_max_seq_len=32,
)
VAE = dict(
    base_dim=8,
    decoder_base_dim=8,
    z_dim=4,
    dim_mult=[1, 2, 2],
    num_res_blocks=1,
    patch_size=2,
    temperal_downsample=[True, True],
    is_residual=True,
    in_channels=12,
    out_channels=12,
    latents_mean=[0.0] * 4,
    latents_std=[1.0] * 4,
    scale_factor_spatial=8,
)
T5 = dict(d_model=32, d_kv=8, num_heads=4, num_layers=2, d_ff=48, feed_forward_proj="gated-gelu")
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
STUDIO = {
    "name": "tiny",
    "models_dir": "weights",
    "keyframe": {"file": "keyframe.safetensors"},
    "keyframe_text": {"kind": "t5", "file": "t5.safetensors"},
    "video": {"file": "video.safetensors"},
    "video_vae": {"kind": "wan_vae", "file": "vae.safetensors"},
    "clip": {"file": "clip.safetensors"},
}


def save(path, kind, model, config=None, metadata=None, **extra):
    path.parent.mkdir(parents=True, exist_ok=True)
    state = to_public(kind, model.state_dict()) if kind else model.state_dict()
    metadata = {**({"config": json.dumps(config)} if config else {}), **(metadata or {})}
    save_file({**{k: v.detach().clone() for k, v in state.items()}, **extra}, path, metadata=metadata or None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A whole studio of random weights in the public formats, configs and tokenizer in the files' metadata."""
    folder = tmp_path_factory.mktemp("studio") / "weights"
    torch.manual_seed(0)
    save(folder / "keyframe.safetensors", "flux", FluxTransformer2DModel(**FLUX), FLUX)
    save(folder / "video.safetensors", "wan", WanTransformer3DModel(**WAN), WAN)
    save(folder / "vae.safetensors", "wan_vae", AutoencoderKLWan(**VAE), VAE)
    vocabulary = build_tokenizer().get_vocab_size()
    t5 = T5EncoderModel(T5Config(vocab_size=vocabulary, **T5))
    save(folder / "t5.safetensors", "t5", t5, T5, {"tokenizer": build_tokenizer().to_str()})
    save(folder / "clip.safetensors", None, open_clip.CLIP(**CLIP), CLIP)
    return folder


def write(folder, **changes):
    path = folder / "studio.yaml"
    path.write_text(yaml.safe_dump({**STUDIO, **changes}), encoding="utf-8")
    return path


@pytest.fixture
def studio(weights):
    return load_studio(write(weights.parent))


def test_every_part_loads_once(studio):
    from anchorshot.models.backbones.flux.headless import CaptainFlux
    from anchorshot.models.backbones.wan.headless import DirectorWan
    from anchorshot.models.backbones.wan.vae import VideoVAE
    from anchorshot.models.encoders.clip import ClipScorer
    from anchorshot.models.encoders.text import TextEncoder

    classes = {
        "keyframe": CaptainFlux,
        "video": DirectorWan,
        "image_vae": VideoVAE,
        "video_vae": VideoVAE,
        "keyframe_text": TextEncoder,
        "video_text": TextEncoder,
        "clip": ClipScorer,
    }
    studio.check()
    assert not set(classes) & set(vars(studio))
    for part, cls in classes.items():
        assert isinstance(getattr(studio, part), cls)
        assert getattr(studio, part) is getattr(studio, part)
    assert studio.image_vae is studio.video_vae and studio.video_text is studio.keyframe_text
    assert studio.video_low is None
    assert studio.keyframe_text.encode(["<Mira> waves."]).pooled.shape == (1, 16)
    first = studio.video
    studio.release("video")
    assert studio.video is not first and "keyframe" in vars(studio)
    studio.release()
    assert not set(classes) & set(vars(studio))
    with pytest.raises(InputError, match="must be one of clip"):
        studio.release("director")


def test_parts_fit_each_other(studio):
    """Two keyframes with memory and a video through both, from the studio's parts."""
    text = studio.keyframe_text.encode(studio.keyframe_text.alias(["<Mira> waves.", "<Zed> jumps on the left."]))
    settings = KeyframeSettings(steps=2, context_noise=studio.defaults.keyframe.context_noise)
    generator = torch.Generator().manual_seed(0)
    frames, context = [], []
    for row in text.rows():
        latent = sample_keyframes(studio.keyframe, [row], (4, 4, 8), context, settings, generator)[0]
        context.insert(0, ContextFrame(latent, row))
        frames.append(studio.image_vae.decode_image(latent)[0])
    assert frames[0].shape == (3, 32, 64) and all(f.isfinite().all() for f in frames)
    assert studio.clip.embed_images(torch.stack(frames)).shape == (2, 16)
    timeline = Timeline.plan(8, 9 / 8, [0.0, 0.5])
    z = sample_video(
        studio.video,
        studio.video_vae,
        studio.video_text.encode(["<Mira> waves."]),
        timeline,
        frames,
        settings=VideoSettings(steps=2),
        generator=generator,
    )
    video = torch.cat(list(decode_video(studio.video_vae, z, plan_video(timeline))), 1)
    assert video.shape[1:] == (timeline.frames, 3, 32, 64) and video.isfinite().all()


def test_dtype_and_device_of_the_call(weights):
    path = write(weights.parent, dtype="float16", video={"file": "video.safetensors", "dtype": "float32"})
    assert load_studio(path).keyframe.dtype == torch.float16
    assert load_studio(path).video.dtype == torch.float32
    brain = load_studio(path, dtype=torch.bfloat16)
    assert brain.video.dtype == brain.keyframe_text.model.dtype == torch.bfloat16
    assert load_studio(path, device="cpu").device == torch.device("cpu")


def test_parts_of_their_own(weights, tmp_path):
    """Own image VAE with a config file, own CLIP text model, a LoRA, fp8, two experts."""
    torch.manual_seed(1)
    config = {**FLUX_VAE_CONFIG, "block_out_channels": [8] * 4, "norm_num_groups": 4, "latent_channels": 4}
    (tmp_path / "ae.json").write_text(json.dumps(config))
    save(tmp_path / "ae.safetensors", None, AutoencoderKL(**config))
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, hidden_act="gelu")
    save(tmp_path / "clip_l.safetensors", None, CLIPTextModel(CLIPTextConfig(**sizes, eos_token_id=49407)))
    a, b = torch.randn(2, 32), torch.randn(96, 2)
    save_file(
        {"double_blocks.0.img_attn.qkv.lora_A.weight": a, "double_blocks.0.img_attn.qkv.lora_B.weight": b},
        tmp_path / "lora.safetensors",
    )
    own = str(tmp_path)
    path = write(
        weights.parent,
        image_vae={"kind": "flux_vae", "file": f"{own}/ae.safetensors", "config": f"{own}/ae.json"},
        keyframe={
            "file": ["missing.safetensors", "keyframe.safetensors"],
            "fp8": True,
            "loras": [{"file": f"{own}/lora.safetensors", "strength": 0.5}],
        },
        keyframe_text={**STUDIO["keyframe_text"], "clip_text": {"file": f"{own}/clip_l.safetensors"}},
        video_text={"kind": "t5", "file": "t5.safetensors", "pad_to": 24},
        video={"file": "video.safetensors", "low": {"file": "video.safetensors"}},
    )
    studio = load_studio(path)
    studio.check()
    assert studio.image_vae.encode_image(torch.rand(1, 3, 16, 16)).shape == (1, 4, 2, 2)
    assert list(studio.keyframe.peft_config) == ["lora0"]
    assert studio.keyframe.single_transformer_blocks[0].proj_mlp.weight.dtype == torch.float8_e4m3fn
    assert studio.keyframe_text.encode(["a"]).pooled.shape == (1, 16)
    assert studio.video_text.encode(["a"]).tokens.shape == (1, 24, 32) and studio.video_text.pooler is None
    assert studio.video_low is not studio.video and studio.video_low.config == studio.video.config


def test_where_files_are_looked_for(weights, tmp_path, monkeypatch):
    for name in ("ANCHORSHOT_MODELS", "COMFYUI_PATH"):
        monkeypatch.delenv(name, raising=False)
    free = write(tmp_path, models_dir=None)
    with pytest.raises(InputError, match="set models_dir in studio.yaml, or the environment's ANCHORSHOT_MODELS"):
        load_studio(free).check()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path / "ComfyUI"))
    with pytest.raises(InputError, match=r"studio.yaml, clip.file: file must exist.*clip.safetensors.*ComfyUI/models"):
        load_studio(free).check()
    (tmp_path / "ComfyUI").mkdir()
    (tmp_path / "ComfyUI" / "models").symlink_to(weights)
    load_studio(free).check()
    assert load_studio(free).roots == [tmp_path / "ComfyUI" / "models"]
    monkeypatch.setenv("ANCHORSHOT_MODELS", f"{tmp_path / 'a'}:{weights}:")
    assert load_studio(free).roots == [tmp_path / "a", weights, tmp_path / "ComfyUI" / "models"]
    # What is named explicitly stands alone.
    assert load_studio(weights.parent / "studio.yaml", models_dir=tmp_path / "x").roots == [tmp_path / "x"]
    assert load_studio(write(weights.parent)).roots == [weights.parent / "weights"]
    with pytest.raises(InputError, match="keyframe.file"):
        load_studio(write(weights.parent, keyframe={"file": ["a.safetensors", "b.safetensors"]})).check("keyframe")
    load_studio(write(weights.parent, keyframe={"file": "none.safetensors"})).check("video", "clip")


def test_fingerprint_follows_settings_and_files(weights, tmp_path):
    path = write(weights.parent)
    first = load_studio(path).fingerprint()
    assert first == load_studio(path).fingerprint() and len(first) == 64
    assert load_studio(write(weights.parent, description="other words")).fingerprint() == first
    seen = {first, load_studio(path, dtype=torch.bfloat16).fingerprint()}
    seen.add(load_studio(write(weights.parent, defaults={"keyframe": {"steps": 7}})).fingerprint())
    torch.manual_seed(9)
    save(tmp_path / "video.safetensors", "wan", WanTransformer3DModel(**WAN), WAN)
    other = write(weights.parent, video={"file": [str(tmp_path / "video.safetensors")]})
    seen.add(load_studio(other).fingerprint())
    assert len(seen) == 4


def test_tiling_reaches_the_vae(weights):
    for value, mode in ((True, "on"), (False, "off"), ("on", "on")):  # YAML reads a bare on and off as true and false
        part = {**STUDIO["video_vae"], "tiling": value, "tile": 64}
        assert load_studio(write(weights.parent, video_vae=part)).video_vae.tiling == Tiling(mode, 64)
    assert read_studio("pocket")[0].video_vae.tiling == "auto"


def test_fingerprint_of_some_parts_follows_only_those(weights):
    def of(*parts, **changes):
        return load_studio(write(weights.parent, **changes)).fingerprint(*parts)

    some, keyframes = ("video", "clip"), {"defaults": {"keyframe": {"steps": 7}}, "keyframe": {"file": "none"}}
    assert of(*some) == of(*some, **keyframes) != of()
    assert len({of(), of(*some), of("video"), of("clip"), of(*some, dtype="bfloat16")}) == 5
    with pytest.raises(InputError, match="part: must be one of"):
        of("clips")
    # settings that are younger than a film count only where they are used
    assert of() == of(defaults={"keyframe": {"cfg": 1.0, "window": 1, "sigmas": None}})
    vae = STUDIO["video_vae"]
    assert of() == of(video_vae={**vae, "tiling": "auto", "tile": 512})
    assert len({of(), of(video_vae={**vae, "tiling": "on"}), of(video_vae={**vae, "tile": 256})}) == 3
    assert (
        len({of(), *(of(defaults={"keyframe": new}) for new in ({"cfg": 2.0}, {"window": 2}, {"level": "latent"}))})
        == 4
    )


FAULTS = [
    ({"keyframes": {}}, "keyframes: is not a known field.*did you mean `keyframe`"),
    ({"clip": None}, "clip: must be a mapping"),
    ({"video": {}}, "video.file: is required"),
    ({"video": {"file": []}}, "video.file: must hold at least 1"),
    ({"video": {"file": ""}}, r"video.file\[0\]: must not be empty"),
    ({"video": {"file": 7}}, "video.file: must be a list"),
    ({"video": {"file": "a", "fp8": "maybe"}}, "video.fp8"),
    ({"video": {"file": "a", "offload": "blok"}}, "video.offload: must be one of none, block, leaf.*`block`"),
    ({"video": {"file": "a", "loras": [{"file": "b", "strength": 99}]}}, r"loras\[0\].strength: must be at most 10"),
    ({"video": {"file": "a", "loras": [{"file": "b", "weight": 1}]}}, r"loras\[0\].weight: is not a known field"),
    ({"video_vae": {"kind": "flux_vae", "file": "a"}}, "video_vae.kind: the video VAE is Wan's"),
    ({"video_vae": {"file": "a"}}, "video_vae.kind: is required"),
    (
        {"video_vae": {"kind": "wan_vae", "file": "a", "tilling": "on"}},
        "video_vae.tilling: is not.*did you mean `tiling`",
    ),
    (
        {"image_vae": {"kind": "flux_vae", "file": "a", "tiling": "yes"}},
        "image_vae.tiling: must be one of auto, on, off",
    ),
    ({"video_vae": {"kind": "wan_vae", "file": "a", "tile": 32}}, "video_vae.tile: must be at least 64"),
    ({"keyframe_text": {"kind": "bert", "file": "a"}}, "keyframe_text.kind: must be one of t5, umt5"),
    ({"keyframe_text": {"kind": "t5", "file": "a", "pad_to": 3}}, "pad_to: must be at least 8"),
    ({"video_text": {"kind": "umt5", "file": "a", "clip_text": {"file": "b"}}}, "Wan takes no pooled text"),
    ({"dtype": "float8"}, "dtype: must be one of float32, bfloat16, float16"),
    ({"dtype": "bfloat"}, "did you mean `bfloat16`"),
    ({"name": ""}, "name: must not be empty"),
    ({"name": 7}, "name: must be text.*quotes"),
    (
        {"defaults": {"keyframe": {"context_noise": 1.5}}},
        r"keyframe.context_noise: must lie in 0…1, or be \[low, high\]",
    ),
    ({"defaults": {"keyframe": {"context_noise": [0.3, 0.1]}}}, "keyframe.context_noise: must lie in 0…1"),
    ({"defaults": {"keyframe": {"context_noise": [0.1, "0.2"]}}}, "keyframe.context_noise: must lie in 0…1"),
    ({"defaults": {"keyframe": {"context_noise": [0.1, 0.2, 0.3]}}}, "keyframe.context_noise: must lie in 0…1"),
    ({"defaults": {"keyframe": {"context_noise": "low"}}}, "keyframe.context_noise: must lie in 0…1"),
    ({"defaults": {"keyframe": {"window": 33}}}, "defaults.keyframe.window: must be at most 32"),
    ({"defaults": {"keyframe": {"sampler": "dpmpp2m"}}}, "keyframe.sampler: must be one of euler, heun.*`dpmpp_2m`"),
    ({"defaults": {"keyframe": {"level": "pixels"}}}, "keyframe.level: must be one of pixel, latent.*`pixel`"),
    ({"defaults": {"keyframe": {"sigmas": [1, 2, 0]}}}, r"keyframe.sigmas\[1\]: must be at most 1"),
    ({"defaults": {"keyframe": {"negative": "x"}}}, "keyframe.negative: matters only with guidance.*set cfg"),
    ({"defaults": {"keyframe": {"cfg": -1}}}, "defaults.keyframe.cfg: must be at least 0"),
    ({"defaults": {"keyframe": {"steps": 0}}}, "defaults.keyframe.steps: must be at least 1"),
    ({"defaults": {"keyframe": {"step": 3}}}, "defaults.keyframe.step: is not a known field.*`steps`"),
    ({"defaults": {"video": {"shift": float("nan")}}}, "defaults.video.shift: must be a finite number"),
    ({"defaults": {"video": {"method": "magic"}}}, "defaults.video.method: must be one of multi_chunk"),
]


@pytest.mark.parametrize("changes, message", FAULTS, ids=[m[:40] for _, m in FAULTS])
def test_faults_are_named_with_field_line_and_fix(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as error:
        load_studio(path)
    assert "\n" not in str(error.value) and "studio.yaml line" in str(error.value)


def test_studios_that_cannot_be_read(tmp_path):
    for name, data, message in (
        ("broken", b"name: [", "not valid YAML"),
        ("list", b"- a", "must be a mapping"),
        ("empty", b"", "YAML file of 1 to"),
        ("latin", b"\xff\xfe", "UTF-8"),
        ("tagged", b"name: !!python/object:os.system x", "YAML"),
        ("twice", b"name: a\nname: b", "twice"),
    ):
        path = tmp_path / f"{name}.yaml"
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            load_studio(path)
    for name, message in (
        ("poket", "did you mean pocket"),
        ("zzz", "use .*pocket"),
        (tmp_path / "no.yaml", "must exist"),
        ("../etc/passwd", "must exist"),
    ):
        with pytest.raises(InputError, match=message):
            load_studio(name)
    with pytest.raises(InputError, match="must be a mapping"):
        StudioConfig.parse([])


def test_built_in_studios():
    assert set(built_in()) >= {"pocket", "flux-wan", "flux-wan-a14b", "qwen-wan"}
    for name in built_in():
        config, path = read_studio(name)
        assert config.name == name == path.stem and config.description
        assert config.defaults.keyframe.context_noise == 0.1 and config.defaults.keyframe.groups == 3
    pocket = load_studio("pocket")
    assert isinstance(pocket, Studio) and pocket.config.dtype == "float32"
    assert pocket.roots[0].resolve().parts[-2:] == ("pocket", "weights")
    big = load_studio("flux-wan").config
    assert big.dtype == "bfloat16" and big.video_text.pad_to == 512 and big.keyframe_text.pad_to is None
    for name in ("flux-wan", "flux-wan-a14b"):  # as the publishers' pipelines run them
        config = load_studio(name).config
        assert (config.image_vae.dtype, config.video_vae.dtype) == ("bfloat16", "float32")


# --- the public checkpoints' file names and formats -------------------------------------------------------------------


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory):
    """A ComfyUI folder whose files have the published names and tensors, at small widths and without any config."""
    root = tmp_path_factory.mktemp("ComfyUI")
    models = root / "models"
    torch.manual_seed(0)
    flux = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=1,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        guidance_embeds=True,
    )
    save(models / "diffusion_models" / "flux1-dev.safetensors", "flux", flux)
    wan = dict(num_attention_heads=1, num_layers=1, ffn_dim=64, text_dim=32, freq_dim=16, rope_max_seq_len=32)
    small = WanTransformer3DModel(in_channels=48, out_channels=48, **wan)
    save(models / "diffusion_models" / "wan2.2_ti2v_5B_fp16.safetensors", "wan", small.half())
    for expert in ("high", "low"):
        state = to_public("wan", WanTransformer3DModel(**wan).state_dict())
        for key in [k for k in state if k.startswith("blocks.") and state[k].ndim == 2]:
            scale = state[key].abs().max() / 448
            state[key.replace(".weight", ".scale_weight")] = scale
            state[key] = (state[key] / scale).to(torch.float8_e4m3fn)
        state["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        save_file(state, models / "diffusion_models" / f"wan2.2_t2v_{expert}_noise_14B_fp8_scaled.safetensors")
    vae22 = AutoencoderKLWan(**{**VAE, "z_dim": 48, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48})
    save(models / "vae" / "wan2.2_vae.safetensors", "wan_vae", vae22)
    save(models / "vae" / "wan_2.1_vae.safetensors", "wan_vae", AutoencoderKLWan(base_dim=4, num_res_blocks=1))
    vocabulary = build_tokenizer().get_vocab_size()
    t5 = T5EncoderModel(T5Config(vocab_size=vocabulary, **T5))
    save(models / "text_encoders" / "t5xxl_fp8_e4m3fn.safetensors", "t5", t5)
    tokenizer = root / "comfy" / "text_encoders" / "t5_tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "tokenizer.json").write_text(build_tokenizer().to_str(), encoding="utf-8")
    sizes = dict(hidden_size=64, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, hidden_act="gelu")
    clip_l = CLIPTextModel(CLIPTextConfig(**sizes, eos_token_id=49407))
    state = {"text_model." + k: v.detach().clone() for k, v in clip_l.state_dict().items()}
    save_file(state, models / "text_encoders" / "clip_l.safetensors")
    prefix = str(root / "spiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a small corpus of words", "waves and jumps"] * 9),
        model_prefix=prefix,
        vocab_size=40,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    words = torch.frombuffer(bytearray((root / "spiece.model").read_bytes()), dtype=torch.uint8)
    umt5 = UMT5EncoderModel(UMT5Config(vocab_size=64, **T5))
    save(models / "text_encoders" / "umt5_xxl_fp8_e4m3fn_scaled.safetensors", "umt5", umt5, spiece_model=words)
    return root


@pytest.mark.parametrize("name", ["flux-wan", "flux-wan-a14b"])
def test_public_checkpoints_in_comfyui_folders(comfyui, name, monkeypatch):
    monkeypatch.delenv("ANCHORSHOT_MODELS", raising=False)
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    studio = load_studio(name)
    studio.check("keyframe", "keyframe_text", "video", "video_text", "video_vae")
    assert studio.keyframe.config.guidance_embeds and studio.keyframe.dtype == torch.bfloat16
    text = studio.keyframe_text.encode(["<Zed> waves."])
    assert text.pooled.shape == (1, 64) and text.lengths[0] < 16  # real length, not 512
    prompt = studio.video_text.encode(["<Zed> waves."])
    assert prompt.tokens.shape == (1, 512, 32) and prompt.pooled is None
    channels = 48 if name == "flux-wan" else 16
    assert studio.video.config.in_channels == studio.video_vae.latent_channels == channels
    assert (studio.video_low is None) == (name == "flux-wan")
    out = studio.video.forward_chunks(torch.randn(1, channels, 2, 4, 4), torch.tensor([[0.0, 0.5]]), prompt.tokens)
    assert out.isfinite().all() and out.dtype == torch.float32
    with pytest.raises(InputError, match=rf"{name}.yaml, image_vae.file: file must exist.*ae.safetensors.*models"):
        studio.check("image_vae")
