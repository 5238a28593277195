"""STAGE's STEP²: the start and the end frame of a shot, denoised together beside a memory of earlier shots (§4.1).

x = [E(F^S); E(F^E)] is one sequence with one t (dual encoding); the memory M stands beside it without noise, U is the
text with the previous shot's end frame, as the encoder reads both. The paper lets t run from noise to data; here, as
everywhere in this package, z_t = (1 − t)·data + t·noise and t falls from 1 to 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import InputError
from ..memory.golden_mem import Size
from ..memory.memory_pack import MemoryPack, PackTile
from ..models.encoders.text_cond import TextCond
from ..models.layouts.start_end import (
    GuidanceAgainst,
    PairLayoutName,
    Segment,
    SegmentModel,
    pair_ids,
    patchify,
    reference_ids,
    unpatchify,
)
from .flow import Callback, Velocity, euler, flow_sigmas
from .noise import Generators, noise_like

__all__ = ["PairSettings", "memory_segments", "pair_noise", "pair_sigmas", "rescaled", "sample_pair", "stretched"]


@dataclass(frozen=True)
class PairSettings:
    """How a pair is sampled.

    Attributes:
        steps: Euler steps.
        shift: noise schedule shift, from ONE frame's length.
        last_level: the last noise level that the model sees, to which the schedule is stretched; None leaves it. The
            published weights take 20 steps with shift 2.2 and last level 0.02.
        guidance: classifier-free guidance; 1 is off.
        rescale: give the guided velocity of each token the norm of the positive prompt's, as published.
        guidance_against: what the branch that guidance leads away from lacks: ``text``, a negative prompt stands in its
            place (as published); ``memory``; or ``both``. Given frames are in it always.
        layout: where the end frame stands, ``stacked`` below the start frame (as published) or behind it in
            ``sequence``.
        joint: denoise both frames together (dual encoding, §4.1); False makes each on its own, for comparison.
    """

    steps: int = 20
    shift: float = 1.0
    last_level: float | None = None
    guidance: float = 1.0
    rescale: bool = True
    layout: PairLayoutName = "stacked"
    joint: bool = True
    guidance_against: GuidanceAgainst = "text"

    @property
    def negative_prompt(self) -> bool:
        """Whether guidance takes a negative prompt."""
        return self.guidance != 1 and self.guidance_against != "memory"

    @property
    def schedule(self) -> Tensor:
        """Noise levels 1 … 0, fp32 [steps + 1]."""
        return pair_sigmas(self.steps, self.shift, self.last_level)


def sample_pair(
    model: SegmentModel,
    prompt: TextCond,
    shape: tuple[int, int, int],
    memory: Sequence[Segment] = (),
    settings: PairSettings = PairSettings(),
    generator: Generators = None,
    callback: Callback | None = None,
    negative: TextCond | None = None,
    start: Tensor | None = None,
    end: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sample the start and the end frame of one shot (STAGE §4.1, Eq. 3).

    Args:
        model: a network over segments.
        prompt: U, B rows.
        shape: (C, H, W) of a frame's latent; H and W even.
        memory: remembered frames, see `memory_segments`.
        settings: steps, guidance, layout.
        generator: CPU generator, or one per row; the noise of the start frame is drawn first, then the end frame's.
        callback: sees every step; `x` there is [B, n·tokens, 4C], the frames that are made, one after the other.
        negative: what guidance leads away from, 1 or B rows; needed where `PairSettings.negative_prompt` says so.
        start, end: a given frame's latent, `[B, C, H, W]` or `[1, C, H, W]`: it is clean and stays as it is.

    Returns:
        Latents of both, `[B, C, H, W]`.

    Raises:
        InputError: odd sizes, a given frame of another size, guidance without a negative prompt.
    """
    batch = len(prompt)
    _check(shape, batch, settings, negative, start, end)
    grid = shape[1] // 2, shape[2] // 2
    ids = pair_ids(grid, settings.layout)  # on the CPU: a GPU would be waited for at every step
    noise = pair_noise(shape, batch, generator)  # of both frames in any case: a given start leaves the end's as it is
    given = {k: patchify(one.float().expand(batch, *shape)) for k, one in ((0, start), (1, end)) if one is not None}
    new = [k for k in (0, 1) if k not in given]

    def denoise(frames: Sequence[int]) -> list[Tensor]:
        """These frames from noise, beside what is given and the memory."""
        clean = {k: Segment(x.to(model.device, model.dtype), ids[k], clean=True) for k, x in given.items()}

        def velocity_of(text: TextCond, memory: Sequence[Segment]) -> Velocity:
            mask = None if bool(text.mask.all()) else text.mask.to(model.device)
            tokens = text.tokens.to(model.device, model.dtype)

            @torch.no_grad()
            def velocity(x: Tensor, t: float) -> Tensor:
                parts = x.to(model.dtype).chunk(len(frames), 1)
                noisy = {k: Segment(part, ids[k]) for k, part in zip(frames, parts, strict=True)}
                pair = [segment for _, segment in sorted((clean | noisy).items())]
                times = torch.full((batch,), t, device=model.device)
                return torch.cat(model.forward_segments([*pair, *memory], tokens, mask, times), 1).float()

            return velocity

        velocity = velocity_of(prompt, memory)
        if settings.guidance != 1 and (settings.guidance_against != "memory" or memory):  # else both branches are equal
            other = prompt if negative is None or not settings.negative_prompt else negative.expand(batch)
            against = velocity_of(other, memory if settings.guidance_against == "text" else ())
            velocity = rescaled(velocity, against, settings.guidance, settings.rescale)
        x = torch.cat([noise[k] for k in frames], 1).to(model.device)
        return list(euler(velocity, x, settings.schedule, callback).chunk(len(frames), 1))

    together = [new] if settings.joint else [[k] for k in new]
    made = {k: x for frames in together if frames for k, x in zip(frames, denoise(frames), strict=True)}
    first, last = (unpatchify((made | given)[k], shape[1:]) for k in (0, 1))
    return first, last


def memory_segments(
    packed: Sequence[tuple[PackTile, Tensor]],
    pack: MemoryPack,
    grid: Size,
    layout: PairLayoutName = "stacked",
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Segment]:
    """Remembered frames as clean segments of the sequence.

    Args:
        packed: places with latents `[B, C, 2·rows, 2·cols]`, as `MemoryPack.pack` gives them.
        pack: how they were packed.
        grid: (rows, cols) of a full frame in patches.
        layout: of the pair, whose frame numbers come first.
        device, dtype: of the model.
    """
    tiles = [tile for tile, _ in packed]
    ids = reference_ids(tiles, pack.canvas(grid), layout, pack.packing)
    return [
        Segment(patchify(latent).to(device, dtype), place, clean=True)
        for (_, latent), place in zip(packed, ids, strict=True)
    ]


def pair_noise(shape: tuple[int, int, int], batch: int, generator: Generators) -> tuple[Tensor, Tensor]:
    """Noise of the start and of the end frame, drawn in this order: two of `[B, tokens, 4C]`."""
    start, end = (patchify(noise_like((batch, *shape), generator)) for _ in range(2))
    return start, end


def pair_sigmas(steps: int, shift: float = 1.0, last_level: float | None = None) -> Tensor:
    """Noise levels 1 … 0, `[steps + 1]` fp32: as `flow_sigmas`, with the last level above 0 moved to `last_level`.

    A single step stays at 1.

    Raises:
        InputError: a number out of range.
    """
    return stretched(flow_sigmas(steps, shift), last_level)


def stretched(sigmas: Tensor, last_level: float | None) -> Tensor:
    """Noise levels 1 … 0 with the last one above 0 moved to `last_level`; None leaves them.

    All are stretched for it: 1 − t ← (1 − t)·(1 − last_level) / (1 − t_last).

    Raises:
        InputError: a number out of range.
    """
    if last_level is None:
        return sigmas.float()
    if not 0.0 < last_level < 1.0:
        raise InputError("last_level", "must lie between 0 and 1", last_level, "Qwen-Image's own is 0.02")
    levels = sigmas.double()
    if len(levels) > 2 and levels[-2] < 1:
        levels[:-1] = 1 - (1 - levels[:-1]) * ((1 - last_level) / (1 - levels[-2]))
    return levels.float()


def rescaled(velocity: Velocity, against: Velocity, scale: float, rescale: bool = True) -> Velocity:
    """Guidance v∅ + scale·(v − v∅) with the norm of v, token by token; without `rescale` at its own length."""

    def guided(x: Tensor, t: float) -> Tensor:
        positive, empty = velocity(x, t), against(x, t)
        away = empty + scale * (positive - empty)
        if not rescale:
            return away
        norm = away.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(away.dtype).tiny)
        return away * (positive.norm(dim=-1, keepdim=True) / norm)

    return guided


def _check(
    shape: tuple[int, int, int],
    batch: int,
    settings: PairSettings,
    negative: TextCond | None,
    start: Tensor | None,
    end: Tensor | None,
) -> None:
    if shape[1] % 2 or shape[2] % 2:
        raise InputError("size", "latent height and width must be even", shape[1:], "use multiples of 16 pixels")
    if settings.negative_prompt and negative is None:
        raise InputError("negative", "is needed for guidance", None, "encode an empty prompt, or set guidance to 1")
    if negative is not None and len(negative) not in (1, batch):
        raise InputError("negative", f"must have 1 or {batch} rows", len(negative), "give one negative prompt for all")
    for field, given in (("start", start), ("end", end)):
        if given is not None and (given.shape[1:] != shape or given.shape[0] not in (1, batch)):
            rule = f"must be [{batch}, {', '.join(map(str, shape))}]"
            raise InputError(field, rule, tuple(given.shape), "encode a picture of the film's size")
