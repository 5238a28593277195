"""The start and end frames of a film's shots, one shot after the other, each remembering the ones before (STAGE §4.1,
Eq. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError
from ..memory.frame_memory import FrameMemory, MemoryFrame, Recalled
from ..memory.memory_pack import MemoryPack, PackTile
from ..models.backbones.native_fit import text_width
from ..models.backbones.native_models import pairs_on
from ..models.backbones.native_pairs import PAIR, NativePairs, PairFrame, PairModelSettings
from ..models.encoders.qwen_vl_prompt import QwenPrompting
from ..models.layouts.start_end import unpatchify
from ..sampling.noise import seeded
from ..sampling.pairs import pair_noise
from .fits import fit_prompt, fit_sigmas, fit_vae, sampled
from .frame_encoders import ComfyEncoders
from .host import Progress, memory_errors, stop_if_asked, tell
from .images import decode_frame, encode_frames, to_image
from .memory_pack import pack_picture
from .pair_text import encode_shot

__all__ = ["MadePairs", "PairSampling", "PairTask", "make_pairs"]

Conditioning = list[Any]

_TOKEN, _CELL = 16, 8
"""Pixels along a side of a token and of a latent cell of every Qwen-Image VAE."""


@dataclass(frozen=True)
class PairTask:
    """One shot whose frames are to be made.

    Attributes:
        prompt: D_i and C_i, as the text encoder reads them; or a CONDITIONING, which is taken as it is.
        seed: of its noise.
        query: what it shows, with looks in the place of names; empty if nobody says.
        start, end: the user's own frames `[3, H, W]`.
        matched: it starts with the end frame of the shot before (match cut).
        label: what to call it.
    """

    prompt: str | Conditioning
    seed: int
    query: str = ""
    start: Tensor | None = None
    end: Tensor | None = None
    matched: bool = False
    label: str = ""


@dataclass(frozen=True, eq=False)
class PairSampling:
    """How pairs are sampled.

    Attributes:
        model, clip, vae: ComfyUI's.
        prompting: how texts are put to `clip`.
        sampler: a SAMPLER.
        sigmas: noise levels 1 … 0.
        cfg: guidance.
        negative: what guidance leads away from: a text, which is shown the same picture, or a CONDITIONING.
        settings: layout of the sequence, without the packing.
    """

    model: Any
    clip: Any
    vae: Any
    prompting: QwenPrompting
    sampler: Any
    sigmas: Tensor
    cfg: float
    negative: str | Conditioning
    settings: PairModelSettings

    @property
    def steps(self) -> int:
        """Sampler steps of one pair."""
        return len(self.sigmas) - 1


@dataclass(frozen=True, eq=False)
class MadePairs:
    """What came out.

    Attributes:
        starts, ends: frames `[3, H, W]` in 0…1, one for each shot.
        memory: with all of them; None if nothing is remembered.
        layout: IMAGE of the last pack.
        tokens: image tokens of the last pack.
    """

    starts: list[Tensor]
    ends: list[Tensor]
    memory: FrameMemory[ComfyEncoders] | None
    layout: Tensor
    tokens: int

    @property
    def frames(self) -> Tensor:
        """IMAGE of all frames, every shot's start before its end."""
        return to_image(torch.stack([frame for pair in zip(self.starts, self.ends, strict=True) for frame in pair]))


def make_pairs(
    tasks: Sequence[PairTask],
    sampling: PairSampling,
    size: tuple[int, int],
    memory: FrameMemory[ComfyEncoders] | None = None,
) -> MadePairs:
    """Make the pairs in order; with a memory each remembers the frames of all shots before it.

    Args:
        tasks: the shots.
        sampling: how.
        size: (height, width) in pixels, multiples of 16.
        memory: of a Memory Pack, with what frames it has already; None remembers nothing.

    Raises:
        InputError: what cannot be sampled together, or not enough memory on the device.
    """
    _check(tasks, sampling, size, memory)
    native = pairs_on(sampling.model)
    new = [task for task in tasks if task.start is None or task.end is None]
    progress = Progress(sampling.model, len(new) * sampling.steps, pick=_side_by_side)
    starts: list[Tensor] = []
    ends: list[Tensor] = []
    grid = size[0] // _TOKEN, size[1] // _TOKEN
    pack = MemoryPack() if memory is None else memory.packing
    before = memory.frames[-1].image[0] if memory is not None and memory.frames else None
    recalled: list[Recalled] = []
    pictured = pack_picture(pack, recalled, 0, grid)
    for task in tasks:
        stop_if_asked()
        tell(f"shot {len(starts) + 1}/{len(tasks)} · {task.label}")
        if task.matched and task.start is None and before is not None:
            task = replace(task, start=before)
        if memory is not None and memory.frames:
            recalled = memory.recall([task.query])
            pictured = pack_picture(pack, recalled, len(memory.frames), grid)
        made = _sample(native, task, before, sampling, size, memory, recalled, progress)
        frames = {name: given if (given := getattr(task, name)) is not None else made[name] for name in PAIR}
        if memory is not None:
            kept = [MemoryFrame(frames[name][None], task.query, label=f"{task.label} {name}") for name in PAIR]
            memory = memory.with_frames(kept)
        starts.append(frames["start"])
        ends.append(before := frames["end"])
        done = MadePairs(starts, ends, memory, pictured, sum(rank.slot.tokens for rank in recalled))
        progress.show(done.frames)
    return done


def _check(
    tasks: Sequence[PairTask],
    sampling: PairSampling,
    size: tuple[int, int],
    memory: FrameMemory[ComfyEncoders] | None,
) -> None:
    """Refuse, before anything is sampled, what could not be made or remembered."""
    if not tasks:
        raise InputError("prompts", "at least one shot is needed", 0, "connect one prompt for each shot")
    for name, side in (("height", size[0]), ("width", size[1])):
        if side < 16 or side % 16:
            fix = f"use {max(1, round(side / 16)) * 16}"
            raise InputError(name, "must be a multiple of 16", side, fix)
    fit_vae(sampling.vae, sampling.model)
    fit_sigmas(sampling.sigmas, sampling.model)
    width = text_width(sampling.model)
    encoded = {f"positive[{i}]": task.prompt for i, task in enumerate(tasks)} | {"negative": sampling.negative}
    for field, prompt in encoded.items():
        if not isinstance(prompt, str):
            fit_prompt(prompt, field, width)
    if memory is None:
        return
    if not isinstance(memory.packing, MemoryPack):
        fix = "connect a Memory Pack"
        raise InputError("context", "must be a memory of start and end frames", "another kind of memory", fix)
    if memory.frames and memory.frames[0].size != size:
        height, wide = memory.frames[0].size
        rule = f"must have the size of the new frames, {size[1]}x{size[0]}"
        raise InputError("context", rule, f"{wide}x{height}", "scale the frames, or change width and height")
    ranked = tasks if len(memory.frames) > 1 else tasks[1:]
    if memory.retrieval == "clip" and not memory.query and not all(task.query for task in ranked):
        fix = "connect the storyboard or its queries, or rank by image or recency"
        raise InputError("queries", "are needed to rank frames by clip", None, fix)


def _sample(
    native: NativePairs,
    task: PairTask,
    before: Tensor | None,
    sampling: PairSampling,
    size: tuple[int, int],
    memory: FrameMemory[ComfyEncoders] | None,
    recalled: Sequence[Recalled],
    progress: Progress,
) -> dict[PairFrame, Tensor]:
    """The frames of one shot that nobody gives, `[3, H, W]`."""
    given: dict[PairFrame, Tensor] = {name: frame for name in PAIR if (frame := getattr(task, name)) is not None}
    if len(given) == len(PAIR):
        return {}
    work = f"a pair of {size[1]}x{size[0]} and {len(recalled)} remembered frames"
    fix = "make smaller frames, pack the memory as a canvas or a pyramid, or load the model in fp8"
    with memory_errors("Start-End Pair Predictor", work, fix):
        shown = [] if before is None else [before]
        positive = _encoded(sampling, task.prompt, shown)
        settings = sampling.settings
        unused = sampling.cfg == 1 or settings.guidance_against == "memory"
        negative = positive if unused else _encoded(sampling, sampling.negative, shown)
        remembered: list[tuple[PackTile, Tensor]] = []
        if memory is not None and isinstance(memory.packing, MemoryPack):
            grid = size[0] // _TOKEN, size[1] // _TOKEN
            settings = replace(settings, packing=memory.packing.packing, canvas=memory.packing.canvas(grid))
            context = memory.context(recalled, [None] * len(recalled))
            places = memory.packing.tiles(len(memory.frames), grid)
            remembered = [(place, frame.latent) for place, frame in zip(places, context, strict=True)]
        latents = {name: encode_frames(sampling.vae, frame[None]) for name, frame in given.items()}
        made = native.sample(
            sampling.model,
            positive,
            negative,
            (size[0] // _CELL, size[1] // _CELL),
            remembered,
            latents,
            settings,
            sigmas=sampling.sigmas,
            noise=_noise(sampling.vae.latent_channels, size, task.seed),
            cfg=sampling.cfg,
            sampler=sampling.sampler,
            seed=task.seed,
            callback=progress.callback(),
            disable_pbar=False,
        )
        new = {name: latent for name, latent in made.items() if name not in given}
        sampled(new.values())
        return {name: decode_frame(sampling.vae, latent) for name, latent in new.items()}


def _encoded(sampling: PairSampling, prompt: str | Conditioning, shown: Sequence[Tensor]) -> Conditioning:
    return encode_shot(sampling.clip, prompt, shown, sampling.prompting) if isinstance(prompt, str) else prompt


def _noise(channels: int, size: tuple[int, int], seed: int) -> dict[PairFrame, Tensor]:
    """Noise of both frames, the start's first, as the command line draws it."""
    shape = channels, size[0] // _CELL, size[1] // _CELL
    drawn = pair_noise(shape, 1, seeded(seed))
    return {name: unpatchify(tokens, shape[1:]) for name, tokens in zip(PAIR, drawn, strict=True)}


def _side_by_side(x0: Tensor) -> Tensor:
    """The pair's latents `[B, C, F, h, w]` as one wide picture, for the preview."""
    return torch.cat(x0.unbind(2), -1)[:, :, None] if x0.ndim == 5 else x0
