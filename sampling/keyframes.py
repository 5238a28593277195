"""Captain Cinema's keyframes: new frames sampled beside a memory of earlier ones (§3.2).

Two ways, one loop. *Joint*: no context, all frames from noise, everyone sees everyone. *Extending*: given frames are
context, carrying a little noise of their own, and a window of new frames is generated after them; in causal mode
what the context contributes to attention is computed once and kept (exact, and the reason long memories are cheap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.errors import InputError
from ..memory.frame_memory import ContextFrame
from ..models.encoders.text_cond import TextCond
from ..models.layouts.pair_cache import CachePrecision, KVCache, check_precision
from ..models.layouts.pairs import (
    Mode,
    NoiseLevel,
    PairModel,
    Pairs,
    Size,
    check_noise,
    context_levels,
    pack_latent,
    token_size,
    unpack_latent,
)
from .flow import SOLVERS, Callback, SolverName, Velocity, check_sigmas, flow_sigmas, guided
from .noise import Generators, noise_like, seeds_of

__all__ = ["ContextFrame", "KeyframeSettings", "sample_keyframes"]


@dataclass(frozen=True)
class KeyframeSettings:
    """How keyframes are sampled.

    Attributes:
        steps: solver steps.
        shift: noise schedule shift (from ONE frame's length, never the packed sequence's).
        context_noise: t of the context frames, 0…1, or (low, high), between which every frame has a level of its own.
            The paper's timesteps 1–250 of 1000 work best (Fig. 10).
        mode: ``causal`` (context cached) or ``full`` (bidirectional, recomputed every step).
        guidance: distilled guidance, for models that take it.
        cache: keep the context's keys and values over the steps (causal mode only).
        cache_precision: what they are kept in: ``model`` (its own precision), ``bf16`` or ``fp8``.
        cfg: classifier-free guidance, v∅ + cfg·(v − v∅); 1 is off.
        sampler: ``euler``, ``heun`` or ``dpmpp_2m``, see `flow.SOLVERS`.
        sigmas: noise levels of one's own, 1 … 0, in place of steps and shift.
    """

    steps: int = 20
    shift: float = 1.0
    context_noise: NoiseLevel = 0.1
    mode: Mode = "causal"
    guidance: float | None = None
    cache: bool = True
    cfg: float = 1.0
    sampler: SolverName = "euler"
    sigmas: tuple[float, ...] | None = None
    cache_precision: CachePrecision = "model"

    @property
    def schedule(self) -> Tensor:
        """Noise levels 1 … 0, fp32 [steps + 1]."""
        return flow_sigmas(self.steps, self.shift) if self.sigmas is None else check_sigmas(self.sigmas)


def sample_keyframes(
    model: PairModel,
    prompts: Sequence[TextCond],
    shape: tuple[int, int, int],
    context: Sequence[ContextFrame[TextCond]] = (),
    settings: KeyframeSettings = KeyframeSettings(),
    generator: Generators = None,
    callback: Callback | None = None,
    negative: TextCond | None = None,
) -> list[Tensor]:
    """Sample one new frame per prompt (Captain Cinema §3.2, Fig. 3).

    Args:
        model: a network over pairs.
        prompts: W captions, each a TextCond of B rows: W frames are generated together.
        shape: (C, h, w) of a new frame's latent; h and w even.
        context: earlier frames, most relevant first; none means every frame comes from noise.
        settings: steps, noise, attention mode, guidance, solver.
        generator: CPU generator, or one per row, so that rows do not depend on their batch.
        callback: sees every step; `x` there is [B, W·tokens, 4C], the new frames packed one after the other.
        negative: what `settings.cfg` ≠ 1 leads away from, 1 or B rows, for all new frames; None is zeroed captions. The
            context keeps its captions, so guidance does not push away from what is remembered.

    Returns:
        W latents [B, C, h, w].

    Raises:
        InputError: no prompts, odd sizes, or settings out of range.
    """
    _check(prompts, shape, settings, negative)
    device, dtype = model.device, model.dtype
    batch, size = prompts[0].tokens.shape[0], (shape[1] // 2, shape[2] // 2)
    # the new frames' noise is drawn first: it does not depend on what is remembered
    x = torch.cat([pack_latent(noise_like((batch, *shape), generator)) for _ in prompts], 1).to(device)
    memory = _context_pairs(context, batch, size, settings, generator, device, dtype)
    cached = settings.cache and settings.mode == "causal"
    past = _encode(model, memory, settings.cache_precision) if cached and memory is not None else None

    def velocity_of(captions: Sequence[TextCond]) -> Velocity:
        # What stays over the steps is made once: a step waits for nothing on the host.
        fixed = _new_pairs(x.to(dtype), captions, size, settings.guidance, device)

        @torch.no_grad()
        def velocity(x: Tensor, t: float) -> Tensor:
            latents = list(x.to(dtype).chunk(len(captions), 1))
            new = replace(fixed, latents=latents, timestep=torch.full_like(fixed.timestep, t))
            if memory is None or past is not None:
                out = model.forward_pairs(new, settings.mode, past)
            else:
                out = model.forward_pairs(memory.join(new), settings.mode)[len(memory) :]
            return torch.cat(out, 1).float()

        return velocity

    velocity = velocity_of(prompts)
    if settings.cfg != 1:
        velocity = guided(velocity, velocity_of(_negatives(prompts, negative)), settings.cfg)
    x = SOLVERS[settings.sampler](velocity, x, settings.schedule, callback)
    return [unpack_latent(part, size) for part in x.chunk(len(prompts), 1)]


def _negatives(prompts: Sequence[TextCond], negative: TextCond | None) -> list[TextCond]:
    """What guidance leads away from, for every new frame: one caption for all, or zeros as long as its own."""
    if negative is not None:
        return [negative.expand(text.tokens.shape[0]) for text in prompts]
    zeros = [None if text.pooled is None else torch.zeros_like(text.pooled) for text in prompts]
    return [TextCond(torch.zeros_like(t.tokens), t.mask, pooled) for t, pooled in zip(prompts, zeros, strict=True)]


@torch.no_grad()
def _encode(model: PairModel, memory: Pairs, precision: CachePrecision) -> KVCache:
    return model.encode_context(memory, precision=precision)


def _context_pairs(
    context: Sequence[ContextFrame[TextCond]],
    batch: int,
    size: Size,
    settings: KeyframeSettings,
    generator: Generators,
    device: torch.device,
    dtype: torch.dtype,
) -> Pairs | None:
    """Context as pairs, least relevant first, positions counted backwards from the new frames (−1: most relevant)."""
    if not context:
        return None
    levels = context_levels(settings.context_noise, len(context), seeds_of(generator, batch))
    latents, sizes = [], []
    for frame, t in zip(context, levels[..., None, None, None].unbind(1), strict=True):
        clean = frame.latent.float().cpu()
        noise = noise_like(clean.shape, generator)
        latents.append(pack_latent((1 - t).float() * clean + t.float() * noise).to(device, dtype))
        sizes.append(token_size(clean))
    texts = [frame.text for frame in context]
    pairs = _pairs(latents, sizes, texts, levels.float(), settings.guidance, device, dtype, size)
    pairs.frames = [-1 - rank for rank in range(len(context))]
    return pairs.pick(range(len(context) - 1, -1, -1))


def _new_pairs(
    x: Tensor, prompts: Sequence[TextCond], size: Size, guidance: float | None, device: torch.device
) -> Pairs:
    times = torch.ones(x.shape[0], len(prompts))  # of the first step
    latents = list(x.chunk(len(prompts), 1))
    return _pairs(latents, [size] * len(prompts), prompts, times, guidance, device, x.dtype, size)


def _pairs(
    latents: list[Tensor],
    sizes: list[Size],
    texts: Sequence[TextCond],
    times: Tensor,
    guidance: float | None,
    device: torch.device,
    dtype: torch.dtype,
    reference: Size,
) -> Pairs:
    pooled = [text.pooled for text in texts if text.pooled is not None]
    if len(pooled) < len(texts):
        raise InputError("text encoder", "must give pooled CLIP text", None, "load a CLIP beside the T5")
    return Pairs(
        latents=latents,
        sizes=sizes,
        texts=[text.tokens.to(device, dtype) for text in texts],
        pooled=torch.stack(pooled, 1).to(device, dtype),
        timestep=times.to(device),
        guidance=None if guidance is None else torch.full_like(times, guidance).to(device),
        masks=[None if bool(text.mask.all()) else text.mask.to(device) for text in texts],
        reference=reference,
    )


def _check(
    prompts: Sequence[TextCond], shape: tuple[int, int, int], settings: KeyframeSettings, negative: TextCond | None
) -> None:
    if not prompts:
        raise InputError("prompts", "at least one new frame is needed", 0, "give one caption per new frame")
    if shape[1] % 2 or shape[2] % 2:
        raise InputError("size", "latent height and width must be even", shape[1:], "use multiples of 16 pixels")
    if negative is not None and len(negative) not in (1, len(prompts[0])):
        rule = f"must have 1 or {len(prompts[0])} rows"
        raise InputError("negative", rule, len(negative), "give one negative prompt for all")
    check_noise(settings.context_noise)
    check_precision(settings.cache_precision)
    if settings.sampler not in SOLVERS:
        raise InputError("sampler", f"must be one of {', '.join(SOLVERS)}", settings.sampler, "euler is the default")
