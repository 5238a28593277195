"""Text2Story's film (§3): a storyboard's texts in, a film out, segment by segment, without keyframes.

Every shot is a segment with a scene prompt and an action prompt.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ..core.errors import InputError
from ..execution.driver import run_stages
from ..execution.pool import Executor, LocalExecutor
from ..execution.run_folder import RunFolder
from ..models.backbones import Backbone
from ..models.studio import Studio
from ..sampling.text2story.preview import Pictures
from ..sampling.text2story.segments import PromptPair, StorySampler, StorySettings
from ..story.names import expand_names, find_names, introduce_names
from ..story.shot import Keyframe
from ..story.storyboard import Storyboard
from ..story.timeline import snap_length
from . import kinds
from .checks import check_size, prove
from .job import FilmCrew, Job, Progress
from .kinds import check_run, open_run
from .stages.join import placed_clips
from .stages.sheet import WEIGHTS
from .story_stage import (
    Preview,
    other_choices,
    sar_encoder,
    settings_inputs,
    story_grid,
    story_model,
    story_parts,
    story_pictures,
    story_sampler,
    video_settings,
)
from .summary import no_progress, summarise_text, write_summary

__all__ = ["TextFilmJob", "make_text_film", "prompt_pairs"]


def prompt_pairs(story: Storyboard) -> list[PromptPair]:
    """Scene and action prompt of every shot, each able to stand alone: nothing is remembered, so looks are always told.

    The scene prompt has camera, place and scene text, the action prompt the action. Where the action names somebody
    whom the scene text does not, or there is no scene text, the scene prompt is the whole caption: it decides who is
    there before the action has its turn. A shot without an action has its scene twice.
    """
    pairs = []
    for shot in story.shots:
        alone = shot.scene and set(find_names(shot.action)) <= set(find_names(shot.scene))
        bare = shot.model_copy(update={"action": ""}) if alone else shot
        (scene,) = story.model_copy(update={"shots": [bare]}).captions()
        (whole,) = story.model_copy(update={"shots": [shot]}).captions()
        action, query = whole.prompt, whole.query
        if shot.action:
            action = introduce_names(shot.action, story.characters, set())
            query = expand_names(shot.action, story.characters)
        pairs.append(PromptPair([scene.prompt], [action], [scene.query], [query], [whole.prompt], [whole.query]))
    return pairs


def _in_one_piece(story: Storyboard) -> Storyboard:
    """The same shots without keyframes that cut them."""
    whole = [shot.model_copy(update={"keyframes": [Keyframe(at=0)]}) for shot in story.shots]
    return story.model_copy(update={"shots": whole})


def _lengths(story: Storyboard, grid: int) -> list[int]:
    """Frames of every shot of a story in one piece, on the video model's grid."""
    planned = [shot.timeline(story.fps, f"shots[{i}]") for i, shot in enumerate(story.shots)]
    return [snap_length(timeline.requested or timeline.length, grid) for timeline in planned]


def _check_native(story: Storyboard, lengths: Sequence[int], backbone: Backbone, say: Callable[[str], None]) -> None:
    """Refuse shots longer than the backbone was made for, and say so where size or rate are others."""
    if not backbone.bounded:
        return
    title, native = backbone.title, backbone.native()
    for i, frames in enumerate(lengths):
        if frames > native.frames:
            fix = f"use at most {int(10 * native.frames / story.fps) / 10:g} seconds, or several shots"
            raise InputError(f"shots[{i}]", f"must have at most {native.frames} frames for {title}", frames, fix)
    if story.frame_size != native.size or round(story.fps) != native.fps:
        (height, width), (w, h) = native.size, story.size
        made = f"{title} was made for {width}×{height} at {native.fps} frames a second"
        say(f"{made}; the storyboard's {w}×{h} at {story.fps:g} may look poor")


@dataclass
class TextFilmJob(Job):
    """A film made from texts alone.

    Attributes:
        lengths: frames of every shot of the story, on the video model's grid.
        settings: what of Text2Story is used.
        preview: how CLIP is shown what the model predicts.
        cut: whether shots blend only within a place.
    """

    lengths: Sequence[int]
    settings: StorySettings
    preview: Preview
    cut: bool

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what refers to loaded models."""
        live = ("similarity", "centre", "_samplers", "_pictures")
        return {name: value for name, value in vars(self).items() if name not in live}

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Parts of the studio that such a film is made with."""
        return story_parts(self.studio)

    @cached_property
    def studio_hash(self) -> str:
        """What identifies those parts; the video defaults stand among the settings."""
        return self.studio.fingerprint(*self.parts)

    @cached_property
    def settings_inputs(self) -> dict[str, Any]:
        """What a segment depends on besides its prompts, as plain JSON."""
        return settings_inputs(self.settings) | {"preview": self.preview, "video": video_settings(self.studio)}

    @property
    def steps(self) -> int:
        """Solver steps of a segment."""
        return self.studio.defaults.video.steps

    def frames(self, position: int) -> int:
        """Frames of the shot at a position."""
        return self.lengths[position]

    @cached_property
    def pairs(self) -> list[PromptPair]:
        """Scene and action prompt of every shot, with the names that the text encoder knows."""
        pairs = prompt_pairs(self.story)
        texts = [text for pair in pairs for text in (*pair.scene, *pair.action, *(pair.whole or ()))]
        read = self.studio.video_text.alias(texts)  # all at once, so that a name is the same throughout
        return [
            replace(pair, scene=[read[3 * i]], action=[read[3 * i + 1]], whole=[read[3 * i + 2]])
            for i, pair in enumerate(pairs)
        ]

    def blends(self, position: int) -> bool:
        """Whether a shot continues the one before it."""
        shots = self.story.shots
        if not 0 < position < len(shots):
            return False
        before = next((shot.place for shot in reversed(shots[:position]) if shot.place is not None), None)
        return not self.cut or before is None or shots[position].place in (before, None)

    def last(self, position: int) -> str:
        """The stage that a shot's clip is decoded from."""
        return "backward" if self.settings.backward and self.blends(position + 1) else "segment"

    @cached_property
    def similarity(self) -> StorySampler:
        """What compares prompts (SAR); it samples nothing."""
        return StorySampler(None, self.settings, embed_actions=sar_encoder(self.studio, self.settings))  # type: ignore[arg-type]

    @cached_property
    def centre(self) -> Tensor | None:
        """The mean of all that SAR compares in the story, where its settings ask for it."""
        sar = self.settings
        return self.similarity.centre(self.pairs) if sar.semantic and sar.gamma and sar.sar.centred else None

    @cached_property
    def _samplers(self) -> dict[int, StorySampler]:
        """One for each length."""
        model = story_model(self.studio, self.lengths[0], self.story.frame_size)
        pictures: Pictures | None = None if self.settings.dipw is None else story_pictures(model, self.preview)
        return {
            n: story_sampler(self.studio, replace(model, frames=n), self.settings, pictures) for n in set(self.lengths)
        }

    def sampler(self, position: int) -> StorySampler:
        """The sampler of a shot's segment."""
        return self._samplers[self.lengths[position]]

    def accept_whole_studio(self, run: RunFolder) -> None:
        """Keep what was made when the whole studio counted, if that is unchanged."""
        old = {
            name: record.inputs["studio"]
            for name, record in run.results.items()
            if record.inputs.get("studio", self.studio_hash) != self.studio_hash
        }
        if not old:
            return
        try:
            whole = self.studio.fingerprint()
        except InputError:  # files of parts that are not used here are missing: nobody can say
            return
        run.restate([name for name, studio in old.items() if studio == whole], studio=self.studio_hash)


def make_text_film(
    story: Storyboard,
    studio: Studio,
    out: str | os.PathLike[str],
    settings: StorySettings | None = None,
    *,
    preview: Preview = "latent_rgb",
    cut: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    on_finish: Callable[[str, float], None] | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Make a film of a storyboard's texts.

    Args:
        story: its shots are the segments; keyframes and pictures in it are not used.
        studio: of it the video model with its VAE and text encoder, and CLIP; only these need files.
        out: run folder; gets ``film.mp4``, ``contact_sheet.png``, ``weights.png``, ``summary.json``, clips and latents.
        settings: what of Text2Story is used; None takes all of it.
        preview: how CLIP is shown what the model predicts.
        cut: blend only within a place (not in the paper); what comes after a cut does not depend on what was before it.
        resume: keep the segments that are there and still fit.
        progress, say: where progress and lines for people go.
        on_finish: told every stage that is finished, such as ``s01/segment``, and the seconds that it took.
        executor: who makes the stages; None makes them in this process. The film is the same, byte for byte.

    Returns:
        The summary, which is also in ``summary.json``.

    Raises:
        InputError: a size or length that the studio cannot make, model files that cannot be used, or a folder that
            cannot be used; all before anything is made. What is in the folder stays until then.
        OSError: the disk is full or fails; what is finished stays.
        TasksFailed: workers could not make some shots; all others are finished.
    """
    begin = time.perf_counter()
    say = say or (lambda line: None)
    story = _in_one_piece(story)
    lengths = _lengths(story, story_grid(studio))
    _check_native(story, lengths, studio.backbone, say)
    check_run(out, resume=resume, task="tell")
    prove(studio, *story_parts(studio))  # last, because it opens files
    check_size(story, studio, studio.video_vae)
    kind = kinds.KINDS["tell"]
    with open_run(out, resume=resume, task=kind.name) as run:
        run.on_finish = on_finish or run.on_finish
        everything = list(range(len(story.shots)))
        job = TextFilmJob(story, everything, studio, lengths, settings or StorySettings(), preview, cut)
        job.accept_whole_studio(run)
        used = job.settings_inputs | {"cut": cut}
        record = run.record(f"{story.shots[0].id}/segment")
        if record is not None and (line := other_choices(record.inputs.get("settings"), job.settings_inputs)):
            say(line)
        run.describe(title=story.title, studio=studio.name, studio_hash=job.studio_hash, settings=used)
        run_stages(run, executor or LocalExecutor(), FilmCrew(job, kind.stages), progress or no_progress, say)
        weights = [WEIGHTS] if (run.path / WEIGHTS).is_file() else []
        summary = summarise_text(job, run, placed_clips(job), used, weights, time.perf_counter() - begin)
        write_summary(run, summary)
        run.complete(summary["files"])
    return summary
