"""How keyframes are sampled, each remembering earlier ones (Captain Cinema §3.2); `stages.keyframes` plans them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..execution.stage import Workspace
from ..media.frames import check_finite
from ..media.picture import fit_picture, read_picture, write_picture
from ..memory.golden_mem import Slot, token_report
from ..memory.retrieval import mean_pool, rank_together
from ..sampling.keyframes import ContextFrame, sample_keyframes
from ..sampling.memory_context import encode_at, rank_memory
from ..story.stages import attempt_seed, window_seed
from .job import FilmJob, size_tokens, stage_generator
from .stages.keyframes import ATTEMPTS, KeyframePlace, keyframe_file

if TYPE_CHECKING:
    from ..models.encoders.text import TextCond

__all__ = ["FilmMemory", "KeyframeSampler"]


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

    def recall(
        self,
        queries: Sequence[str],
        tokens: tuple[int, int],
        earlier: Sequence[tuple[int, int]],
        workspace: Workspace,
    ) -> list[tuple[_Entry, Slot]]:
        """Earlier keyframes with their GoldenMem slots, the most relevant first.

        Args:
            queries: what each new frame shows; of several the best place counts.
            tokens: (height, width) of a frame.
            earlier: (position of the shot, index) of all keyframes before, in film order.
            workspace: where their pictures lie.
        """
        for position, index in earlier[len(self._entries) :]:
            name = keyframe_file(self._job.story.shots[position], index)
            self._entries.append(_Entry(name, position, index))
        if not self._entries:
            return []
        kind = self._job.settings.retrieval
        orders = [rank_memory("recency", len(self._entries))]
        if kind != "recency":
            for entry in self._entries:
                if entry.embedding is None:
                    entry.embedding = self._embed(entry, kind, workspace)
            known = torch.stack([entry.embedding for entry in self._entries if entry.embedding is not None])
            asked = [self._embed_query(query, kind) for query in dict.fromkeys(queries)]
            orders = [rank_memory(kind, len(self._entries), wanted, known) for wanted in asked]
        order = rank_together(orders)
        return [(self._entries[i], slot) for i, slot in self._job.settings.memory.assign(order, tokens)]

    def _embed(self, entry: _Entry, kind: str, workspace: Workspace) -> Tensor:
        # One at a time: a batch would round differently when a resumed run embeds other frames together.
        if kind == "clip":
            picture = read_picture(workspace.source(entry.name))
            return self._job.studio.clip.embed_images(picture[None])[0].cpu()
        return self._embed_text(self._job.keyframe_captions[entry.position][entry.index].query)

    def _embed_query(self, query: str, kind: str) -> Tensor:
        return self._job.studio.clip.embed_query(query).cpu() if kind == "clip" else self._embed_text(query)

    def _embed_text(self, text: str) -> Tensor:
        cond = self._job.studio.keyframe_text.encode([text])
        return mean_pool(cond.tokens, cond.mask)[0].cpu()


_Made = tuple[Tensor, dict[str, Any]]
"""An image, and what the manifest reports about it."""


class KeyframeSampler:
    """Makes keyframes in one process; it holds an embedding of each earlier one that it has compared.

    Args:
        job: the film.
        places: (position of the shot, index) of every keyframe of the film, in order.
    """

    def __init__(self, job: FilmJob, places: Sequence[tuple[int, int]]) -> None:
        self._job = job
        self._places = places
        self._memory = FilmMemory(job)

    @cached_property
    def _prompts(self) -> list[list[str]]:
        """The keyframes' prompts, by shot, with the names that the text encoder knows."""
        return self._job.aliased(self._job.studio.keyframe_text)[1]

    def make(self, window: Sequence[KeyframePlace], workspace: Workspace) -> list[dict[str, Any]]:
        """Make and write the keyframes of a window; returns the figures of each."""
        job, first = self._job, window[0]
        note = " to ".join(self._name(place) for place in (window[:: len(window) - 1] if len(window) > 1 else window))
        workspace.report(0, note)
        shot = job.story.shots[first.position]
        given = job.story.image_path(shot.keyframes[first.index])
        if given is not None:
            field = f"shots[{first.position}].keyframes[{first.index}].image"
            made = [
                (fit_picture(read_picture(given, field), job.story.frame_size), {"source": "image", "remembers": []})
            ]
        else:
            made = self._attempt(window, workspace, note)
        for place, (picture, _) in zip(window, made, strict=True):
            write_picture(workspace.target(self._file(place)), picture)
        return [{"take": place.take, **figures} for place, (_, figures) in zip(window, made, strict=True)]

    def _file(self, place: KeyframePlace) -> str:
        return keyframe_file(self._job.story.shots[place.position], place.index)

    def _name(self, place: KeyframePlace) -> str:
        shot = self._job.story.shots[place.position]
        return f"{shot.id}, keyframe {place.index + 1} of {len(shot.keyframes)}"

    def _attempt(self, window: Sequence[KeyframePlace], workspace: Workspace, note: str) -> list[_Made]:
        """As `_sample`; checked, the attempt that lacks least of its captions, the first of several such."""
        job, check = self._job, self._job.check
        if check is None:
            return self._sample(window, workspace, note)
        best: list[_Made] = []
        fewest: int | None = None
        for attempt in range(1, ATTEMPTS + 1):
            made = self._sample(window, workspace, note if attempt == 1 else f"{note}, attempt {attempt}", attempt)
            lacks = [
                check.missing(shown, job.keyframe_captions[place.position][place.index].prompt)
                for place, (shown, _) in zip(window, made, strict=True)
            ]
            count = sum(map(len, lacks))
            if fewest is None or count < fewest:
                fewest = count
                best = [(shown, info | {"missing": lack}) for (shown, info), lack in zip(made, lacks, strict=True)]
            if not count:
                break
            workspace.say(f"{note}, attempt {attempt}: missing {'; '.join(word for lack in lacks for word in lack)}")
        return [(picture, info | {"attempts": attempt}) for picture, info in best]

    def _sample(
        self, window: Sequence[KeyframePlace], workspace: Workspace, note: str, attempt: int = 1
    ) -> list[_Made]:
        """The window's pictures, and what the manifest reports about each."""
        job, studio, settings = self._job, self._job.studio, self._job.settings
        vae = studio.image_vae
        height, width = job.story.frame_size
        cell = vae.image_size_multiple
        grid = size_tokens(studio, job.story.frame_size)
        places = [(place.position, place.index) for place in window]
        queries = [job.keyframe_captions[position][index].query for position, index in places]
        recalled = self._memory.recall(queries, grid, self._places[: self._places.index(places[0])], workspace)
        places += [(entry.position, entry.index) for entry, _ in recalled]
        texts = [self._prompts[position][index] for position, index in places]
        captions = studio.keyframe_text.encode(texts).rows()
        prompts, captions = captions[: len(window)], captions[len(window) :]
        context = []
        for (entry, slot), text in zip(recalled, captions, strict=True):
            picture = read_picture(workspace.source(entry.name))
            context.append(ContextFrame(encode_at(vae, picture[None], slot.size, settings.memory.level), text))
        seeds = [attempt_seed(place.seed, attempt) for place in window]
        latents = sample_keyframes(
            studio.keyframe,
            prompts,
            (vae.latent_channels, height // cell, width // cell),
            context,
            settings.keyframe,
            stage_generator(window_seed(seeds)),
            lambda step: workspace.report(step.index + 1, note),
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
            info["together"] = [self._file(place) for place in window]
        pictures = [
            check_finite(vae.decode_image(latent)[0].cpu(), "keyframe", self._file(place))
            for place, latent in zip(window, latents, strict=True)
        ]
        return [(picture, info | {"seed": seed}) for seed, picture in zip(seeds, pictures, strict=True)]

    @cached_property
    def _negative(self) -> TextCond | None:
        """What guidance leads away from, if there is any."""
        negative, studio = self._job.settings.negative, self._job.studio
        return None if negative is None else studio.keyframe_text.encode([negative])
