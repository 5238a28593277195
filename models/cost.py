"""Exact tokens and FLOPs of one forward pass of the Flux and Wan classes, for any layout of frames and text.

Closed forms of every matrix product and convolution in the model, two operations per multiply-add. Norms, activations
and other element-wise work are left out, as is usual. `count_flops` counts a real call of the real class with
torch's `FlopCounterMode` instead; on the meta device that costs neither memory nor time, and the two agree exactly.

Sources: hybrid attention of Captain Cinema §3.2 (double-stream blocks local to a pair, single-stream blocks over all
pairs), Table 3 (what compression saves); SmartDirector §3.2 (one timestep per latent frame).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import InputError
from ..memory.golden_mem import Size, Slot
from .backbones.flux.headless import CaptainFlux, KVCache, Pairs
from .backbones.wan.headless import DirectorWan

__all__ = [
    "FLUX_DEV",
    "WAN",
    "Cost",
    "Pair",
    "count_flops",
    "count_flux",
    "count_wan",
    "empty_pairs",
    "flux_cost",
    "memory_pairs",
    "wan_cost",
]

Config = Mapping[str, Any]
Mode = Literal["full", "causal", "local"]
Output = Literal["image", "all", "none"]

FLUX_DEV: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
"""FluxTransformer2DModel config of FLUX.1-dev."""

_WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "cross_attn_norm": True,
}
WAN: dict[str, dict[str, Any]] = {
    "wan2.1-t2v-1.3b": {**_WAN, "num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "wan2.1-t2v-14b": {**_WAN, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    "wan2.1-i2v-14b": {
        **_WAN,
        **{"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
        **{"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
    },
    "wan2.2-ti2v-5b": {
        **_WAN,
        **{"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30, "in_channels": 48, "out_channels": 48},
    },
    "wan2.2-t2v-a14b": {**_WAN, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    "wan2.2-i2v-a14b": {**_WAN, "num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40, "in_channels": 36},
}
"""WanTransformer3DModel configs of the public models; a step of Wan 2.2's A14B runs one of its two experts."""


@dataclass(frozen=True)
class Pair:
    """One image-text pair of the packed sequence: (height, width) of the image in tokens, and caption tokens."""

    image: Size
    text: int

    @property
    def tokens(self) -> int:
        """Image and caption tokens together."""
        return self.image[0] * self.image[1] + self.text


@dataclass(frozen=True)
class Cost:
    """What one forward pass takes.

    Attributes:
        tokens: tokens that pass through the network, of one batch row.
        cached: tokens that are only attended to, through cached keys and values.
        parts: FLOPs of each part of the model.
    """

    tokens: int
    cached: int = 0
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def flops(self) -> int:
        """All FLOPs."""
        return sum(self.parts.values())

    @property
    def attention(self) -> int:
        """FLOPs of the attention products alone, the part that grows with the square of the length."""
        return sum(flops for part, flops in self.parts.items() if part.endswith("attention"))


def flux_cost(
    config: Config,
    pairs: Sequence[Pair],
    *,
    mode: Mode = "full",
    cached: Sequence[Pair] = (),
    output: Output = "image",
    batch: int = 1,
) -> Cost:
    """Cost of one forward of a Flux-class model over interleaved pairs (Captain Cinema §3.2).

    Args:
        config: diffusers config of the FluxTransformer2DModel.
        pairs: the pairs that pass through the network, in order.
        mode: mask of the single-stream blocks: `full`, `causal` by pair, or `local` (each pair alone).
        cached: context pairs whose keys and values are cached, seen by all `pairs`. Filling that cache is one
            `flux_cost(config, cached, mode="causal", output="none")`, once per frame instead of once per step.
        output: what the last projection turns into velocity: the `image` tokens, `all` tokens, or `none` of them.
        batch: rows of the batch.

    Raises:
        InputError: no pairs, an unknown mode or output, a size below 1, or a cache with `local`.
    """
    if not pairs:
        raise InputError("pairs", "must have at least one pair", 0, "give the frames to compute")
    if mode not in get_args(Mode):
        raise InputError("mode", f"must be one of {', '.join(get_args(Mode))}", mode, "choose one of them")
    if output not in get_args(Output):
        raise InputError("output", f"must be one of {', '.join(get_args(Output))}", output, "choose one of them")
    if cached and mode == "local":
        raise InputError("cached", "needs full or causal attention", mode, "local attention reads no context")
    for pair in (*pairs, *cached):
        if min(*pair.image, pair.text + 1) < 1:
            raise InputError("pairs", "must have sizes of at least 1 and text of at least 0", pair, "correct the pair")
    d = config["num_attention_heads"] * config["attention_head_dim"]
    double, single = config["num_layers"], config["num_single_layers"]
    channels = config["in_channels"]
    out = (config.get("out_channels") or channels) * config.get("patch_size", 1) ** 2
    count = len(pairs)
    lengths = [pair.tokens for pair in pairs]
    total = sum(lengths)
    text = sum(pair.text for pair in pairs)
    image = total - text
    before = sum(pair.tokens for pair in cached)

    local = sum(n * n for n in lengths)
    if mode == "full":
        scores = total * (before + total)
    elif mode == "causal":
        scores = sum(n * (before + sum(lengths[: p + 1])) for p, n in enumerate(lengths))
    else:
        scores = local

    embedders = 1 + bool(config.get("guidance_embeds"))  # timestep, and guidance
    parts = {
        "embedding": image * channels * d + text * config["joint_attention_dim"] * d,
        # 256 sinusoids → d → d, and the pooled text → d → d, for every pair: each has its own timestep and caption.
        "conditioning": count * (embedders * (256 * d + d * d) + config["pooled_projection_dim"] * d + d * d),
        # Six modulation vectors for image and for text; then queries, keys, values, output, and a 4× MLP.
        "double modulation": double * count * 12 * d * d,
        "double linear": double * total * 12 * d * d,
        "double attention": double * local * 2 * d,
        "single modulation": single * count * 3 * d * d,
        "single linear": single * total * 12 * d * d,
        "single attention": single * scores * 2 * d,
        "output": count * 2 * d * d + (total if output == "all" else image) * d * out,
    }
    if output == "none":
        del parts["output"]
    return Cost(total, before, {name: 2 * batch * products for name, products in parts.items()})


def wan_cost(
    config: Config,
    latent: tuple[int, int, int],
    *,
    text: int = 512,
    timesteps: int = 1,
    image: int = 0,
    batch: int = 1,
) -> Cost:
    """Cost of one forward of a Wan-class model.

    Args:
        config: diffusers config of the WanTransformer3DModel.
        latent: (frames, height, width) of the latent, before patches. Multi-chunk latents count all chunks' frames.
        text: text tokens; Wan pads to 512.
        timesteps: distinct timesteps in a row: 1 (stock), the latent frames (SmartDirector §3.2: clean keyframes), or
            the tokens (stock Wan 2.2 5B image-to-video).
        image: CLIP image tokens (257 for Wan 2.1 image-to-video).
        batch: rows of the batch.

    Raises:
        InputError: a latent that the patches do not divide, or image tokens the model cannot take.
    """
    pt, ph, pw = config["patch_size"]
    if any(side < 1 or side % patch for side, patch in zip(latent, (pt, ph, pw), strict=True)):
        rule = f"must be multiples of the patches {(pt, ph, pw)}"
        raise InputError("latent", rule, latent, "choose a size the model can cut into patches")
    image_dim, added = config.get("image_dim") or 0, config.get("added_kv_proj_dim") or 0
    if image and not (image_dim and added):
        raise InputError("image", "needs a model with image_dim and added_kv_proj_dim", image, "use 0 for this model")
    d = config["num_attention_heads"] * config["attention_head_dim"]
    layers, patch = config["num_layers"], pt * ph * pw
    out = config.get("out_channels") or config["in_channels"]
    tokens = math.prod(latent) // patch
    parts = {
        "embedding": tokens * config["in_channels"] * patch * d + text * (config["text_dim"] * d + d * d),
        # Sinusoids → d → d, then six modulation vectors, once for all blocks.
        "conditioning": timesteps * (config["freq_dim"] * d + d * d + 6 * d * d),
        "self linear": layers * tokens * 4 * d * d,
        "self attention": layers * tokens * tokens * 2 * d,
        "cross linear": layers * (tokens * 2 * d * d + text * 2 * d * d),
        "cross attention": layers * tokens * text * 2 * d,
        "mlp linear": layers * tokens * 2 * d * config["ffn_dim"],
        "output": tokens * d * out * patch,
    }
    if image:
        parts["embedding"] += image * (image_dim * image_dim + image_dim * d)
        parts["cross linear"] += layers * image * 2 * added * d
        parts["cross attention"] += layers * tokens * image * 2 * d
    return Cost(tokens, 0, {name: 2 * batch * products for name, products in parts.items()})


def memory_pairs(slots: Sequence[Slot], text: int | Sequence[int]) -> list[Pair]:
    """Return the context pairs of a GoldenMem plan, with caption tokens of each frame, or one number for all."""
    texts = [text] * len(slots) if isinstance(text, int) else list(text)
    if len(texts) != len(slots):
        rule = f"must have one entry for each of the {len(slots)} slots"
        raise InputError("text", rule, len(texts), "give one per slot")
    return [Pair(slot.size, length) for slot, length in zip(slots, texts, strict=True)]


def count_flops(call: Callable[[], object]) -> int:
    """Run `call` without gradients and return the FLOPs that torch's `FlopCounterMode` sees.

    With model and inputs on the meta device nothing is computed, so a full-size model counts in seconds.
    """
    # The counter has no formula for the CPU's fused attention; the plain kernel is made of products it does count.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def count_flux(model: CaptainFlux, pairs: Sequence[Pair], *, mode: Mode = "full", cached: Sequence[Pair] = ()) -> int:
    """Count one `forward_pairs` of a model (best on the meta device), as `flux_cost(…, output="all")` computes it.

    Filling the cache with `cached` is not counted: that is `count_flops(lambda: model.encode_context(…))`.
    """
    past: KVCache | None = None
    if cached:
        context = empty_pairs(model, cached)
        with torch.no_grad():
            past = model.encode_context(context)
    inputs = empty_pairs(model, pairs)
    return count_flops(lambda: model.forward_pairs(inputs, mode, past))


def empty_pairs(model: CaptainFlux, pairs: Sequence[Pair]) -> Pairs:
    """Return inputs of the right shapes for `pairs`, one row, on the model's device; zeros."""
    config, device, dtype = model.config, model.device, model.dtype
    count = len(pairs)

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device=device, dtype=dtype)

    return Pairs(
        latents=[zeros(1, pair.image[0] * pair.image[1], config.in_channels) for pair in pairs],
        sizes=[pair.image for pair in pairs],
        texts=[zeros(1, pair.text, config.joint_attention_dim) for pair in pairs],
        pooled=zeros(1, count, config.pooled_projection_dim),
        timestep=zeros(1, count),
        guidance=zeros(1, count) if config.guidance_embeds else None,
    )


def count_wan(model: DirectorWan, latent: tuple[int, int, int], *, text: int = 512) -> int:
    """Count one `forward_chunks` of a model (best on the meta device): a timestep for each latent frame."""
    frames, height, width = latent
    config, device = model.config, model.device
    latents = torch.zeros(1, config.in_channels, frames, height, width, device=device)
    timestep = torch.zeros(1, frames, device=device)
    tokens = torch.zeros(1, text, config.text_dim, device=device)
    index = torch.arange(frames, dtype=torch.float64)
    return count_flops(lambda: model.forward_chunks(latents, timestep, tokens, index))
