"""Exact tokens and FLOPs of one forward pass of the Flux class, for any layout of pairs; see `models.cost`.

Sources: hybrid attention of Captain Cinema §3.2 (double-stream blocks local to a pair, single-stream blocks over all
pairs), Table 3 (what compression saves).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch

from ....core.errors import InputError
from ...cost import Config, Cost, Output, Pair, count_flops
from ...layouts.pair_cache import KVCache
from ...layouts.pairs import Mode, Pairs
from .headless import CaptainFlux

__all__ = ["FLUX_DEV", "count_flux", "empty_pairs", "flux_cost"]

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
