"""Suite `storytelling` on a set of prompt pairs, with any studio: Text2Story's evaluation as the paper has it (§4.4).

Nothing knows what the films should look like, so only Text2Story's own metrics are taken. One story is made at a time,
and of its decoded segments no more is kept than is scored: at 1280×704 a story of four segments is gigabytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ....core.errors import InputError, closest
from ....pipelines.job import Progress
from ....pipelines.story_stage import (
    asks_clip,
    sar_encoder,
    story_model,
    story_parts,
    story_pictures,
    story_sampler,
    video_settings,
)
from ....sampling.text2story.segments import StorySampler, StorySettings
from ...metrics.networks import MetricFiles, MetricModels
from ...parts import PartCache
from .films import SHEET_STORIES, Figures, FilmRunner, films_row
from .scores import StoryMetrics, scene_curve
from .story_size import check_files, check_frames, check_size, natural_length
from .storytelling_set import SetStory, StorytellingSet, prompt_pair
from .variants import SETTINGS, VARIANTS, settings_of

if TYPE_CHECKING:
    from ....models.studio import Studio

__all__ = ["SET_VARIANTS", "SetPlan", "film_key", "plan_set", "read_set", "run_prompt_set"]

SET_VARIANTS = VARIANTS[1:]
"""Without `ground_truth`: there is none."""

STORIES, SHOTS = 16, 4
"""Defaults, where the set has as many."""


def read_set(name: str) -> StorytellingSet:
    """The set `benchmark`, or that of a file in its format.

    Raises:
        InputError: no such set, or a fault in its file.
    """
    if name == "benchmark":
        return StorytellingSet.read()
    if not Path(name).is_file():
        near = closest(name, ("pocket", "benchmark"))
        fix = f"did you mean {near}?" if near else "there is no such file: correct the path"
        raise InputError("set", "must be pocket, benchmark or a file of prompt pairs", name, fix)
    return StorytellingSet.read(name)


@dataclass(frozen=True)
class SetPlan:
    """What is filmed: stories with as many scenes each, in films of `size` (height, width) and segments of `frames`."""

    stories: tuple[SetStory, ...]
    size: tuple[int, int]
    frames: int

    @property
    def shots(self) -> int:
        """Segments of a film."""
        return len(self.stories[0].pairs)


def plan_set(
    studio: Studio,
    prompts: StorytellingSet,
    seed: int = 0,
    stories: int | None = None,
    shots: int | None = None,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
) -> SetPlan:
    """Choose stories of a set, a size and a length that a studio can make, without loading its models.

    Args:
        studio: the models.
        prompts: the set.
        seed: which stories.
        stories: how many, spread evenly over places and casts; None takes 16, or all of a smaller set.
        shots: scenes of each story, from its beginning; None takes 4, or all of a shorter one.
        size: (height, width) of the films; None takes `natural_length`'s.
        frames: of a segment, on the grid of the studio's video model; None takes `natural_length`'s.

    Raises:
        InputError: a number or size that does not fit, or a VAE's file that is missing.
    """
    chosen = _stories(prompts, seed, stories, shots)
    natural = natural_length(studio)
    size, frames = natural[0] if size is None else size, natural[1] if frames is None else frames
    check_size(studio, size)
    check_frames(studio, frames)
    return SetPlan(chosen, size, frames)


def run_prompt_set(
    studio: Studio,
    prompts: StorytellingSet,
    seed: int = 0,
    stories: int | None = None,
    shots: int | None = None,
    variants: Sequence[str] = SET_VARIANTS,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    networks: MetricModels | MetricFiles | None = None,
    progress: Progress | None = None,
    full: StorySettings = SETTINGS,
    keep: Callable[[dict[str, Any], int], None] | None = None,
    cache: PartCache | None = None,
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Film stories of a set and score the films.

    Args:
        studio: models and sampler defaults.
        prompts, seed, stories, shots, size, frames: see `plan_set`; the seed is the noise's, too.
        variants: see `variants.settings_of`.
        networks: of the metrics, in the place of the studio's CLIP, its image features and SSIM.
        progress: called with how many segments of all variants are done.
        full: the full method's settings.
        keep: called after every story with the figures of all that are filmed, and how many there will be. They are
            those of a run of so many stories.
        cache: takes the figures of every finished film, and has those that need not be made again.

    Returns:
        As `pocket.run_storytelling`, with "stories", "shots", "size" [width, height] and "frames"; the pictures
        are three small ones of each segment of a few stories.

    Raises:
        InputError: a variant, number or size that does not fit, or a file that is missing; before any model is loaded.
    """
    if "ground_truth" in variants:
        fix = "only the pocket world knows the truth"
        raise InputError("variants", f"must be among {', '.join(SET_VARIANTS)} on a set", "ground_truth", fix)
    chosen = {name: settings_of(name, full) for name in variants}
    plan = plan_set(studio, prompts, seed, stories, shots, size, frames)
    steered = any(map(asks_clip, chosen.values()))
    check_files(studio, clip=steered or networks is None or networks.clip is None)
    networks = networks.load() if isinstance(networks, MetricFiles) else networks or MetricModels()
    pairs = [prompt_pair(plan.stories, i) for i in range(plan.shots)]
    metrics = StoryMetrics(pairs, studio.clip if networks.clip is None else networks.clip, networks)
    model = story_model(studio, plan.frames, plan.size)
    mixes = any(settings.dipw is not None for settings in chosen.values())
    pictures = story_pictures(model) if mixes else None

    def sampler(settings: StorySettings) -> StorySampler:
        if not asks_clip(settings):
            return StorySampler(model, settings, embed_actions=sar_encoder(studio, settings))
        return story_sampler(studio, model, settings, pictures)

    runners = {
        name: FilmRunner(sampler(settings), plan.frames, metrics, studio.device) for name, settings in chosen.items()
    }
    films: dict[str, list[Figures]] = {name: [] for name in chosen}
    inputs = {asks: _inputs(studio, plan, seed, networks, asks or networks.clip is None) for asks in {steered, False}}
    total, done = len(chosen) * len(plan.stories) * plan.shots, 0
    for number, story in enumerate(plan.stories):
        # The variants take turns, every second time backwards, so that a slow phase of the machine meets all alike.
        for name in list(films)[:: 1 if number % 2 == 0 else -1]:

            def tick(note: str = name) -> None:
                nonlocal done
                done += 1
                if progress is not None:
                    progress("evaluate", done, total, note)

            settings = chosen[name]
            own = film_key(settings, story, number) | inputs[asks_clip(settings)]
            film = None if cache is None else cache.load(name, number, own)
            if film is None:
                film = runners[name].film(story, number, seed, tick)
                if cache is not None:
                    cache.save(name, number, own, film)
            else:
                for _ in story.pairs:
                    tick()
            films[name].append(film)
        facts = {"stories": number + 1, "shots": plan.shots, "size": list(plan.size[::-1]), "frames": plan.frames}
        found = _found(films) | metrics.facts | facts
        if keep is not None:
            keep(found, len(plan.stories))
    return found, {name: [film["pictures"] for film in some[:SHEET_STORIES]] for name, some in films.items()}


def film_key(settings: StorySettings, story: SetStory, number: int) -> dict[str, Any]:
    """What tells one film of a run from another.

    The names in it stay as they are, whatever the classes are called: what earlier runs have finished is found by them.
    """
    own = repr(settings).partition("(")[2], repr(story).partition("(")[2]
    return {"settings": f"StorySettings({own[0]}", "plot": f"Plot({own[1]}", "number": number}


def _inputs(studio: Studio, plan: SetPlan, seed: int, networks: MetricModels, clip: bool) -> dict[str, Any]:
    """What all films of a run and their figures depend on; `clip`: whether the studio's CLIP is used."""
    from .... import __version__

    parts = [part for part in story_parts(studio) if clip or part != "clip"]
    return {
        "version": __version__,
        "studio": studio.fingerprint(*parts),
        "video": video_settings(studio),
        "size": plan.size,
        "frames": plan.frames,
        "seed": seed,
        "judges": dict(networks.identities),
    }


def _found(films: Mapping[str, Sequence[Figures]]) -> dict[str, Any]:
    """Figures of the films so far."""
    unread = dict.fromkeys(("action", "place", "identity"))
    rows = [{"variant": name, **films_row(some), **unread} for name, some in films.items()]
    _compare_costs(rows)
    curves = {name: scene_curve([film["weights"] for film in some]) for name, some in films.items()}
    return {"rows": rows, "weights": {name: curve for name, curve in curves.items() if curve}}


def _compare_costs(rows: list[dict[str, Any]]) -> None:
    """Time and memory over the plain model's, where that is among the variants and memory was measured."""
    plain = next((row for row in rows if row["variant"] == "plain"), None)
    reference = (None, None) if plain is None else (plain["seconds"], plain["peak"])
    for row in rows:
        for name, value, other in zip(("time", "memory"), (row["seconds"], row["peak"]), reference, strict=True):
            row[f"{name}_ratio"] = value / other if value is not None and other else None
    for row in rows:
        del row["peak"]


def _stories(prompts: StorytellingSet, seed: int, stories: int | None, shots: int | None) -> tuple[SetStory, ...]:
    """The stories that are filmed."""
    longest = min(len(place.scenes) for place in prompts.places)
    shots = min(SHOTS, longest) if shots is None else shots
    if isinstance(shots, bool) or not isinstance(shots, int) or not 1 <= shots <= longest:
        fix = "choose one in that range"
        raise InputError("shots", f"must be a whole number from 1 to {longest}, the shortest plot", shots, fix)
    most = len(prompts.places) * len(prompts.casts)
    return prompts.choose(stories=min(STORIES, most) if stories is None else stories, scenes=shots, seed=seed)
