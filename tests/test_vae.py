"""The VAE wrappers on tiny real networks with random weights: what SmartDirector's Multi-Chunk VAE rests on."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.hooks import apply_group_offloading
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_mochi import vae as tiny_mochi_vae

from anchorshot.core.errors import InputError
from anchorshot.models.backbones.flux.vae import ImageVAE
from anchorshot.models.backbones.mochi.vae import MochiVAE
from anchorshot.models.backbones.wan.vae import VideoVAE
from anchorshot.models.encoders import vae as vae_module
from anchorshot.models.encoders import vae_tiling
from anchorshot.models.encoders.vae_tiling import Tiling, assemble
from anchorshot.models.layouts.chunks import latent_length

HEIGHT, WIDTH = 16, 32
TILED = 0.4
"""Random kernels look as far to the edges of tiles as to their middle: a third of the spread at most."""


def seeded(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights that keep a signal: fan-in scaled kernels, norm gains near 1, so nothing is trivially equal."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=g)
            if "gamma" in name or (p.ndim == 1 and name.endswith("norm.weight")):
                p.copy_(1 + 0.2 * noise)
            elif p.ndim > 1:
                p.copy_(noise / math.sqrt(p[0].numel()))
            else:
                p.copy_(0.1 * noise)
    return model.eval()


def wan21() -> AutoencoderKLWan:
    mean, std = torch.linspace(-1, 1, 4).tolist(), torch.linspace(0.5, 2, 4).tolist()
    return seeded(
        AutoencoderKLWan(
            base_dim=4, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, latents_mean=mean, latents_std=std
        )
    )


def wan22() -> AutoencoderKLWan:
    """Wan 2.2's residual class on 2x2 patches, with the pocket world's factors: 8 in space, 4 in time."""
    mean, std = torch.linspace(-0.5, 0.5, 6).tolist(), torch.linspace(0.4, 1.5, 6).tolist()
    return seeded(
        AutoencoderKLWan(
            base_dim=4,
            decoder_base_dim=4,
            z_dim=6,
            dim_mult=[1, 2, 2],
            num_res_blocks=1,
            temperal_downsample=[True, True],
            in_channels=12,
            out_channels=12,
            patch_size=2,
            is_residual=True,
            latents_mean=mean,
            latents_std=std,
        )
    )


@pytest.fixture(scope="module", params=[wan21, wan22], ids=["wan2.1", "wan2.2"])
def vae(request: pytest.FixtureRequest) -> VideoVAE:
    return VideoVAE(request.param())


def flux_vae() -> ImageVAE:
    model = AutoencoderKL(
        block_out_channels=[8, 16],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return ImageVAE(seeded(model))


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def test_factors_come_from_the_layers(vae: VideoVAE) -> None:
    z = vae.encode_image(pixels(2))
    m = vae.spatial_compression
    assert z.shape == (2, vae.latent_channels, HEIGHT // m, WIDTH // m)
    assert m == 8


def test_first_latent_of_every_chunk_is_its_keyframe_alone(vae: VideoVAE) -> None:
    video = pixels(2, 9 + 5 + 1)
    z = vae.encode_chunks(video, [9, 5, 1])
    assert z.shape[2] == 3 + 2 + 1
    for frame, latent in ((0, 0), (9, 3), (14, 5)):
        assert torch.allclose(z[:, :, latent], vae.encode_image(video[:, frame]), atol=1e-5)


def test_chunks_equal_the_stock_model_called_on_each_alone(vae: VideoVAE) -> None:
    video = pixels(1, 5 + 9 + 5)
    z = vae.encode_chunks(video, [5, 9, 5])
    config = vae.model.config
    mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)
    frames = list(vae.decode_chunks(z, [2, 3, 2]))
    assert [f.shape[1] for f in frames] == [5, 9, 5]
    for piece, latent, out in zip(video.split([5, 9, 5], 1), z.split([2, 3, 2], 2), frames, strict=True):
        with torch.no_grad():
            stock = vae.model.encode(piece.transpose(1, 2) * 2 - 1).latent_dist.mode()
            back = vae.model.decode(latent * std + mean).sample.transpose(1, 2) / 2 + 0.5
        assert torch.allclose(latent, (stock - mean) / std, atol=1e-5)
        assert torch.allclose(out, back, atol=1e-5)
    assert not torch.allclose(frames[0], frames[2], atol=1e-2)


def test_chunks_do_not_see_each_other(vae: VideoVAE) -> None:
    video = pixels(1, 10)
    other = torch.cat([pixels(1, 5, seed=7), video[:, 5:]], dim=1)
    a, b = vae.encode_chunks(video, [5, 5]), vae.encode_chunks(other, [5, 5])
    assert torch.allclose(a[:, :, 2:], b[:, :, 2:], atol=1e-6) and not torch.allclose(a[:, :, :2], b[:, :, :2])
    joint = vae.encode_chunks(torch.cat([video, video[:, -1:].repeat(1, 3, 1, 1, 1)], 1), [13])
    assert not torch.allclose(joint[:, :, 2], a[:, :, 2], atol=1e-3)  # without chunks frame 5 is not on its own


def test_one_row_at_a_time_equals_batched(vae: VideoVAE) -> None:
    narrow = VideoVAE(vae.model, pixels_per_call=1)
    video = pixels(2, 10)
    z = vae.encode_chunks(video, [5, 5])
    assert torch.allclose(z, narrow.encode_chunks(video, [5, 5]), atol=1e-5)
    many, one = (torch.cat(list(v.decode_chunks(z, [2, 2])), 1) for v in (vae, narrow))
    assert torch.allclose(many, one, atol=1e-5)


def test_decoding_streams(vae: VideoVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = VideoVAE(vae.model, pixels_per_call=1)
    z = vae.encode_chunks(pixels(1, 14), [5, 9])
    calls: list[int] = []
    stock = vae.model.decoder.forward

    def counted(x: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        calls.append(x.shape[2])
        return stock(x, *args, **options)

    monkeypatch.setattr(vae.model.decoder, "forward", counted)
    stream = narrow.decode_chunks(z, [2, 3])
    assert calls == []
    assert next(stream).shape[1] == 1 and calls == [1]
    parts = [part.shape[1] for part in stream]
    assert parts == [4, 1, 4, 4] and calls == [1] * 5


def test_parts_of_a_chunk_are_the_chunk(vae: VideoVAE) -> None:
    z = vae.encode_chunks(pixels(2, 9), [9])
    (whole,) = vae.decode_chunks(z, [3])
    parts = torch.cat(list(VideoVAE(vae.model, pixels_per_call=1).decode_chunks(z, [3])), 1)
    assert torch.allclose(parts, whole, atol=1e-5)
    with torch.no_grad():
        stock = vae.model.decode(z * vae._std + vae._mean).sample.transpose(1, 2) / 2 + 0.5
    assert torch.equal(whole, stock.clamp(0, 1))


def test_image_roundtrip_is_the_video_s_first_frame(vae: VideoVAE) -> None:
    video = pixels(2, 5)
    first = next(vae.decode_chunks(vae.encode_chunks(video, [5]), [2]))[:, 0]
    alone = vae.decode_image(vae.encode_image(video[:, 0]))
    assert torch.allclose(first, alone, atol=1e-5)
    assert alone.dtype == torch.float32 and alone.min() >= 0 and alone.max() <= 1


@given(lengths=st.lists(st.integers(0, 2), min_size=1, max_size=4), rows=st.integers(1, 2))
@settings(max_examples=8, deadline=None)
def test_any_grid_of_chunks_keeps_its_frame_counts(lengths: list[int], rows: int) -> None:
    vae = VideoVAE(wan22())
    chunks = [4 * n + 1 for n in lengths]
    video = pixels(rows, sum(chunks))
    z = vae.encode_chunks(video, chunks)
    latent_chunks = [latent_length(n) for n in chunks]
    assert z.shape[2] == sum(latent_chunks)
    frames = torch.cat(list(vae.decode_chunks(z, latent_chunks)), dim=1)
    assert frames.shape == video.shape


@given(frames=st.integers(1, 500))
def test_latent_length_takes_exactly_4n_plus_1(frames: int) -> None:
    if frames % 4 == 1:
        assert 4 * (latent_length(frames) - 1) + 1 == frames
    else:
        with pytest.raises(InputError, match="4n"):
            latent_length(frames)


@pytest.mark.parametrize("chunks", [[4, 6], [5, 6], [0, 5], [10], [-3, 13]])
def test_other_counts_than_4n_plus_1_are_refused(vae: VideoVAE, chunks: list[int]) -> None:
    with pytest.raises(InputError, match=r"chunks\[\d\]: a chunk has 4n\+1 frames .* use \d+ or \d+ frames"):
        vae.encode_chunks(pixels(1, sum(chunks)), chunks)


def test_faulty_input_names_field_rule_and_fix(vae: VideoVAE) -> None:
    with pytest.raises(InputError, match="chunks: must cover the video exactly .*5 frames.* 10 frames"):
        vae.encode_chunks(pixels(1, 10), [5])
    with pytest.raises(InputError, match="latent_chunks: must cover the latents exactly"):
        vae.decode_chunks(torch.zeros(1, vae.latent_channels, 3, 2, 4), [2])
    with pytest.raises(InputError, match=r'images: width and height must divide by 8 .*"30x16".*resize to 32x16'):
        vae.encode_image(torch.zeros(1, 3, 16, 30))
    with pytest.raises(InputError, match=r"images: must have the shape \[B, 3, H, W\]"):
        vae.encode_image(torch.zeros(3, 16, 32))
    with pytest.raises(InputError, match="video: must have the shape"):
        vae.encode_chunks(torch.zeros(1, 5, 1, 16, 32), [5])
    with pytest.raises(InputError, match="latents: must have the shape"):
        vae.decode_image(torch.zeros(1, vae.latent_channels + 1, 2, 4))


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 255.0])
def test_values_that_are_no_pixels_are_refused(vae: VideoVAE, value: float) -> None:
    image = pixels(1)
    image[0, 1, 3, 3] = value
    for codec in (vae, flux_vae()):
        with pytest.raises(InputError, match="images: values must be numbers in 0…1"):
            codec.encode_image(image)


def test_a_vae_with_another_time_factor_is_refused() -> None:
    model = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, False, True]
    )
    with pytest.raises(InputError, match="the VAE must compress time 4 times"):
        VideoVAE(model)


def test_image_vae_normalises_with_scale_and_shift() -> None:
    vae, images = flux_vae(), pixels(3)
    z = vae.encode_image(images)
    assert vae.spatial_compression == 2 and z.shape == (3, 4, HEIGHT // 2, WIDTH // 2)
    with torch.no_grad():
        stock = vae.model.encode(images * 2 - 1).latent_dist.mode()
        back = (vae.model.decode(stock).sample / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(z, (stock - 0.1159) * 0.3611, atol=1e-5)
    assert torch.allclose(vae.decode_image(z), back, atol=1e-5)
    assert torch.allclose(z, ImageVAE(vae.model, pixels_per_call=1).encode_image(images), atol=1e-5)


def test_bf16_weights_give_fp32_latents_and_pixels() -> None:
    images = pixels(1)
    reference = VideoVAE(wan22())
    vae = VideoVAE(wan22().to(torch.bfloat16))
    z = vae.encode_image(images)
    assert z.dtype == torch.float32 and vae.decode_image(z).dtype == torch.float32
    exact = reference.encode_image(images)
    assert not torch.equal(z, exact)
    assert torch.nn.functional.cosine_similarity(z.flatten(), exact.flatten(), dim=0) > 0.99


def test_group_offloading_changes_nothing() -> None:
    video = pixels(1, 10)
    plain, offloaded = VideoVAE(wan21()), wan21()
    apply_group_offloading(
        offloaded, onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    z = VideoVAE(offloaded).encode_chunks(video, [5, 5])
    assert torch.equal(z, plain.encode_chunks(video, [5, 5]))


def test_saved_and_loaded_models_encode_alike(tmp_path: Path) -> None:
    model = wan21()
    model.save_pretrained(tmp_path)
    again = VideoVAE(AutoencoderKLWan.from_pretrained(tmp_path))
    assert torch.equal(again.encode_image(pixels(1)), VideoVAE(model).encode_image(pixels(1)))


# --- tiles ------------------------------------------------------------------------------------------------------------


def large(*shape: int) -> torch.Tensor:
    """Smooth pictures of 64x96: what pictures are like, and what a tile can be judged by."""
    coarse = torch.rand(*shape, 3, 8, 12, generator=torch.Generator().manual_seed(4))
    return torch.nn.functional.interpolate(coarse.flatten(0, -4), (64, 96), mode="bilinear").view(*shape, 3, 64, 96)


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Root mean square difference, of the spread of what is right."""
    return float((a - b).square().mean().sqrt() / b.std())


@given(st.integers(1, 40), st.integers(1, 40), st.integers(4, 16), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_tiles_cover_a_frame_and_count_for_one(height: int, width: int, side: int, scale: int) -> None:
    cells = torch.rand(2, height, width, generator=torch.Generator().manual_seed(1))
    fine = cells.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    sizes = set()

    def run(rows: slice, columns: slice) -> torch.Tensor:
        part = cells[:, rows, columns]
        sizes.add(part.shape[1:])
        return part.repeat_interleave(scale, 1).repeat_interleave(scale, 2)

    assert torch.allclose(assemble(run, height, width, side, scale), fine, atol=1e-5)
    assert sizes == {(min(height, side), min(width, side))}  # no slivers


def test_tiled_is_close_to_whole_and_closer_in_larger_tiles(vae: VideoVAE) -> None:
    video = large(1, 5)
    z = vae.encode_chunks(video, [5])
    y = torch.cat(list(vae.decode_chunks(z, [2])), 1)
    found = []
    for tile in (32, 64):
        tiled = VideoVAE(vae.model, tiling=Tiling("on", tile))
        pixels_apart = apart(torch.cat(list(tiled.decode_chunks(z, [2])), 1), y)
        found.append((apart(tiled.encode_chunks(video, [5]), z), pixels_apart))
    (coarse_z, coarse_y), (fine_z, fine_y) = found
    assert 0 < fine_z < coarse_z and fine_z < TILED and 0 < fine_y < coarse_y and fine_y < TILED


def test_a_frame_in_one_tile_is_not_touched(vae: VideoVAE) -> None:
    video = large(1, 5)
    tiled, whole = (VideoVAE(vae.model, tiling=tiling) for tiling in (Tiling("on", 96), Tiling("off", 64)))
    z = vae.encode_chunks(video, [5])
    assert torch.equal(tiled.encode_chunks(video, [5]), z) and torch.equal(whole.encode_chunks(video, [5]), z)
    (y,) = vae.decode_chunks(z, [2])
    assert torch.equal(next(tiled.decode_chunks(z, [2])), y) and torch.equal(next(whole.decode_chunks(z, [2])), y)


def mochi_vae() -> MochiVAE:
    return MochiVAE(tiny_mochi_vae())


@pytest.mark.parametrize("make", [lambda: VideoVAE(wan21()), lambda: VideoVAE(wan22()), mochi_vae])
def test_windows_of_tiles_are_one_video(make, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make()
    codec.tiling, codec.pixels_per_call = Tiling("on", 64), 1
    z = torch.randn(2, codec.latent_channels, 3, 8, 12, generator=torch.Generator().manual_seed(2))

    def decode() -> list[torch.Tensor]:
        return list(codec.decode_stream(z))

    whole = torch.cat(decode(), 1)
    monkeypatch.setattr(vae_module, "_WINDOW", 1)
    parts = decode()
    assert len(parts) == 3 and parts[0].shape[1] == 1
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-5)


def test_any_video_vae_takes_chunks() -> None:
    """Every chunk is a video of its own, also where a VAE knows no chunks."""
    codec = mochi_vae()
    video = torch.cat([large(1, 7), large(1, 1)], 1)
    z = codec.encode_chunks(video, [7, 1])
    assert torch.equal(z, torch.cat([codec.encode_video(video[:, :7]), codec.encode_video(video[:, 7:])], 2))
    frames = torch.cat(list(codec.decode_chunks(z, [2, 1])), 1)
    assert torch.equal(frames, torch.cat([codec.decode_video(z[:, :, :2]), codec.decode_video(z[:, :, 2:])], 1))


def test_pictures_and_mochi_in_tiles() -> None:
    image, picture = flux_vae(), large(1)
    tiled = ImageVAE(image.model, tiling=Tiling("on", 48))
    z = image.encode_image(picture)
    assert 0 < apart(tiled.encode_image(picture), z) < TILED
    assert 0 < apart(tiled.decode_image(z), image.decode_image(z)) < TILED
    mochi = mochi_vae()
    z = mochi.encode_image(picture)
    mochi.tiling = Tiling("on", 64)
    assert mochi.encode_image(picture).shape == z.shape
    assert mochi.decode_image(z).shape == picture.shape


def test_auto_cuts_what_is_large_or_does_not_fit(vae: VideoVAE, monkeypatch: pytest.MonkeyPatch) -> None:
    image = large(1)
    whole, tiled = (VideoVAE(vae.model, tiling=Tiling(mode, 64)).encode_image(image) for mode in ("off", "on"))

    def auto(**options: int) -> torch.Tensor:
        return VideoVAE(vae.model, tiling=Tiling("auto", 64, **options)).encode_image(image)

    assert torch.equal(auto(), whole) and not torch.equal(whole, tiled)
    assert torch.equal(auto(largest=64 * 96), whole) and torch.equal(auto(largest=64 * 96 - 1), tiled)
    monkeypatch.setattr(vae_tiling, "_free_memory", lambda device: 1e5)
    assert torch.equal(auto(), tiled)
    monkeypatch.setattr(vae_tiling, "_free_memory", lambda device: None)  # not known
    assert torch.equal(auto(), whole)


def test_free_memory_is_told() -> None:
    free = vae_tiling._free_memory(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e14


@pytest.mark.cuda
def test_cuda_bf16_agrees_with_cpu() -> None:
    video = pixels(1, 10)
    cpu, gpu = VideoVAE(wan22()), VideoVAE(wan22().to("cuda", torch.bfloat16))
    a, b = cpu.encode_chunks(video, [5, 5]), gpu.encode_chunks(video, [5, 5])
    assert b.device.type == "cuda" and b.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(a.flatten(), b.cpu().flatten(), dim=0) > 0.99
    assert sum(f.shape[1] for f in gpu.decode_chunks(b, [2, 2])) == 10
