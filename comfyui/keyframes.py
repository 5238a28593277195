"""The keyframes of a film, one window after the other, each remembering the ones before (Captain Cinema §3.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import InputError
from ..media.image import fit_image, read_image
from ..memory.frame_memory import FrameMemory, MemoryFrame
from ..models.backbones.native_adapter import Conditioning, NativeKeyframes
from ..models.backbones.native_fit import text_width
from ..models.backbones.native_models import keyframes_on
from ..models.layouts.pairs import PairSettings
from ..story.stages import FIRST_TAKE, stage_seed, window_seed, windows
from .fits import fit_prompt, fit_sigmas, fit_vae, sampled
from .frame_encoders import ComfyEncoders
from .host import Progress, memory_errors, relative_paths, stop_if_asked, tell
from .images import decode_frame, encode_frames, to_image

if TYPE_CHECKING:
    from ..story.storyboard import Storyboard

__all__ = ["KeyframeTask", "Sampling", "make_keyframes", "plan_keyframes"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeyframeTask:
    """One keyframe to make.

    Attributes:
        prompt: number of its prompt, from 0.
        seed: of its noise.
        query: what it shows, with looks in the place of names; empty if nobody says.
        image: the user's own image `[3, H, W]`, which is then taken as it is.
        label: what to call it.
        group: number of the batch that it comes out in: its shot's with a storyboard, else its prompt's.
    """

    prompt: int
    seed: int
    query: str = ""
    image: Tensor | None = None
    label: str = ""
    group: int = 0


@dataclass(frozen=True)
class Sampling:
    """How keyframes are sampled: MODEL, SAMPLER, sigmas and guidance of ComfyUI, and the settings of the pairs."""

    model: Any
    vae: Any
    sampler: Any
    sigmas: Tensor
    cfg: float
    settings: PairSettings
    window: int = 1

    @property
    def steps(self) -> int:
        """Sampler steps of one run."""
        return len(self.sigmas) - 1


def plan_keyframes(prompts: int, seed: int, storyboard: Storyboard | None, size: tuple[int, int]) -> list[KeyframeTask]:
    """The keyframes to make, in film order.

    Args:
        prompts: number of prompts; with a storyboard one for each keyframe, or for each shot if no keyframe has a text
            of its own.
        seed: without a storyboard that of the first keyframe; with one the take: 0 gives the seeds of the command
            line's first.
        storyboard: gives how many keyframes a shot has, its seeds, its words and the user's own pictures.
        size: (height, width) in pixels, for those pictures.

    Raises:
        InputError: no prompt, another number than the storyboard's keyframes or shots, or an unreadable picture.
    """
    if not prompts:
        raise InputError("positive", "at least one keyframe is needed", 0, "connect one prompt for each keyframe")
    if storyboard is None:
        return [KeyframeTask(i, (seed + i) % 2**64, label=f"keyframe {i + 1}", group=i) for i in range(prompts)]
    captions = storyboard.keyframe_captions()
    flat = [(position, index) for position, shot in enumerate(storyboard.shots) for index in range(len(shot.keyframes))]
    _check_count(prompts, storyboard, len(flat))
    tasks: list[KeyframeTask] = []
    for position, index in flat:
        shot = storyboard.shots[position]
        with relative_paths():
            path = storyboard.image_path(shot.keyframes[index])
            image = None if path is None else fit_image(read_image(path, f"{shot.id} keyframe {index + 1}"), size)
        drawn, label = stage_seed(shot, FIRST_TAKE + seed, f"keyframe-{index}"), f"{shot.id}, keyframe {index + 1}"
        prompt = len(tasks) if prompts == len(flat) else position
        tasks.append(KeyframeTask(prompt, drawn, captions[position][index].query, image, label, position))
    return tasks


def _check_count(prompts: int, storyboard: Storyboard, keyframes: int) -> None:
    """One prompt for each keyframe, or for each shot where no keyframe needs one of its own."""
    if prompts == keyframes:
        return
    own = [shot.id for shot in storyboard.shots if any(keyframe.text for keyframe in shot.keyframes)]
    if own or prompts != len(storyboard.shots):
        rule = f"must be {keyframes} prompts, one for each keyframe"
        rule += "" if own or keyframes == len(storyboard.shots) else f", or {len(storyboard.shots)}, one for each shot"
        fix = "encode the Storyboard's keyframe_prompts, or disconnect the storyboard"
        raise InputError("positive", rule, prompts, fix)


def make_keyframes(
    tasks: Sequence[KeyframeTask],
    prompts: Sequence[Conditioning],
    negative: Sequence[Conditioning] | None,
    latent: Tensor,
    sampling: Sampling,
    memory: FrameMemory[ComfyEncoders] | None = None,
) -> tuple[list[Tensor], list[Tensor], FrameMemory[ComfyEncoders] | None]:
    """Make the keyframes in order; with a memory each window remembers all frames before it.

    Args:
        tasks: the keyframes.
        prompts: CONDITIONING of every prompt.
        negative: one for all, one for each prompt, or None.
        latent: empty latent `[1, C, h, w]` of one keyframe.
        sampling: how.
        memory: earlier frames; None makes every window for itself.

    Returns:
        Images `[3, H, W]` in 0…1, their latents `[1, C, h, w]`, and the memory with all of them.

    Raises:
        InputError: what cannot be sampled together, or not enough memory on the device.
    """
    if memory is not None:
        _check_memory(memory, [task.query for task in tasks], (latent.shape[-2] * 8, latent.shape[-1] * 8))
    native = keyframes_on(sampling.model)
    encoded = () if memory is None else [frame.text for frame in memory.frames if not isinstance(frame.text, str)]
    if advice := native.caption_advice([*prompts, *encoded]):
        logger.warning("Interleaved Keyframe Sampler: %s", advice)
    _fit(sampling, prompts, negative)
    progress = Progress(sampling.model, sum(task.image is None for task in tasks) * sampling.steps)
    images: list[Tensor] = []
    latents: list[Tensor] = []
    for window in windows(tasks, sampling.window, lambda task: task.image is not None):
        stop_if_asked()
        tell(f"keyframe {len(images) + 1}/{len(tasks)} · {window[0].label}")
        if window[0].image is not None:
            made = [(window[0].image, encode_frames(sampling.vae, window[0].image[None]))]
        else:
            made = _sample(native, window, prompts, negative, latent, sampling, memory, progress)
        if memory is not None:
            frames = zip(window, made, strict=True)
            memory = memory.with_frames(
                [MemoryFrame(image[None], task.query, prompts[task.prompt], task.label) for task, (image, _) in frames]
            )
        images += [image for image, _ in made]
        latents += [encoded for _, encoded in made]
        progress.show(to_image(torch.stack(images)))
    return images, latents, memory


def _check_memory(memory: FrameMemory[ComfyEncoders], queries: Sequence[str], size: tuple[int, int]) -> None:
    """Refuse, before anything is sampled, new frames that this memory could not serve.

    Args:
        memory: of earlier frames.
        queries: what each new frame shows; they will be remembered in turn.
        size: (height, width) of the new frames in pixels.

    Raises:
        InputError: another size than the remembered frames, or nothing to rank by.
    """
    if memory.frames and memory.frames[0].size != size:
        height, width = memory.frames[0].size
        rule = f"must have the size of the new frames, {size[1]}x{size[0]}"
        raise InputError("context", rule, f"{width}x{height}", "scale the frames, or change the latent's size")
    ranked = len(memory.frames) + len(queries) > 2 or len(memory.frames) > 1
    if memory.retrieval != "recency" and ranked and not memory.query and not all(queries):
        fix = "connect the storyboard or its queries, or rank by recency"
        raise InputError("query", f"is needed to rank frames by {memory.retrieval}", None, fix)


def _fit(sampling: Sampling, prompts: Sequence[Conditioning], negative: Sequence[Conditioning] | None) -> None:
    """Raise InputError if VAE, prompts or noise levels are another model's."""
    fit_vae(sampling.vae, sampling.model)
    fit_sigmas(sampling.sigmas, sampling.model)
    width = text_width(sampling.model)
    for name, given in (("positive", prompts), ("negative", negative or ())):
        for i, prompt in enumerate(given):
            fit_prompt(prompt, name if len(given) == 1 else f"{name}[{i}]", width)


def _sample(
    native: NativeKeyframes,
    window: Sequence[KeyframeTask],
    prompts: Sequence[Conditioning],
    negative: Sequence[Conditioning] | None,
    latent: Tensor,
    sampling: Sampling,
    memory: FrameMemory[ComfyEncoders] | None,
    progress: Progress,
) -> list[tuple[Tensor, Tensor]]:
    recalled = [] if memory is None else memory.recall([task.query for task in window])
    size = f"{len(window)} new and {len(recalled)} remembered frames of {latent.shape[-1] * 8}x{latent.shape[-2] * 8}"
    fix = "remember fewer frames (groups, images), make smaller ones, or load the model in fp8"
    with memory_errors("Interleaved Keyframe Sampler", size, fix):
        context = []
        if memory is not None:
            context = memory.context(recalled, [memory.encoders.caption(rank.frame) for rank in recalled])
        against = negative
        if negative is not None and len(negative) > 1:
            against = [negative[task.prompt] for task in window]
        made = native.sample(
            sampling.model,
            [prompts[task.prompt] for task in window],
            [torch.zeros_like(latent) for _ in window],
            context,
            against,
            sampling.settings,
            sigmas=sampling.sigmas,
            seed=window_seed([task.seed for task in window]),
            cfg=sampling.cfg,
            sampler=sampling.sampler,
            callback=progress.callback(),
            disable_pbar=False,
        )
        sampled(made)
        return [(decode_frame(sampling.vae, latent), latent) for latent in made]
