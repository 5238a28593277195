"""The keyframes of a film, one window after the other, each remembering the ones before (Captain Cinema §3.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.errors import InputError
from ..media.picture import fit_picture, read_picture
from ..models.backbones.flux.native import ContextPair, PairSettings, sample_native
from ..models.backbones.flux.native_checks import PADDED, count_padded
from ..models.backbones.native_fit import text_width
from ..story.stages import FIRST_TAKE, stage_seed, window_seed, windows
from .fits import fit_prompt, fit_sigmas, fit_vae, sampled
from .frame_memory import FrameMemory, Remembered
from .host import Progress, memory_errors, relative_paths, stop_if_asked, tell
from .images import decode_frame, encode_frame, to_image

if TYPE_CHECKING:
    from ..story.storyboard import Storyboard

__all__ = ["Job", "Sampling", "make_keyframes", "plan_jobs"]

Conditioning = list[Any]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One keyframe to make.

    Attributes:
        prompt: number of its prompt, from 0.
        seed: of its noise.
        words: what it shows, with looks in the place of names; empty if nobody says.
        picture: the user's own picture `[3, H, W]`, which is then taken as it is.
        label: what to call it.
        group: number of the batch that it comes out in: its shot's with a storyboard, else its prompt's.
    """

    prompt: int
    seed: int
    words: str = ""
    picture: Tensor | None = None
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


def plan_jobs(prompts: int, seed: int, board: Storyboard | None, size: tuple[int, int]) -> list[Job]:
    """The keyframes to make, in film order.

    Args:
        prompts: number of prompts; with a storyboard one for each keyframe, or for each shot if no keyframe has a text
            of its own.
        seed: without a storyboard that of the first keyframe; with one the take: 0 gives the seeds of the command
            line's first.
        board: gives how many keyframes a shot has, its seeds, its words and the user's own pictures.
        size: (height, width) in pixels, for those pictures.

    Raises:
        InputError: no prompt, another number than the storyboard's keyframes or shots, or an unreadable picture.
    """
    if not prompts:
        raise InputError("positive", "at least one keyframe is needed", 0, "connect one prompt for each keyframe")
    if board is None:
        return [Job(i, (seed + i) % 2**64, label=f"keyframe {i + 1}", group=i) for i in range(prompts)]
    captions = board.keyframe_captions()
    flat = [(position, index) for position, shot in enumerate(board.shots) for index in range(len(shot.keyframes))]
    _check_count(prompts, board, len(flat))
    jobs: list[Job] = []
    for position, index in flat:
        shot = board.shots[position]
        with relative_paths():
            path = board.image_path(shot.keyframes[index])
            picture = None if path is None else fit_picture(read_picture(path, f"{shot.id} keyframe {index + 1}"), size)
        drawn, label = stage_seed(shot, FIRST_TAKE + seed, f"keyframe-{index}"), f"{shot.id}, keyframe {index + 1}"
        prompt = len(jobs) if prompts == len(flat) else position
        jobs.append(Job(prompt, drawn, captions[position][index].query, picture, label, position))
    return jobs


def _check_count(prompts: int, board: Storyboard, keyframes: int) -> None:
    """One prompt for each keyframe, or for each shot where no keyframe needs one of its own."""
    if prompts == keyframes:
        return
    own = [shot.id for shot in board.shots if any(keyframe.text for keyframe in shot.keyframes)]
    if own or prompts != len(board.shots):
        rule = f"must be {keyframes} prompts, one for each keyframe"
        rule += "" if own or keyframes == len(board.shots) else f", or {len(board.shots)}, one for each shot"
        fix = "encode the Storyboard's keyframe_prompts, or disconnect the storyboard"
        raise InputError("positive", rule, prompts, fix)


def make_keyframes(
    jobs: Sequence[Job],
    prompts: Sequence[Conditioning],
    negative: Sequence[Conditioning] | None,
    latent: Tensor,
    sampling: Sampling,
    memory: FrameMemory | None = None,
) -> tuple[list[Tensor], list[Tensor], FrameMemory | None]:
    """Make the keyframes in order; with a memory each window remembers all frames before it.

    Args:
        jobs: the keyframes.
        prompts: CONDITIONING of every prompt.
        negative: one for all, one for each prompt, or None.
        latent: empty latent `[1, C, h, w]` of one keyframe.
        sampling: how.
        memory: earlier frames; None makes every window for itself.

    Returns:
        Pictures `[3, H, W]` in 0…1, their latents `[1, C, h, w]`, and the memory with all of them.

    Raises:
        InputError: what cannot be sampled together, or not enough memory on the device.
    """
    if memory is not None:
        memory.check_for([job.words for job in jobs], (latent.shape[-2] * 8, latent.shape[-1] * 8))
    _warn_of_padding([*prompts, *(() if memory is None else memory.given_captions)])
    _fit(sampling, prompts, negative)
    progress = Progress(sampling.model, sum(job.picture is None for job in jobs) * sampling.steps)
    pictures: list[Tensor] = []
    latents: list[Tensor] = []
    for window in windows(jobs, sampling.window, lambda job: job.picture is not None):
        stop_if_asked()
        tell(f"keyframe {len(pictures) + 1}/{len(jobs)} · {window[0].label}")
        if window[0].picture is not None:
            made = [(window[0].picture, encode_frame(sampling.vae, window[0].picture))]
        else:
            made = _sample(window, prompts, negative, latent, sampling, memory, progress)
        if memory is not None:
            frames = zip(window, made, strict=True)
            memory = memory.with_frames(
                [Remembered(picture, job.words, prompts[job.prompt], label=job.label) for job, (picture, _) in frames]
            )
        pictures += [picture for picture, _ in made]
        latents += [encoded for _, encoded in made]
        progress.show(to_image(torch.stack(pictures)))
    return pictures, latents, memory


def _warn_of_padding(captions: Sequence[Conditioning]) -> None:
    """Say once that captions were filled up, where that costs memory and makes other pictures than the command line."""
    padded = count_padded(captions)
    if padded > 1:
        logger.warning(
            "Interleaved Keyframe Sampler: %d of %d captions have exactly %d tokens, which is how ComfyUI's FLUX text "
            "encoder pads short ones. Remembered padding takes memory and time: put T5 Tokenizer Options (min_padding "
            "0, min_length 0) between the CLIP loader and CLIP Text Encode.",
            padded,
            len(captions),
            PADDED,
        )


def _fit(sampling: Sampling, prompts: Sequence[Conditioning], negative: Sequence[Conditioning] | None) -> None:
    """Raise InputError if VAE, prompts or noise levels are another model's."""
    fit_vae(sampling.vae, sampling.model)
    fit_sigmas(sampling.sigmas, sampling.model)
    width = text_width(sampling.model)
    for name, given in (("positive", prompts), ("negative", negative or ())):
        for i, prompt in enumerate(given):
            fit_prompt(prompt, name if len(given) == 1 else f"{name}[{i}]", width)


def _sample(
    window: Sequence[Job],
    prompts: Sequence[Conditioning],
    negative: Sequence[Conditioning] | None,
    latent: Tensor,
    sampling: Sampling,
    memory: FrameMemory | None,
    progress: Progress,
) -> list[tuple[Tensor, Tensor]]:
    recalled = [] if memory is None else memory.recall(*(job.words for job in window))
    size = f"{len(window)} new and {len(recalled)} remembered frames of {latent.shape[-1] * 8}x{latent.shape[-2] * 8}"
    fix = "remember fewer frames (groups, images), make smaller ones, or load the model in fp8"
    with memory_errors("Interleaved Keyframe Sampler", size, fix):
        context = []
        if memory is not None:
            encoders = memory.encoders
            context = [
                ContextPair(f.latent(slot.size, encoders, memory.plan.level), f.caption(encoders))
                for f, slot in recalled
            ]
        against = negative
        if negative is not None and len(negative) > 1:
            against = [negative[job.prompt] for job in window]
        made = sample_native(
            sampling.model,
            [prompts[job.prompt] for job in window],
            [torch.zeros_like(latent) for _ in window],
            context,
            against,
            sampling.settings,
            sigmas=sampling.sigmas,
            seed=window_seed([job.seed for job in window]),
            cfg=sampling.cfg,
            sampler=sampling.sampler,
            callback=progress.callback(),
            disable_pbar=False,
        )
        sampled(made)
        return [(decode_frame(sampling.vae, latent), latent) for latent in made]
