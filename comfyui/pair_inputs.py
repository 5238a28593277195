"""From the Start-End Pair Predictor's inputs to what `pairs` takes, and from pairs to timelines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import comfy.samplers
import torch
from torch import Tensor

from ..core.errors import InputError
from ..media.image import fit_image, read_image
from ..models.backbones.native_pairs import PAIR, PairFrame, PairModelSettings
from ..models.encoders.prompt_text import from_prompt
from ..models.studio_defaults import PairDefaults
from ..pipelines.pair_job import pair_story
from ..sampling.pairs import stretched
from ..story.stages import FIRST_TAKE, alias_names, stage_seed
from ..story.timeline import Time, Timeline
from .checks import texts_of
from .host import relative_paths, tell
from .images import batches_of, frames_of, to_image
from .pair_text import prompting_of
from .pairs import MadePairs, PairSampling, PairTask, make_pairs

if TYPE_CHECKING:
    from ..story.storyboard import Storyboard

__all__ = ["pair_sampling", "pair_size", "pair_tasks", "predict", "timeline_outputs"]


def predict(inputs: Mapping[str, Any], single: Mapping[str, Any]) -> MadePairs:
    """The pairs that the node's inputs ask for.

    Args:
        inputs: every input as the list that the node gets.
        single: the one value of each.

    Raises:
        InputError: inputs that are missing, or do not fit together.
    """
    size = pair_size(inputs, single)
    tasks = pair_tasks(inputs, single, size)
    return make_pairs(tasks, pair_sampling(single), size, single.get("context"))


def pair_size(inputs: Mapping[str, Any], single: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of the frames: the widgets', the storyboard's, or that of frames which are there.

    Raises:
        InputError: one side without the other, or nothing that says the size.
    """
    width, height = single["width"], single["height"]
    if width or height:
        if not (width and height):
            missing = "height" if width else "width"
            raise InputError(missing, "is needed with the other side", 0, "give both, or neither")
        return height, width
    storyboard, context = single.get("storyboard"), single.get("context")
    if storyboard is not None:
        size: tuple[int, int] = storyboard.frame_size
        return size
    if context is not None and context.frames:
        size = context.frames[0].size
        return size
    for field in ("start_frames", "end_frames"):
        if batches := batches_of(inputs.get(field), field):
            return batches[0].shape[-2], batches[0].shape[-1]
    fix = "set width and height, or connect a storyboard"
    raise InputError("width", "is needed where nothing else says the frames' size", 0, fix)


def pair_sampling(single: Mapping[str, Any]) -> PairSampling:
    """How to sample, by the node's widgets and models.

    Raises:
        InputError: a CLIP of another kind.
    """
    sigmas = single.get("sigmas")
    if sigmas is None:
        schedule = single["model"].get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(schedule, single["scheduler"], single["steps"])
        sigmas = stretched(sigmas, single.get("last_level") or None)
    drop, asked = single.get("drop_tokens"), single["reference_timestep"]
    negative = single.get("negative")
    return PairSampling(
        single["model"],
        single["clip"],
        single["vae"],
        prompting_of(single["clip"], single.get("system_prompt") or None, None if drop in (None, -1) else drop),
        comfy.samplers.sampler_object(single["sampler_name"]),
        sigmas,
        single["cfg"],
        " " if negative is None else from_prompt(negative),
        PairModelSettings(
            layout=single["layout"],
            reference_timestep=None if asked == "auto" else asked,
            rescale=single["rescale"],
            guidance_against=single.get("guidance_against") or "text",
        ),
    )


def pair_tasks(inputs: Mapping[str, Any], single: Mapping[str, Any], size: tuple[int, int]) -> list[PairTask]:
    """The shots in film order.

    Raises:
        InputError: no prompts, another number of them than the storyboard has shots, or more frames than shots.
    """
    storyboard = single.get("storyboard")
    encoded: list[Any] = list(inputs.get("positive") or ())
    texts = texts_of(inputs.get("prompts"), "prompts")
    if storyboard is not None:
        tasks = _of_storyboard(storyboard, single, size)
    else:
        count = len(encoded) or len(texts)
        first: int = single["seed"]
        tasks = [PairTask("", (first + i) % 2**64, label=f"shot {i + 1}") for i in range(count)]
    if not tasks:
        fix = "connect a storyboard, or one prompt for each shot"
        raise InputError("prompts", "are needed where there is no storyboard", 0, fix)
    queries = texts_of(inputs.get("queries"), "queries")
    for field, values, name in (
        ("positive", encoded, "prompt"),
        ("prompts", texts, "prompt"),
        ("queries", queries, "query"),
    ):
        if not values or (field == "prompts" and encoded):
            continue
        if len(values) != len(tasks):
            raise InputError(field, f"must be {len(tasks)}, one for each shot", len(values), "connect one for each")
        tasks = [replace(task, **{name: value}) for task, value in zip(tasks, values, strict=True)]
    if storyboard is None and not queries:
        tasks = [replace(task, query=text) for task, text in zip(tasks, texts or [""] * len(tasks), strict=True)]
    for name in PAIR:
        given = [
            fit_image(frame, size)
            for batch in batches_of(inputs.get(f"{name}_frames"), f"{name}_frames")
            for frame in batch
        ]
        if len(given) > len(tasks):
            fix = "give one for each shot, or fewer for the first ones"
            raise InputError(f"{name}_frames", f"must be at most {len(tasks)}, the number of shots", len(given), fix)
        own: list[Any] = [{name: frame} for frame in given] + [{}] * (len(tasks) - len(given))
        tasks = [replace(task, **frame) for task, frame in zip(tasks, own, strict=True)]
    if single["match_cut"]:
        tasks = [tasks[0], *(replace(task, matched=True) for task in tasks[1:])]
    return tasks


def _of_storyboard(storyboard: Storyboard, single: Mapping[str, Any], size: tuple[int, int]) -> list[PairTask]:
    """A storyboard's shots, as `clip` reads them: names that a small encoder does not know become ones it does."""
    storyboard = pair_story(storyboard)
    captions = [storyboard.caption(shot, set()) for shot in storyboard.shots]
    tokenizer = getattr(single["clip"], "tokenizer", None)
    template = str(single.get("template") or getattr(tokenizer, "template", ""))
    try:
        put = PairDefaults(prompt=template) if template else PairDefaults()
    except ValueError as error:  # pydantic's
        rule = "must hold {text}, the shot, and no other braces than {seconds} and {frames}"
        raise InputError("template", rule, template[:80], "write e.g. {text}, {seconds} s") from error
    prompts = []
    for shot, caption in zip(storyboard.shots, captions, strict=True):
        length = _asked(shot.timeline(storyboard.fps))
        prompts.append(put.told(caption.prompt, length.seconds, max(1, round(length.position))))
    if names := getattr(tokenizer, "names", None):
        prompts = alias_names(prompts, names)
    tasks = []
    for shot, caption, prompt in zip(storyboard.shots, captions, prompts, strict=True):
        own: dict[PairFrame, Tensor] = {}
        with relative_paths():
            for name, keyframe in zip(PAIR, (shot.keyframes[0], shot.keyframes[-1]), strict=True):
                if (path := storyboard.image_path(keyframe)) is not None:
                    own[name] = fit_image(read_image(path, f"{shot.id} {name} frame"), size)
        if any(keyframe.image for keyframe in shot.keyframes[1:-1]):
            tell(f"{shot.id}: pictures between the first and the last frame are not used here", warn=True)
        seed, matched = stage_seed(shot, FIRST_TAKE + single["seed"], "pair"), shot.transition == "match"
        tasks.append(PairTask(prompt, seed, caption.query, own.get("start"), own.get("end"), matched, shot.id))
    return tasks


def _asked(timeline: Timeline) -> Time:
    """How long a shot is meant to be."""
    return timeline.requested or timeline.length


def timeline_outputs(start: Any, end: Any, timeline: Timeline) -> tuple[Any, ...]:
    """All outputs of Pairs to Timeline: the timeline with two keyframes, them as one batch, each alone, frames, fps.

    Raises:
        InputError: a shot of one frame, several pictures, or two sizes.
    """
    shown = {"start": to_image(frames_of(start, "start")), "end": to_image(frames_of(end, "end"))}
    for field, image in shown.items():
        if len(image) != 1:
            raise InputError(field, "must be one picture", len(image), "connect the predictor's list itself")
    first, second = shown.values()
    if first.shape[1:3] != second.shape[1:3]:
        seen = f"{second.shape[2]}x{second.shape[1]}"
        rule = f"must have the start frame's size, {first.shape[2]}x{first.shape[1]}"
        raise InputError("end", rule, seen, "scale one of them")
    asked = _asked(timeline)
    if asked.position < 2:
        fix = "make the shot longer, at least 5 frames"
        raise InputError("timeline", "must have room for a start and an end frame", f"{timeline.frames} frame", fix)
    last = Time((asked.position - 1) / timeline.rate, timeline.rate)
    planned = replace(Timeline.plan(timeline.rate, asked, [0.0, last]), part=timeline.part)
    return planned, torch.cat([first, second]), first, second, timeline.frames, float(planned.fps)
