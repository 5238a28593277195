"""Memories of captions of different lengths: filling the cache, what it takes, and whether steps compile once.

A random Flux of 6 + 12 blocks, 256 wide, draws a frame of 25×50 tokens beside 47 that GoldenMem remembers.
"""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters

from ..evaluation.metrics.cost import seconds, unit
from ..memory.golden_mem import GoldenMem
from ..models.backbones.flux.headless import CaptainFlux
from ..models.io.loading import compile_blocks
from ..models.layouts.pair_cache import KVCache
from ..models.layouts.pairs import Pairs
from .table import Row, row

__all__ = ["CONFIG", "FRAME", "captions", "memory_pairs", "new_pair", "ragged_rows"]

CONFIG: dict[str, Any] = {
    "in_channels": 64,
    "num_layers": 6,
    "num_single_layers": 12,
    "attention_head_dim": 128,
    "num_attention_heads": 2,
    "joint_attention_dim": 256,
    "pooled_projection_dim": 64,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
"""FLUX.1-dev's heads, a twelfth of their number."""

FRAME, REMEMBERED = (25, 50), 47
SHORTEST, LONGEST, MEAN = 40, 90, 65


def captions(count: int, seed: int = 0) -> list[int]:
    """Lengths of 40 to 90 tokens that sum to 65 each."""
    rng = random.Random(seed)
    lengths = [rng.randint(SHORTEST, LONGEST) for _ in range(count)]
    while (off := sum(lengths) - count * MEAN) != 0:
        at = rng.randrange(count)
        lengths[at] = min(LONGEST, max(SHORTEST, lengths[at] - (off > 0) + (off < 0)))
    return lengths


def memory_pairs(config: dict[str, Any], lengths: list[int], frame: tuple[int, int] = FRAME, rows: int = 1) -> Pairs:
    """Random remembered frames at their GoldenMem sizes, the least relevant first, with captions of these lengths."""
    count = len(lengths)
    sizes = [slot.size for slot in GoldenMem(3, -(-count // 3)).plan(count, frame)][::-1]
    return _pairs(config, sizes, lengths, list(range(-count, 0)), frame, rows, 0.1)


def new_pair(config: dict[str, Any], frame: tuple[int, int] = FRAME, t: float = 0.7, rows: int = 1) -> Pairs:
    """One random new frame."""
    return _pairs(config, [frame], [MEAN], [0], frame, rows, t)


def _pairs(
    config: dict[str, Any],
    sizes: list[tuple[int, int]],
    lengths: list[int],
    frames: list[int],
    reference: tuple[int, int],
    rows: int,
    t: float,
) -> Pairs:
    g = torch.Generator().manual_seed(len(sizes))

    def draw(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=g).expand(rows, *(-1 for _ in shape))

    return Pairs(
        latents=[draw(h * w, config["in_channels"]) for h, w in sizes],
        sizes=sizes,
        texts=[draw(length, config["joint_attention_dim"]) for length in lengths],
        pooled=draw(len(sizes), config["pooled_projection_dim"]),
        timestep=torch.full((rows, len(sizes)), t),
        guidance=torch.full((rows, len(sizes)), 3.5),
        frames=frames,
        reference=reference,
    )


@torch.no_grad()
def ragged_rows(repeats: int = 3) -> list[Row]:
    """Rows of what, ours, reference, ratio; see the module's text. Takes some minutes on a CPU."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = loud(CaptainFlux(**CONFIG).eval())
    ragged = memory_pairs(CONFIG, captions(REMEMBERED))
    equal = memory_pairs(CONFIG, [MEAN] * REMEMBERED)

    def fill(pairs: Pairs, packs: bool) -> KVCache:
        model.packs = packs
        return model.encode_context(pairs)

    calls = {
        "ragged": lambda: fill(ragged, True),
        "equal": lambda: fill(equal, True),
        "ragged by shape": lambda: fill(ragged, False),
        "equal by shape": lambda: fill(equal, False),
    }
    taken = seconds(calls, repeats, device=model.device)
    model.packs = True
    what = f"{unit(model.device)} to fill the cache with {REMEMBERED} frames"
    told = f"captions of {SHORTEST}–{LONGEST} tokens"
    rows = [
        row(f"{what}, {told}; reference: equal captions", taken["ragged"], taken["equal"]),
        row(f"{what}, {told}; reference: a shape at a time", taken["ragged"], taken["ragged by shape"]),
        row(
            f"{what}, a shape at a time, {told}; reference: equal captions",
            taken["ragged by shape"],
            taken["equal by shape"],
        ),
        row(f"{what}, equal captions; reference: a shape at a time", taken["equal"], taken["equal by shape"]),
    ]
    return rows + cache_rows(model, ragged) + compiled_rows()


def loud(model: CaptainFlux) -> CaptainFlux:
    """Redraws weights so that every layer keeps its signal; as PyTorch draws them, a frame hardly sees its memory."""
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    return model


def cache_rows(model: CaptainFlux, memory: Pairs) -> list[Row]:
    """What a cache takes in every precision, beside one in bf16 with a copy for each of guidance's two rows (counted: a
    batch of both needs it), and how far a new frame's velocity turns, beside how far it does without any memory.
    """
    new = new_pair(CONFIG)
    whole = model.encode_context(memory)

    def velocity(past: KVCache | None) -> Tensor:
        return torch.cat(model.forward_pairs(new, "causal", past), 1).double().flatten()

    expected = velocity(whole)

    def alike(past: KVCache | None) -> float:
        return float(F.cosine_similarity(velocity(past), expected, dim=0))

    forgetful = alike(None)
    copies = 2 * whole.bytes * torch.bfloat16.itemsize // whole.keys[0].element_size()
    rows = []
    for precision in ("bf16", "fp8"):
        past = model.encode_context(memory, precision=precision)
        name = f"cache in {precision}, shared by guidance's rows"
        rows.append(
            row(f"MiB of a {name}; reference: bf16, a copy for each, counted", past.bytes / 2**20, copies / 2**20)
        )
        what = f"cosine of a new frame's velocity to that with a cache in the model's precision, {name}"
        rows.append(row(f"{what}; reference: no memory", alike(past), forgetful))
    return rows


@torch.no_grad()
def compiled_rows(backend: str = "inductor") -> list[Row]:
    """Graphs that a small model's blocks are compiled to at 8 pairs, then at 48: after two steps there are no new ones.
    Blocks that could not be compiled whole would stop this.
    """
    small = CONFIG | {"num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6)}
    model = CaptainFlux(**small).eval()
    compile_blocks(model, backend=backend, fullgraph=True)
    frame = (5, 10)
    rows = []
    for pairs in (8, 48):
        past = model.encode_context(memory_pairs(small, captions(pairs - 1), frame))
        graphs = []
        for step in range(6):
            model.forward_pairs(new_pair(small, frame, 1 - step / 6), "causal", past)
            graphs.append(counters["stats"]["unique_graphs"])
        what = f"graphs compiled after 6 steps with {pairs} pairs; reference: after 2 steps"
        rows.append(row(what, graphs[-1], graphs[1]))
    return rows
