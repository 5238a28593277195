"""Suite `keyframes`: do characters and places stay themselves over a story, and what does their memory cost?

Captain Cinema's ablations on the pocket world: full context, GoldenMem, none and joint generation (Tables 2 and 3),
retrieval (Fig. 5), noise on the context (Fig. 10), each over stories of several lengths. All figures are of roll-outs:
a frame's context is what was generated before it, so errors add up as they do in a film.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
import torch
from torch import Tensor

from ....core.errors import InputError
from ....memory.golden_mem import GoldenMem
from ....memory.retrieval import Retrieval
from ....models.layouts.pairs import read_noise
from ....pipelines.job import FilmSettings, Progress
from ....pocket.bank import to_tensor
from ....pocket.recogniser import Recogniser
from ....pocket.render import render
from ....pocket.world import HEIGHT, WIDTH, ShotSpec, Story
from ...metrics.classifier import FORGOTTEN, Scores, Sharpest, StoryTruth, retrieval_recall
from ...metrics.pixels import diversity
from ...stories import held_out_stories
from ...suite import Row
from ...written_stories import padded
from .rollout import MemoryPolicy, RollOut, StorySet, extend, generate_jointly, step_cost
from .suite import KeyframesSuite

if TYPE_CHECKING:
    from ....models.studio import Studio

__all__ = ["RETRIEVAL_BUDGET", "VARIANTS", "Variant", "classify_frames", "run_keyframes", "true_frames"]

VARIANTS = KeyframesSuite.variants

RETRIEVAL_BUDGET = 2
"""Frames that the retrieval variants may remember, all on the first tier: so few that the choice decides.

The 4 most recent frames already show 97 % of what a shot of an 8-shot story needs; the 2 most recent show 88 %."""

BATCH = 16
"""Stories that are rolled out together; bounds memory, changes no result."""

SHEET_STORIES = 3

STANDARD_ERRORS = ("identity", "layout", "side", "action")
"""Shares that are reported with their standard error over stories."""

_KINDS = "|".join(get_args(Retrieval))
_TIERED = re.compile(rf"(goldenmem|latent|retrieval:(?P<few>{_KINDS}))(:(?P<tier>[0-8]))?(:(?P<all>{_KINDS}))?")


@dataclass(frozen=True)
class Variant:
    """One row's way of making frames: `truth` (none are made), `joint`, or `extend` with a `policy`."""

    name: str
    kind: str
    policy: MemoryPolicy | None = None

    @classmethod
    def parse(cls, name: str, settings: FilmSettings, shots: int) -> Variant:
        """Read a variant's name; everything that it does not say is the studio's default.

        Args:
            name: `ground_truth`, `full`, `none`, `joint`; `goldenmem` and `latent` (shrunk after the VAE), also with
                `:K` (the most relevant frames on tier K) and `:clip|text|recency` (how they are ranked);
                `retrieval:clip|text|recency`, also with `:K`; `noise:T` with T in 0…1, or `noise:LOW-HIGH`, each
                remembered frame with a level of its own.
            settings: the studio's defaults.
            shots: length of the longest story.

        Raises:
            InputError: no such variant.
        """
        default = MemoryPolicy(settings.memory, settings.retrieval, settings.keyframe.context_noise)
        if name in ("ground_truth", "joint"):
            return cls(name, "truth" if name == "ground_truth" else "joint")
        policy: MemoryPolicy | None = None
        if name == "none":
            policy = replace(default, memory=None)
        elif name == "full":
            policy = replace(default, memory=GoldenMem.full(max(1, shots - 1)))
        elif name.startswith("noise:"):
            noise = read_noise(name.removeprefix("noise:"))
            policy = None if noise is None else replace(default, context_noise=noise)
        elif found := _TIERED.fullmatch(name):
            memory, kind = settings.memory, found["few"] or found["all"] or settings.retrieval
            if found["few"]:
                memory = replace(memory, groups=1, images=RETRIEVAL_BUDGET)
            if found[1] == "latent":
                memory = replace(memory, level="latent")
            if found["tier"]:
                memory = replace(memory, first_tier=int(found["tier"]))
            if not (found["few"] and found["all"]):
                policy = replace(default, memory=memory, retrieval=cast(Retrieval, kind))
        if policy is None:
            fix = "use full, goldenmem, none, joint, ground_truth, retrieval:clip, noise:0.1 …"
            raise InputError("variants", f"must be among {', '.join(VARIANTS)}", name, fix)
        return cls(name, "extend", policy)


def run_keyframes(
    studio: Studio,
    recogniser: Recogniser,
    seed: int = 0,
    stories: int = 16,
    pairs: Sequence[int] = (8,),
    variants: Sequence[str] = VARIANTS,
    progress: Progress | None = None,
    written: Sequence[Story] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Run the suite.

    A shot depends only on the shots before it, and a short held-out story is the beginning of the long one of the same
    seed. So every variant is rolled out once, to the longest length, and shorter lengths are read off; joint generation
    is run for every length.

    Args:
        studio: models and sampler defaults.
        recogniser: reads who and what a frame shows.
        seed: which held-out stories, and the noise.
        stories: how many.
        pairs: numbers of shots in a story.
        variants: names, see `Variant.parse`.
        progress: called with how many shots of all variants are done.
        written: stories of any lengths in the place of held-out ones.

    Returns:
        ({"rows": one per variant and number of pairs, "by_shot": identity along the story, "reader": scores of the true
        frames themselves}, frames of a few stories `[n, P, 3, H, W]` per variant for the sheet).
    """
    longest = max(pairs)
    settings = FilmSettings.of(studio, (HEIGHT, WIDTH))
    chosen = [Variant.parse(name, settings, longest) for name in variants]
    lengths = [longest] * stories if written is None else [len(story.shots) for story in written]
    played = held_out_stories(seed, stories, longest) if written is None else written
    suite = _Suite(studio, settings, played, seed, progress)
    played = padded(played, longest)
    suite.plan(chosen, pairs)
    true = true_frames(played)
    rows: list[Row] = []
    by_shot: dict[str, list[float | None]] = {}
    pictures = {"truth": true[:SHEET_STORIES]}
    for number, variant in enumerate(chosen):
        for count in pairs:
            specs = [story.shots[:count] for story in played]
            run = suite.frames(variant, count, true)
            ends = [min(length, count) for length in lengths]
            truth = StoryTruth.of(specs, ends)
            scores = Scores(classify_frames(recogniser, run.frames), truth)
            row: Row = {"variant": variant.name, "pairs": count, **scores.all()}
            row |= {f"{name}_se": scores.standard_error(name) for name in STANDARD_ERRORS}
            shown = [shots[:end] for shots, end in zip(specs, ends, strict=True)]
            row["recall"] = None if variant.policy is None else retrieval_recall(shown, run.remembered)
            row |= _by_tier(scores, specs, run) if variant.kind == "extend" else {}
            row |= {"diversity": diversity(run.frames, ends), "diversity_truth": diversity(true[:, :count], ends)}
            row |= suite.cost(variant, run, count)
            rows.append(row)
            by_shot[f"{variant.name}@{count}"] = scores.by_shot("identity")
            if count == longest:
                pictures[variant.name] = run.frames[:SHEET_STORIES].clone()
        suite.forget_all_but(chosen[number + 1 :], pairs)
    truth_accuracy = Scores(
        classify_frames(recogniser, true), StoryTruth.of([story.shots for story in played], lengths)
    )
    return {"rows": rows, "by_shot": by_shot, "reader": truth_accuracy.all()}, pictures


def _by_tier(scores: Scores, stories: Sequence[Sequence[ShotSpec]], run: RollOut) -> Row:
    """Identity and layout by the tier of the sharpest remembered frame that shows the character or the place.

    `untold` counts only characters whose looks no remembered caption tells either: pictures are all there is.
    """
    found = Sharpest.of(stories, run.remembered, run.slots)
    row: Row = {"identity_by_tier": {}, "untold_by_tier": {}, "layout_by_tier": {}}
    tiers = {slot.tier for slots in run.slots for slot in slots}
    for tier in [*sorted(tiers), FORGOTTEN]:
        name, sides = "forgotten" if tier == FORGOTTEN else str(tier), found.characters == tier
        row["identity_by_tier"][name] = scores.identity_of(sides)
        row["untold_by_tier"][name] = scores.identity_of(sides & ~found.captioned)
        row["layout_by_tier"][name] = scores.layout_of(found.places == tier)
    return row


def true_frames(stories: Sequence[Story]) -> Tensor:
    """The rendered frames of every shot at its beginning, `[N, P, 3, H, W]`."""
    return torch.stack([to_tensor(np.stack([render(shot)[0] for shot in story.shots])) for story in stories])


def classify_frames(recogniser: Recogniser, frames: Tensor, batch: int = 256) -> dict[str, Tensor]:
    """What the recogniser sees in frames `[N, P, 3, H, W]`: per head `[N, P, 2]` or `[N, P]`."""
    parts = [recogniser.read(part).values for part in frames.flatten(0, 1).split(batch)]
    return {head: torch.cat([part[head] for part in parts]).unflatten(0, frames.shape[:2]) for head in parts[0]}


class _Suite:
    """Rolls out each distinct way of making frames once."""

    def __init__(
        self, studio: Studio, settings: FilmSettings, stories: Sequence[Story], seed: int, progress: Progress | None
    ) -> None:
        self._studio, self._settings, self._progress = studio, settings, progress
        rest = iter(stories)
        parts = iter(lambda: list(islice(rest, BATCH)), [])
        self._sets = [StorySet(studio, padded(part, max(len(story.shots) for story in part)), seed) for part in parts]
        self._made: dict[tuple[MemoryPolicy | None, int | None], list[RollOut]] = {}
        self._done = self._total = 0

    def plan(self, variants: Sequence[Variant], pairs: Sequence[int]) -> None:
        """Count the work for the progress bar."""
        keys = self._keys(variants, pairs)
        self._total = sum(min(shots or part.shots, part.shots) for _, shots in keys for part in self._sets)

    def forget_all_but(self, variants: Sequence[Variant], pairs: Sequence[int]) -> None:
        """Release the frames that no variant still to come will ask for."""
        wanted = self._keys(variants, pairs)
        self._made = {key: made for key, made in self._made.items() if key in wanted}

    def frames(self, variant: Variant, shots: int, true: Tensor) -> RollOut:
        """The first `shots` shots of all stories; for ground truth, what the VAE makes of the true frames."""
        if variant.kind == "truth":
            vae = self._studio.image_vae
            flat = true[:, :shots].flatten(0, 1)
            seen = torch.cat([vae.decode_image(vae.encode_image(part)).cpu() for part in flat.split(64)])
            empty: list[list[list[int]]] = [[[] for _ in range(shots)] for _ in true]
            return RollOut(seen.unflatten(0, (len(true), shots)), empty, [[]] * shots, [0.0] * shots)
        return RollOut.join([part.first(shots).padded(shots) for part in self._roll_out(variant, shots)])

    def cost(self, variant: Variant, run: RollOut, shots: int) -> Row:
        """Tokens and FLOPs of a step, seconds of a frame; nothing for ground truth, which is not sampled."""
        if variant.kind == "truth":
            return {"tokens": None, "flops": None, "seconds": None}
        parts = self._roll_out(variant, shots)
        costs = [
            (
                len(stories),
                *step_cost(stories, variant.policy, part, self._settings.keyframe, min(shots, stories.shots)),
            )
            for stories, part in zip(self._sets, parts, strict=True)
        ]
        count = sum(weight for weight, _, _ in costs)
        made = sum(len(stories) * min(shots, stories.shots) for stories in self._sets)
        tokens = sum(weight * tokens for weight, tokens, _ in costs) / count
        flops = sum(weight * flops for weight, _, flops in costs) / count
        return {"tokens": tokens, "flops": flops, "seconds": sum(run.seconds) / made}

    def _keys(self, variants: Sequence[Variant], pairs: Sequence[int]) -> set[tuple[MemoryPolicy | None, int | None]]:
        return {self._key(variant, count) for variant in variants if variant.kind != "truth" for count in pairs}

    def _key(self, variant: Variant, shots: int) -> tuple[MemoryPolicy | None, int | None]:
        return variant.policy, shots if variant.kind == "joint" else None

    def _roll_out(self, variant: Variant, shots: int) -> list[RollOut]:
        key = self._key(variant, shots)
        if key not in self._made:
            self._made[key] = [
                self._run(variant, stories, min(key[1] or stories.shots, stories.shots)) for stories in self._sets
            ]
        return self._made[key]

    def _run(self, variant: Variant, stories: StorySet, shots: int) -> RollOut:
        before, note = self._done, f"{variant.name}, {shots} shots"

        def tick(done: int) -> None:
            self._done = before + done
            if self._progress is not None:
                self._progress("evaluate", self._done, self._total, note)

        tick(0)
        if variant.policy is None:
            out = generate_jointly(stories, shots, self._settings.keyframe)
        else:
            out = extend(stories, variant.policy, self._settings.keyframe, tick)
        tick(shots)
        return out
