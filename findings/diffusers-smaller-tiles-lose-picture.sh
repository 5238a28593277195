#!/usr/bin/env bash
# Smaller VAE tiles make the film smaller: 480 × 832 comes out as 352 × 576, with stripes missing in between.
#
# Version:     diffusers 0.42.1, torch 2.14.1
# Expectation: enable_tiling(tile_sample_min_height=128, tile_sample_min_width=128), to save memory, changes how the
#              work is cut and at most the seams; the step from tile to tile follows, or the call is refused.
# Behaviour:   the step is an argument of its own and stays at 192. Tiles of 128 every 192 pixels leave gaps, which are
#              left out when the tiles are put together; no error, no warning. It outlives the call: after a
#              later enable_tiling() without arguments the tiles are still those of 128. Encoding loses as much. In
#              AutoencoderKLWan as in AutoencoderKLQwenImage.
# Consequence: always give the strides, smaller than the tiles.
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
python3 -m venv "$here/venv"
"$here/venv/bin/pip" install -q --no-compile --disable-pip-version-check torch==2.14.1 diffusers==0.42.1 numpy==2.4.6
HF_HUB_OFFLINE=1 "$here/venv/bin/python" - <<'PY'
import diffusers, torch

torch.set_grad_enabled(False)
print("diffusers", diffusers.__version__)
seen = {}
for family in (diffusers.AutoencoderKLWan, diffusers.AutoencoderKLQwenImage):
    torch.manual_seed(0)
    vae = family(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    ).eval()
    latents = torch.randn(1, 4, 1, 60, 104)
    for name, tiles in {
        "default tiles": {},
        "192": dict(tile_sample_min_height=192, tile_sample_min_width=192),
        "128, strides 96": dict(
            tile_sample_min_height=128, tile_sample_min_width=128,
            tile_sample_stride_height=96, tile_sample_stride_width=96,
        ),
        "a new VAE, 128": dict(tile_sample_min_height=128, tile_sample_min_width=128),
        "then no arguments": {},
    }.items():
        if name.startswith("a new"):
            vae = family.from_config(vae.config).eval()
        vae.enable_tiling(**tiles)
        frame = vae.decode(latents).sample
        code = vae.encode(torch.rand(1, 3, 1, 480, 832)).latent_dist.mode()
        seen[family, name] = *frame.shape[-2:], *code.shape[-2:]
        print(f"{family.__name__:22} {name:18} decoded {frame.shape[-2]} × {frame.shape[-1]}, encoded {code.shape[-2]} × {code.shape[-1]}")
whole = {size for (_, name), size in seen.items() if name in ("default tiles", "192", "128, strides 96")}
short = {size for (_, name), size in seen.items() if name in ("a new VAE, 128", "then no arguments")}
assert whole == {(480, 832, 60, 104)} and short == {(352, 576, 44, 72)}, "the strides follow now"
PY
# Output seen:
# diffusers 0.42.1
# AutoencoderKLWan       default tiles      decoded 480 × 832, encoded 60 × 104
# AutoencoderKLWan       192                decoded 480 × 832, encoded 60 × 104
# AutoencoderKLWan       128, strides 96    decoded 480 × 832, encoded 60 × 104
# AutoencoderKLWan       a new VAE, 128     decoded 352 × 576, encoded 44 × 72
# AutoencoderKLWan       then no arguments  decoded 352 × 576, encoded 44 × 72
# AutoencoderKLQwenImage default tiles      decoded 480 × 832, encoded 60 × 104
# AutoencoderKLQwenImage 192                decoded 480 × 832, encoded 60 × 104
# AutoencoderKLQwenImage 128, strides 96    decoded 480 × 832, encoded 60 × 104
# AutoencoderKLQwenImage a new VAE, 128     decoded 352 × 576, encoded 44 × 72
# AutoencoderKLQwenImage then no arguments  decoded 352 × 576, encoded 44 × 72
