"""Stage 1: the keyframes of every shot, in film order, each remembering earlier ones (Captain Cinema §3.2).

A window of keyframes is made together. Each is a stage of its own, but has all members of its window among its inputs:
when one is to be made (again), all are, and a new take of one is a new take of its window.

Where keyframes are checked, a window that lacks something of its captions is made again from other noise before it is
remembered; of several attempts the one stays that lacks least.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core.files import sha256_file
from ..media.picture import fit_picture, read_picture, write_picture
from ..memory.golden_mem import Slot, token_report
from ..memory.retrieval import mean_pool, rank_together
from ..sampling.keyframes import ContextFrame, sample_keyframes
from ..sampling.memory_context import encode_at, rank_memory
from ..story.shot import Shot
from ..story.stages import attempt_seed, stage_seed, window_seed, windows
from .job import FilmJob, keyframe_file, size_tokens, stage_generator

if TYPE_CHECKING:
    from ..models.encoders.text import TextCond

__all__ = ["ATTEMPTS", "FilmMemory", "make_keyframes", "remembering"]

ATTEMPTS = 3
"""How often a checked keyframe is made at most."""


@dataclass
class _Entry:
    """One keyframe of the film so far; its picture stays on the disk."""

    name: str
    position: int
    index: int
    embedding: Tensor | None = None


class FilmMemory:
    """The keyframes made so far, and which of them a new one remembers.

    Pictures are read from the run folder when they are needed; only one embedding per keyframe is held, so memory does
    not grow with the film.
    """

    def __init__(self, job: FilmJob) -> None:
        self._job = job
        self._entries: list[_Entry] = []

    def add(self, name: str, position: int, index: int) -> None:
        """Remember the picture `name`: keyframe `index` of the shot at `position`."""
        self._entries.append(_Entry(name, position, index))

    def recall(self, queries: Sequence[str], tokens: tuple[int, int]) -> list[tuple[_Entry, Slot]]:
        """Earlier keyframes with their GoldenMem slots, the most relevant first.

        Args:
            queries: what each new frame shows; of several the best place counts.
            tokens: (height, width) of a frame.
        """
        if not self._entries:
            return []
        kind = self._job.settings.retrieval
        orders = [rank_memory("recency", len(self._entries))]
        if kind != "recency":
            for entry in self._entries:
                if entry.embedding is None:
                    entry.embedding = self._embed(entry, kind)
            known = torch.stack([entry.embedding for entry in self._entries if entry.embedding is not None])
            asked = [self._embed_query(query, kind) for query in dict.fromkeys(queries)]
            orders = [rank_memory(kind, len(self._entries), wanted, known) for wanted in asked]
        order = rank_together(orders)
        return [(self._entries[i], slot) for i, slot in self._job.settings.memory.assign(order, tokens)]

    def _embed(self, entry: _Entry, kind: str) -> Tensor:
        # One at a time: a batch would round differently when a resumed run embeds other frames together.
        if kind == "clip":
            picture = read_picture(self._job.run.path / entry.name)
            return self._job.studio.clip.embed_images(picture[None])[0].cpu()
        return self._embed_text(self._job.keyframe_captions[entry.position][entry.index].query)

    def _embed_query(self, query: str, kind: str) -> Tensor:
        return self._job.studio.clip.embed_query(query).cpu() if kind == "clip" else self._embed_text(query)

    def _embed_text(self, text: str) -> Tensor:
        cond = self._job.studio.keyframe_text.encode([text])
        return mean_pool(cond.tokens, cond.mask)[0].cpu()


_Made = tuple[Tensor, dict[str, Any]]
"""A picture, and what the manifest reports about it."""
_SEEN = ("remembers", "together")
"""What of a keyframe's record names the keyframes that it has seen."""


@dataclass(frozen=True)
class _Task:
    """One keyframe that the film needs."""

    position: int
    index: int
    stage: str
    name: str
    seed: int
    inputs: dict[str, Any]


def make_keyframes(job: FilmJob) -> None:
    """Make every keyframe that is missing or out of date, and enter each in the manifest as soon as it is done."""
    plan = _windows(job)
    # all() would stop at the first, and `pending` says why a keyframe is made again
    pending = [any([job.pending(task.stage, task.inputs, [task.name]) for task in window]) for window in plan]
    stage = _Keyframes(job, steps=job.settings.keyframe.steps, total=sum(pending))
    memory = FilmMemory(job)
    for window, wanted in zip(plan, pending, strict=True):
        if wanted:
            stage.make(window, memory)
        for task in window:
            memory.add(task.name, task.position, task.index)


def _windows(job: FilmJob) -> list[list[_Task]]:
    """What is needed, as it is made together: planned over the whole film, whichever shots are chosen."""
    places = [(p, k) for p, shot in enumerate(job.story.shots) for k in range(len(shot.keyframes))]
    runs = windows(places, job.settings.window, lambda at: job.story.shots[at[0]].keyframes[at[1]].image is not None)
    plan = []
    for run in runs:
        if run[0][0] not in job.remembered:
            break
        window = [_task(job, position, index) for position, index in run]
        if len(window) > 1:
            members = [{"keyframe": task.stage} | task.inputs for task in window]
            together = [{key: member[key] for key in ("keyframe", "prompt", "query", "seed")} for member in members]
            window = [replace(task, inputs=task.inputs | {"together": together}) for task in window]
        plan.append(window)
    return plan


def _task(job: FilmJob, position: int, index: int) -> _Task:
    shot = job.story.shots[position]
    seed = stage_seed(shot, job.run.take(shot.id), f"keyframe-{index}")
    path = job.story.image_path(shot.keyframes[index])
    inputs: dict[str, Any] = {"size": job.story.frame_size}
    if path is not None:
        inputs |= {"image": sha256_file(path)}
    else:
        caption = job.keyframe_captions[position][index]
        inputs |= {"prompt": caption.prompt, "query": caption.query, "seed": seed}
        inputs |= {"settings": job.settings.keyframe_inputs(), "studio": job.studio_hash}
        if job.check is not None:
            inputs |= {"check": {"attempts": ATTEMPTS, "recogniser": job.check.identity}}
    return _Task(position, index, f"{shot.id}/keyframe-{index}", keyframe_file(shot, index), seed, inputs)


class _Keyframes:
    """Makes keyframes one after the other, and counts the solver steps for the progress bar."""

    def __init__(self, job: FilmJob, steps: int, total: int) -> None:
        self._job = job
        self._steps = steps
        self._total = total * steps
        self._done = 0

    @cached_property
    def _prompts(self) -> list[list[str]]:
        """The keyframes' prompts, by shot, with the names that the text encoder knows."""
        return self._job.aliased(self._job.studio.keyframe_text)[1]

    def make(self, window: Sequence[_Task], memory: FilmMemory) -> None:
        """Make the keyframes of a window, write them and enter them in the manifest."""
        job, first = self._job, window[0]
        note = " to ".join(self._name(task) for task in (window[:: len(window) - 1] if len(window) > 1 else window))
        job.progress("keyframes", self._done, self._total, note)
        begin = time.perf_counter()
        shot = job.story.shots[first.position]
        given = job.story.image_path(shot.keyframes[first.index])
        if given is not None:
            field = f"shots[{first.position}].keyframes[{first.index}].image"
            made = [
                (fit_picture(read_picture(given, field), job.story.frame_size), {"source": "image", "remembers": []})
            ]
        else:
            made = self._attempt(window, memory, note)
        for task, (picture, _) in zip(window, made, strict=True):
            write_picture(job.run.file(task.name), picture)
        seconds = (time.perf_counter() - begin) / len(window)
        for task, (_, info) in zip(window, made, strict=True):
            take = job.run.take(job.story.shots[task.position].id)
            job.run.finish(task.stage, task.inputs, [task.name], seconds, take=take, **info)
        self._done += self._steps
        job.progress("keyframes", self._done, self._total, note)

    def _name(self, task: _Task) -> str:
        shot = self._job.story.shots[task.position]
        return f"{shot.id}, keyframe {task.index + 1} of {len(shot.keyframes)}"

    def _attempt(self, window: Sequence[_Task], memory: FilmMemory, note: str) -> list[_Made]:
        """As `_sample`; checked, the attempt that lacks least of its captions, the first of several such."""
        check = self._job.check
        if check is None:
            return self._sample(window, memory, note)
        best: list[_Made] = []
        fewest: int | None = None
        for attempt in range(1, ATTEMPTS + 1):
            made = self._sample(window, memory, note if attempt == 1 else f"{note}, attempt {attempt}", attempt)
            lacks = [check.missing(shown, task.inputs["prompt"]) for task, (shown, _) in zip(window, made, strict=True)]
            count = sum(map(len, lacks))
            if fewest is None or count < fewest:
                fewest = count
                best = [(shown, info | {"missing": lack}) for (shown, info), lack in zip(made, lacks, strict=True)]
            if not count:
                break
            self._job.say(f"{note}, attempt {attempt}: missing {'; '.join(word for lack in lacks for word in lack)}")
        return [(picture, info | {"attempts": attempt}) for picture, info in best]

    def _sample(self, window: Sequence[_Task], memory: FilmMemory, note: str, attempt: int = 1) -> list[_Made]:
        """The window's pictures, and what the manifest reports about each."""
        job, studio, settings = self._job, self._job.studio, self._job.settings
        vae = studio.image_vae
        height, width = job.story.frame_size
        cell = vae.image_size_multiple
        grid = size_tokens(studio, job.story.frame_size)
        recalled = memory.recall([task.inputs["query"] for task in window], grid)
        places = [(task.position, task.index) for task in window]
        places += [(entry.position, entry.index) for entry, _ in recalled]
        texts = [self._prompts[position][index] for position, index in places]
        captions = studio.keyframe_text.encode(texts).rows()
        prompts, captions = captions[: len(window)], captions[len(window) :]
        context = []
        for (entry, slot), text in zip(recalled, captions, strict=True):
            picture = read_picture(job.run.path / entry.name)
            context.append(ContextFrame(encode_at(vae, picture[None], slot.size, settings.memory.level), text))
        done, seeds = self._done, [attempt_seed(task.seed, attempt) for task in window]
        latents = sample_keyframes(
            studio.keyframe,
            prompts,
            (vae.latent_channels, height // cell, width // cell),
            context,
            settings.keyframe,
            stage_generator(window_seed(seeds)),
            lambda step: job.progress("keyframes", done + step.index + 1, self._total, note),
            self._negative,
        )
        report = token_report(
            [slot for _, slot in recalled],
            grid,
            context_text=[text.tokens.shape[1] for text in captions],
            new_frames=len(window),
            new_text=[text.tokens.shape[1] for text in prompts],
        )
        info = {
            "source": "generated",
            "remembers": [entry.name for entry, _ in recalled],
            "tokens": round(report["total"] / len(window)),
            "tokens_uncompressed": round(report["full"] / len(window)),
        }
        if len(window) > 1:
            info["together"] = [task.name for task in window]
        pictures = [vae.decode_image(latent)[0].cpu() for latent in latents]
        return [(picture, info | {"seed": seed}) for seed, picture in zip(seeds, pictures, strict=True)]

    @cached_property
    def _negative(self) -> TextCond | None:
        """What guidance leads away from, if there is any."""
        negative, studio = self._job.settings.negative, self._job.studio
        return None if negative is None else studio.keyframe_text.encode([negative])


def remembering(job: FilmJob, shots: list[Shot]) -> list[Shot]:
    """The other shots whose keyframes remember one of theirs or are made with it, directly or through another shot."""
    spoilt = {shot.id for shot in shots}
    owners = {keyframe_file(shot, index): shot.id for shot in job.story.shots for index in range(len(shot.keyframes))}
    found = []
    for shot in job.story.shots:
        records = [job.run.record(f"{shot.id}/keyframe-{index}") for index in range(len(shot.keyframes))]
        names = {name for record in records if record for part in _SEEN for name in record.info.get(part, [])}
        remembered = {owners.get(name) for name in names}
        if shot.id not in spoilt and remembered & spoilt:
            spoilt.add(shot.id)
            found.append(shot)
    return found
