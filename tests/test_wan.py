"""`DirectorWan` against the stock diffusers class, with the same tiny random weights."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import apply_group_offloading
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import save_file

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.wan.headless import DirectorWan, DirectorWanBlock, MCRope
from anchorshot.models.layouts.chunks import frame_timesteps, mc_index, pad_text, rope_table

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
    "rope_max_seq_len": 64,
}
FRAMES, TEMPORAL_STRIDE = 6, (3, 4)  # latent frames; height and width in patches of 2x2
TOKENS = TEMPORAL_STRIDE[0] * TEMPORAL_STRIDE[1]
CHUNKS = [3, 2, 1]


def seeded(model: WanTransformer3DModel) -> WanTransformer3DModel:
    """Random weights under which attention, text, time and every gate count."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if p.ndim == 1 and "norm" in name and name.endswith("weight"):
                p.copy_(1.5 + 0.3 * noise)
            elif p.ndim > 1 and "scale_shift_table" not in name:
                p.copy_(noise / math.sqrt(p[0].numel()))
            else:
                p.copy_(0.3 * noise)
    return model.eval()


def stock() -> WanTransformer3DModel:
    return seeded(WanTransformer3DModel(**CONFIG))


@pytest.fixture
def model() -> DirectorWan:
    return DirectorWan.adopt(stock())


def inputs(rows: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents `[B, C, F, h, w]`, t `[B]` in 0…1 and text `[B, T, D]`."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 4, FRAMES, 2 * TEMPORAL_STRIDE[0], 2 * TEMPORAL_STRIDE[1], generator=g)
    return x, torch.rand(rows, generator=g), torch.randn(rows, 7, 16, generator=g)


def run(model: WanTransformer3DModel, *args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(*args, return_dict=False, **kwargs)[0]


def keyframe_times(t: torch.Tensor) -> torch.Tensor:
    return frame_timesteps(t, [0, 3, 5], FRAMES)


# --- MC-RoPE -------------------------------------------------------------------------------------------------------


def test_index_of_the_paper_s_equation() -> None:
    assert mc_index([3, 2, 1, 4]).tolist() == [0, 1, 2, 2.25, 3.25, 3.5, 3.75, 4.75, 5.75, 6.75]
    assert mc_index([2, 2], step=1.0).tolist() == [0, 1, 2, 3]
    assert mc_index([5]).dtype == torch.float64


@given(chunks=st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_index_on_any_grid(chunks: list[int]) -> None:
    u = mc_index(chunks)
    assert len(u) == sum(chunks) and u[0] == 0
    starts = {sum(chunks[:k]) for k in range(1, len(chunks))}
    assert u.diff().tolist() == [0.25 if i in starts else 1.0 for i in range(1, len(u))]
    # The index keeps real time: 4 frames to an ordinary latent, 1 frame to a keyframe.
    frames = sum(4 * (n - 1) + 1 for n in chunks)
    assert u[-1] * 4 == frames - 1


def test_one_chunk_is_the_stock_rope_to_the_last_bit(model: DirectorWan) -> None:
    x, _, _ = inputs()
    want = WanTransformer3DModel(**CONFIG).rope(x)
    for got, stock_table in zip(model.rope(x, mc_index([FRAMES])), want, strict=True):
        assert torch.equal(got, stock_table)
    assert not torch.equal(model.rope(x, mc_index(CHUNKS))[0], want[0])


@given(u=st.integers(0, 63).map(lambda q: q / 4), height=st.integers(1, 4), width=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_fractional_times_rotate_by_their_angle(u: float, height: int, width: int) -> None:
    cos, sin = rope_table(torch.tensor([u]), height, width, (8, 4, 4))
    angles = u / 10000 ** (torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    assert cos.shape == (1, height * width, 1, 16)
    for token in range(height * width):
        assert torch.allclose(cos[0, token, 0, :8:2].double(), angles.cos(), atol=1e-7)
        assert torch.allclose(sin[0, token, 0, 1:8:2].double(), angles.sin(), atol=1e-7)


def test_index_per_row_equals_each_row_alone(model: DirectorWan) -> None:
    x, t, text = inputs()
    index = torch.stack([mc_index(CHUNKS), mc_index([1, 4, 1])])
    times = torch.stack([frame_timesteps(t[:1], [0, 3, 5], FRAMES)[0], frame_timesteps(t[1:], [0, 1, 5], FRAMES)[0]])
    with torch.no_grad():
        both = model.forward_chunks(x, times, text, index)
        alone = [model.forward_chunks(x[i, None], times[i, None], text[i, None], index[i]) for i in (0, 1)]
    assert torch.allclose(both, torch.cat(alone), atol=1e-5)


def test_tables_are_computed_once_and_never_mix(model: DirectorWan) -> None:
    x, t, text = inputs()
    times = keyframe_times(t)
    with torch.no_grad():
        fresh = {c: DirectorWan.adopt(stock()).forward_chunks(x, times, text, mc_index(c)) for c in ((3, 2, 1), (1, 5))}
        for c in ((3, 2, 1), (1, 5), (3, 2, 1), (1, 5)):
            assert torch.equal(model.forward_chunks(x, times, text, mc_index(c)), fresh[c])
    first, again = model.rope(x, mc_index(CHUNKS)), model.rope(x, mc_index(CHUNKS))
    assert first[0] is again[0] and first[1] is again[1]
    for n in range(1, 50):
        model.rope(x, mc_index([1] * n + [3]))
    assert len(model.rope._tables) <= 32
    assert run(model, x, t * 1000, text).equal(run(stock(), x, t * 1000, text))  # the stock call stays stock


def test_index_survives_bf16(model: DirectorWan) -> None:
    x, _, _ = inputs()
    index = mc_index([1, *CHUNKS[1:], 2]) + 64
    exact = model.rope(x, index)
    model.to(torch.bfloat16)
    model.rope._tables.clear()
    rounded = model.rope(x.bfloat16(), index)
    assert rounded[0].dtype == torch.float32 and torch.equal(exact[0], rounded[0])


# --- timesteps -----------------------------------------------------------------------------------------------------


def test_per_frame_constant_t_equals_stock(model: DirectorWan) -> None:
    x, t, text = inputs()
    want = run(stock(), x, t * 1000, text)
    with torch.no_grad():
        got = model.forward_chunks(x, frame_timesteps(t, [], FRAMES), text, mc_index([FRAMES]))
    assert want.abs().mean() > 0.1
    assert torch.allclose(got, want, atol=1e-5)
    assert torch.allclose(run(model, x, t * 1000, text, rope_index=mc_index([FRAMES])), want, atol=1e-5)


def test_per_frame_t_equals_the_stock_per_token_path(model: DirectorWan) -> None:
    x, t, text = inputs()
    times = keyframe_times(t)
    want = run(stock(), x, (times * 1000).repeat_interleave(TOKENS, 1), text)
    got = run(model, x, None, text, frame_timestep=times * 1000)
    assert torch.allclose(got, want, atol=1e-5)
    assert not torch.allclose(want, run(stock(), x, t * 1000, text), atol=1e-2)  # clean keyframes do change the rest


def test_stock_calls_run_the_stock_code(model: DirectorWan) -> None:
    x, t, text = inputs()
    assert torch.equal(run(model, x, t * 1000, text), run(stock(), x, t * 1000, text))
    assert model(x, t * 1000, text).sample.shape == x.shape
    assert model(x, None, text, frame_timestep=keyframe_times(t) * 1000).sample.shape == x.shape


@given(latents=st.integers(1, 12), data=st.data(), t=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=3))
def test_frame_timesteps(latents: int, data: st.DataObject, t: list[float]) -> None:
    keys = data.draw(st.sets(st.integers(0, latents - 1)))
    out = frame_timesteps(torch.tensor(t), sorted(keys), latents)
    assert out.shape == (len(t), latents) and out.dtype == torch.float32
    for row, value in zip(out.tolist(), t, strict=True):
        assert row == [0.0 if i in keys else value for i in range(latents)]


def test_timesteps_stay_fp32_in_a_bf16_model(model: DirectorWan) -> None:
    x, _, text = inputs()
    seen: list[torch.Tensor] = []
    model.to(torch.bfloat16).condition_embedder.timesteps_proj.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    with torch.no_grad():
        out = model.forward_chunks(x, frame_timesteps(torch.tensor([0.9991, 0.5003]), [0], FRAMES), text)
    assert out.dtype == torch.float32 and seen[0].dtype == torch.float32
    assert torch.allclose(seen[0].view(2, FRAMES)[:, 1], torch.tensor([999.1, 500.3]))


def test_keyframes_talk_to_all_chunks(model: DirectorWan) -> None:
    """Full spatio-temporal attention: a keyframe of the last chunk moves the first chunk's velocity."""
    x, t, text = inputs(1)
    other = x.clone()
    other[:, :, 5] += 1
    with torch.no_grad():
        a, b = (model.forward_chunks(y, keyframe_times(t), text, mc_index(CHUNKS)) for y in (x, other))
    assert (a - b)[:, :, 1].abs().max() > 1e-3


# --- text ----------------------------------------------------------------------------------------------------------


def test_text_is_padded_with_zeros_as_in_the_stock_pipeline() -> None:
    tokens = torch.randn(2, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    out = pad_text(tokens, mask, 6)
    assert torch.equal(out[0, :2], tokens[0, :2]) and torch.equal(out[1, :4], tokens[1])
    assert out.shape == (2, 6, 3) and not out[0, 2:].any() and not out[1, 4:].any()
    assert torch.equal(pad_text(tokens, length=3), tokens[:, :3])
    assert torch.equal(pad_text(tokens), tokens)


# --- the class -----------------------------------------------------------------------------------------------------


def test_adopting_keeps_weights_names_and_config(model: DirectorWan) -> None:
    want = stock().state_dict()
    assert model.state_dict().keys() == want.keys()
    assert all(torch.equal(v, want[k]) for k, v in model.state_dict().items())
    assert isinstance(model.rope, MCRope) and all(isinstance(b, DirectorWanBlock) for b in model.blocks)
    assert DirectorWan.adopt(model) is model
    built = DirectorWan(**CONFIG)
    assert {k: built.config[k] for k in CONFIG} == CONFIG
    assert isinstance(built.rope, MCRope) and all(isinstance(b, DirectorWanBlock) for b in built.blocks)


def test_what_cannot_be_adopted() -> None:
    with pytest.raises(InputError, match='model: must be a WanTransformer3DModel .*"Linear"'):
        DirectorWan.adopt(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    offloaded = stock()
    offload(offloaded)
    with pytest.raises(InputError, match="must be free of offloading hooks .* adopt first, then offload"):
        DirectorWan.adopt(offloaded)


def test_wrong_lengths_name_the_argument(model: DirectorWan) -> None:
    x, t, text = inputs()
    with pytest.raises(InputError, match=f"rope_index: must have {FRAMES} latent frames"):
        model.forward_chunks(x, keyframe_times(t), text, mc_index([3]))
    with pytest.raises(InputError, match=f"frame_timestep: must have {FRAMES} latent frames"):
        model.forward_chunks(x, t[:, None], text)
    with pytest.raises(InputError, match="timestep: is needed"):
        model(x, None, text, rope_index=mc_index([FRAMES]))
    with pytest.raises(InputError, match="keyframe_latents: must lie in 0…5"):
        frame_timesteps(t, [0, 6], FRAMES)
    with pytest.raises(InputError, match="latent_chunks: every chunk has at least one latent"):
        mc_index([2, 0])


def test_save_and_load(model: DirectorWan, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = DirectorWan.from_pretrained(tmp_path).eval()
    as_stock = WanTransformer3DModel.from_pretrained(tmp_path).eval()
    x, t, text = inputs()
    with torch.no_grad():
        args = (x, keyframe_times(t), text, mc_index(CHUNKS))
        assert torch.equal(again.forward_chunks(*args), model.forward_chunks(*args))
    assert torch.equal(run(as_stock, x, t * 1000, text), run(model, x, t * 1000, text))
    half = DirectorWan.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16 and half.scale_shift_table.dtype == torch.float32


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_from_single_file_in_public_key_names(model: DirectorWan, tmp_path: Path, prefix: str) -> None:
    """The names of the original repository and of ComfyUI, through diffusers' own converter."""
    renames = [  # diffusers' part of a name → the original's, first match of each row wins
        ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
        ("attn1", "self_attn"),
        ("attn2", "cross_attn"),
        (".to_out.0.", ".o."),
        (".to_q.", ".q."),
        (".to_k.", ".k."),
        (".to_v.", ".v."),
        ("ffn.net.0.proj", "ffn.0"),
        ("ffn.net.2", "ffn.2"),
        (".norm2.", ".norm3."),
        ("proj_out", "head.head"),
    ]
    public = {}
    for name, value in model.state_dict().items():
        key = "head.modulation" if name == "scale_shift_table" else name.replace("scale_shift_table", "modulation")
        for ours, theirs in renames:
            key = key.replace(ours, theirs)
        public[prefix + key] = value.clone()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.json").write_text(json.dumps(dict(model.config), default=list))
    save_file(public, tmp_path / "wan.safetensors")
    again = DirectorWan.from_single_file(str(tmp_path / "wan.safetensors"), config=str(tmp_path / "config")).eval()
    assert type(again) is DirectorWan and again.config.num_layers == CONFIG["num_layers"]
    x, t, text = inputs()
    with torch.no_grad():
        args = (x, keyframe_times(t), text, mc_index(CHUNKS))
        assert torch.equal(again.forward_chunks(*args), model.forward_chunks(*args))


def test_gradient_checkpointing_gives_the_same_gradients(model: DirectorWan) -> None:
    x, t, text = inputs(1)

    def gradients(m: DirectorWan) -> list[torch.Tensor]:
        m.zero_grad()
        m.forward_chunks(x, keyframe_times(t), text, mc_index(CHUNKS)).square().mean().backward()
        return [p.grad.clone() for p in m.parameters() if p.grad is not None]

    plain = gradients(model.train())
    model.enable_gradient_checkpointing()
    stock_function, blocks = model._gradient_checkpointing_func, []

    def counted(block: torch.nn.Module, *args: object) -> torch.Tensor:
        blocks.append(block)
        return stock_function(block, *args)

    model._gradient_checkpointing_func = counted
    checkpointed = gradients(model)
    assert blocks == list(model.blocks)
    assert len(plain) == len(list(model.parameters()))
    for a, b in zip(plain, checkpointed, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert max(a.abs().max() for a in plain) > 1e-4


def offload(model: WanTransformer3DModel, level: str = "block_level") -> None:
    cpu = torch.device("cpu")
    blocks = {"num_blocks_per_group": 1} if level == "block_level" else {}
    apply_group_offloading(model, onload_device=cpu, offload_device=cpu, offload_type=level, **blocks)


@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offloading_changes_nothing(model: DirectorWan, level: str) -> None:
    x, t, text = inputs()
    args = (x, keyframe_times(t), text, mc_index(CHUNKS))
    with torch.no_grad():
        want = model.forward_chunks(*args)
        offload(model, level)
        assert torch.equal(model.forward_chunks(*args), want)


def test_fp8_layerwise_casting(model: DirectorWan) -> None:
    x, t, text = inputs()
    args = (x, keyframe_times(t), text, mc_index(CHUNKS))
    with torch.no_grad():
        want = model.forward_chunks(*args)
        model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        got = model.forward_chunks(*args)
        again = DirectorWan.adopt(stock())
        again.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        same = run(again, x, None, text, frame_timestep=keyframe_times(t) * 1000, rope_index=mc_index(CHUNKS))
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
    assert not torch.equal(got, want) and torch.equal(got, same)
    assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.98


def test_bf16_is_close_to_fp32(model: DirectorWan) -> None:
    x, t, text = inputs()
    args = (x, keyframe_times(t), text, mc_index(CHUNKS))
    with torch.no_grad():
        want = model.forward_chunks(*args)
        got = copy.deepcopy(model).to(torch.bfloat16).forward_chunks(*args)
    assert got.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.995


def test_repeated_blocks_compile(model: DirectorWan) -> None:
    x, t, text = inputs()
    args = (x, keyframe_times(t), text, mc_index(CHUNKS))
    with torch.no_grad():
        want = model.forward_chunks(*args)
        model.compile_repeated_blocks(backend="eager", fullgraph=True)
        assert all(block._compiled_call_impl is not None for block in model.blocks)
        assert torch.allclose(model.forward_chunks(*args), want, atol=1e-6)
        assert torch.allclose(run(model, x, t * 1000, text), run(stock(), x, t * 1000, text), atol=1e-5)


def test_a_lora_adapter_applies_and_scales(model: DirectorWan) -> None:
    adapted = stock()
    adapted.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    adapted = DirectorWan.adopt(adapted)
    x, t, text = inputs()
    frames = {"frame_timestep": keyframe_times(t) * 1000, "rope_index": mc_index(CHUNKS)}
    base = run(model, x, None, text, **frames)
    full = run(adapted, x, None, text, **frames)
    off = run(adapted, x, None, text, attention_kwargs={"scale": 0.0}, **frames)
    assert not torch.allclose(full, base, atol=1e-3) and torch.allclose(off, base, atol=1e-5)
    assert torch.equal(run(adapted, x, None, text, **frames), full)  # the scale does not outlive its call


@pytest.mark.cuda
def test_cuda_bf16_compiled_agrees_with_cpu(model: DirectorWan) -> None:
    x, t, text = inputs()
    with torch.no_grad():
        want = model.forward_chunks(x, keyframe_times(t), text, mc_index(CHUNKS))
        gpu = copy.deepcopy(model).to("cuda", torch.bfloat16)
        args = (x.cuda(), keyframe_times(t).cuda(), text.cuda(), mc_index(CHUNKS))
        eager = gpu.forward_chunks(*args)
        gpu.compile_repeated_blocks(fullgraph=True)
        compiled = gpu.forward_chunks(*args)
    for got in (eager, compiled):
        assert got.device.type == "cuda"
        assert torch.nn.functional.cosine_similarity(got.flatten().cpu(), want.flatten(), dim=0) > 0.99
