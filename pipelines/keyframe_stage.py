"""Stage 1: the keyframes of every shot, in film order, each remembering earlier ones (Captain Cinema §3.2)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..media.picture import fit_picture, read_picture, write_picture
from ..memory.golden_mem import Slot, token_report
from ..memory.retrieval import mean_pool
from ..sampling.keyframes import ContextFrame, sample_keyframes
from ..sampling.memory_context import encode_at, rank_memory
from ..story.files import sha256_file
from ..story.shot import Shot
from ..story.stages import stage_seed
from .job import FilmJob, keyframe_file, size_tokens, stage_generator

__all__ = ["FilmMemory", "make_keyframes", "remembering"]


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

    def recall(self, query: str, tokens: tuple[int, int]) -> list[tuple[_Entry, Slot]]:
        """Earlier keyframes with their GoldenMem slots, most relevant to `query` first; `tokens` is a frame's grid."""
        if not self._entries:
            return []
        kind = self._job.settings.retrieval
        wanted, known = None, None
        if kind != "recency":
            for entry in self._entries:
                if entry.embedding is None:
                    entry.embedding = self._embed(entry, kind)
            known = torch.stack([entry.embedding for entry in self._entries if entry.embedding is not None])
            by_clip = kind == "clip"
            wanted = self._job.studio.clip.embed_texts([query])[0].cpu() if by_clip else self._embed_text(query)
        order = rank_memory(kind, len(self._entries), wanted, known)
        return [(self._entries[i], slot) for i, slot in self._job.settings.memory.assign(order, tokens)]

    def _embed(self, entry: _Entry, kind: str) -> Tensor:
        # One at a time: a batch would round differently when a resumed run embeds other frames together.
        if kind == "clip":
            picture = read_picture(self._job.run.path / entry.name)
            return self._job.studio.clip.embed_images(picture[None])[0].cpu()
        return self._embed_text(self._job.keyframe_captions[entry.position][entry.index].query)

    def _embed_text(self, text: str) -> Tensor:
        cond = self._job.studio.keyframe_text.encode([text])
        return mean_pool(cond.tokens, cond.mask)[0].cpu()


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
    tasks = [task for position in job.remembered for task in _tasks(job, position)]
    pending = {task.stage for task in tasks if job.pending(task.stage, task.inputs, [task.name])}
    stage = _Keyframes(job, steps=job.settings.keyframe.steps, total=len(pending))
    memory = FilmMemory(job)
    for task in tasks:
        if task.stage in pending:
            stage.make(task, memory)
        memory.add(task.name, task.position, task.index)


def _tasks(job: FilmJob, position: int) -> list[_Task]:
    shot = job.story.shots[position]
    take = job.run.take(shot.id)
    tasks = []
    for index, keyframe in enumerate(shot.keyframes):
        seed = stage_seed(shot, take, f"keyframe-{index}")
        path = job.story.image_path(keyframe)
        inputs: dict[str, Any] = {"size": job.story.frame_size}
        if path is not None:
            inputs |= {"image": sha256_file(path)}
        else:
            caption = job.keyframe_captions[position][index]
            inputs |= {"prompt": caption.prompt, "query": caption.query, "seed": seed}
            inputs |= {"settings": job.settings.keyframe_inputs(), "studio": job.studio_hash}
        tasks.append(_Task(position, index, f"{shot.id}/keyframe-{index}", keyframe_file(shot, index), seed, inputs))
    return tasks


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

    def make(self, task: _Task, memory: FilmMemory) -> None:
        """Make one keyframe, write it and enter it in the manifest."""
        job, shot = self._job, self._job.story.shots[task.position]
        note = f"{shot.id}, keyframe {task.index + 1} of {len(shot.keyframes)}"
        job.progress("keyframes", self._done, self._total, note)
        begin = time.perf_counter()
        given = job.story.image_path(shot.keyframes[task.index])
        if given is not None:
            field = f"shots[{task.position}].keyframes[{task.index}].image"
            picture = fit_picture(read_picture(given, field), job.story.frame_size)
            info: dict[str, Any] = {"source": "image", "remembers": []}
        else:
            picture, info = self._sample(task, memory, note)
        write_picture(job.run.file(task.name), picture)
        seconds = time.perf_counter() - begin
        job.run.finish(task.stage, task.inputs, [task.name], seconds, take=job.run.take(shot.id), **info)
        self._done += self._steps
        job.progress("keyframes", self._done, self._total, note)

    def _sample(self, task: _Task, memory: FilmMemory, note: str) -> tuple[Tensor, dict[str, Any]]:
        job, studio = self._job, self._job.studio
        vae = studio.image_vae
        height, width = job.story.frame_size
        cell = vae.image_size_multiple
        grid = size_tokens(studio, job.story.frame_size)
        recalled = memory.recall(job.keyframe_captions[task.position][task.index].query, grid)
        texts = [self._prompts[task.position][task.index]]
        texts += [self._prompts[entry.position][entry.index] for entry, _ in recalled]
        prompt, *captions = studio.keyframe_text.encode(texts).rows()
        context = []
        for (entry, slot), text in zip(recalled, captions, strict=True):
            picture = read_picture(job.run.path / entry.name)
            context.append(ContextFrame(encode_at(vae, picture[None], slot.size), text))
        done = self._done
        (latent,) = sample_keyframes(
            studio.keyframe,
            [prompt],
            (vae.latent_channels, height // cell, width // cell),
            context,
            job.settings.keyframe,
            stage_generator(task.seed),
            lambda step: job.progress("keyframes", done + step.index + 1, self._total, note),
        )
        report = token_report(
            [slot for _, slot in recalled],
            grid,
            context_text=[text.tokens.shape[1] for text in captions],
            new_text=prompt.tokens.shape[1],
        )
        info = {
            "source": "generated",
            "seed": task.seed,
            "remembers": [entry.name for entry, _ in recalled],
            "tokens": report["total"],
            "tokens_uncompressed": report["full"],
        }
        return vae.decode_image(latent)[0].cpu(), info


def remembering(job: FilmJob, shots: list[Shot]) -> list[Shot]:
    """The shots after `shots` whose keyframes remember one of theirs, directly or through another shot."""
    spoilt = {shot.id for shot in shots}
    owners = {keyframe_file(shot, index): shot.id for shot in job.story.shots for index in range(len(shot.keyframes))}
    found = []
    for shot in job.story.shots:
        records = [job.run.record(f"{shot.id}/keyframe-{index}") for index in range(len(shot.keyframes))]
        remembered = {owners.get(name) for record in records if record for name in record.info.get("remembers", [])}
        if shot.id not in spoilt and remembered & spoilt:
            spoilt.add(shot.id)
            found.append(shot)
    return found
