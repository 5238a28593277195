"""Suite `storytelling`: what Text2Story's three parts do for a film that is told in prompt pairs.

Text2Story's ablation (§4.5, Table 1) on the pocket world: the full method, each part left out, and the plain model,
with the same weights, seeds and stories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....pipelines.job import Progress
from ....pipelines.story_stage import story_model, story_pictures, story_sampler
from ....pocket.bank import to_tensor
from ....pocket.recogniser import IDENTITY, IGNORE, labels
from ....pocket.render import render_clip
from ....pocket.world import HEIGHT, WIDTH
from ....sampling.noise import noise_source
from ....sampling.text2story.segments import Made, StorySampler, StorySettings
from ...suite import Row
from .cost import COSTS, segment_cost
from .pocket_prompts import PromptStory, prompt_pair, prompt_stories
from .scores import EVERY, StoryMetrics, scene_curve, scene_weights
from .story_size import FRAMES
from .variants import SETTINGS, VARIANTS, settings_of

if TYPE_CHECKING:
    from ....models.studio import Studio
    from ....pocket.recogniser import Recogniser
    from ...metrics.networks import MetricModels

__all__ = ["run_storytelling"]

BATCH = 16
"""Stories made together: the pocket models are small."""


def run_storytelling(
    studio: Studio,
    recogniser: Recogniser,
    seed: int = 0,
    stories: int = 16,
    shots: int = 4,
    variants: Sequence[str] = VARIANTS,
    progress: Progress | None = None,
    full: StorySettings = SETTINGS,
    networks: MetricModels | None = None,
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Run the suite on the pocket world.

    Args:
        studio: models and sampler defaults.
        recogniser: reads what a frame shows.
        seed: which held-out stories, and the noise.
        stories: how many stories.
        shots: segments in each.
        variants: see `settings_of`; `ground_truth` is what the VAE makes of the true films.
        progress: called with how many segments of all variants are done.
        full: the full method's settings.
        networks: of the metrics, in the place of the studio's CLIP, the recogniser's features and SSIM.

    Returns:
        ({"rows": one per variant, "weights": per variant with DIPW the mean weight of the scene at each step,
        and the networks of the metrics: "clip", "features", "jump_metric"}, the films `[T, 3, H, W]` per variant).

    Raises:
        InputError: no such variant.
    """
    chosen = {name: None if name == "ground_truth" else settings_of(name, full) for name in variants}
    prompts = prompt_stories(seed, stories, shots)
    model = story_model(studio, FRAMES, (HEIGHT, WIDTH))
    pictures = story_pictures(model)
    samplers = {k: None if s is None else story_sampler(studio, model, s, pictures) for k, s in chosen.items()}
    first, second = (prompt_pair(prompts[:1], i % shots) for i in range(2))
    cost = segment_cost(first, second, model, {k: sampler for k, sampler in samplers.items() if sampler is not None})
    true = torch.stack([torch.stack([_true_frames(story, i) for i in range(shots)]) for story in prompts])
    accuracy = _ClassifierAccuracy(recogniser, prompts)
    pairs = [prompt_pair(prompts, i) for i in range(shots)]
    metrics = StoryMetrics(pairs, studio.clip, networks, accuracy.features, "recogniser")
    rows: list[Row] = []
    weights: dict[str, list[float]] = {}
    films = {"truth": list(true.flatten(1, 2))}
    total, done = len(samplers) * shots, 0
    for name, sampler in samplers.items():

        def tick(note: str = name) -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress("evaluate", min(done, total), total, note)

        if sampler is None:
            frames = _decode(model, model.vae.encode_chunks(true.flatten(0, 1), [FRAMES])).unflatten(0, true.shape[:2])
            mixed: list[Tensor] = []
            done += shots
        else:
            frames, mixed = _sample_films(sampler, prompts, shots, seed, tick)
        scores, shown = metrics.film(), frames[:, :, ::EVERY]
        scores.add(shown, frames[:, :, [0, -1]])
        rows.append({"variant": name, **scores.row(), **accuracy(shown), **cost.get(name, dict.fromkeys(COSTS))})
        if curve := scene_curve(mixed):
            weights[name] = curve
        films[name] = list(frames.flatten(1, 2))
    return {"rows": rows, "weights": weights, **metrics.facts}, films


def _sample_films(
    sampler: StorySampler, prompts: Sequence[PromptStory], shots: int, seed: int, tick: Any
) -> tuple[Tensor, list[Tensor]]:
    """Films of all stories, `[N, M, T, 3, H, W]` on the CPU, and every segment's `scene_weights`."""
    films, weights = [], []
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        pairs = [prompt_pair(part, i) for i in range(shots)]
        noise = [[noise_source(seed, start + n, i) for n in range(len(part))] for i in range(shots)]

        def on_segment(index: int, made: Made) -> None:
            weights.append(scene_weights(made.record))
            tick()

        made = sampler.story(pairs, noise, on_segment=on_segment)
        films.append(torch.stack([_decode(sampler.model, segment.latents) for segment in made], 1))
    return torch.cat(films), weights


def _decode(model: Any, latents: Tensor) -> Tensor:
    return torch.cat(list(model.decode(latents)), 1).cpu()


def _true_frames(story: PromptStory, index: int) -> Tensor:
    return to_tensor(render_clip(story.shots[index], FRAMES)[0])


class _ClassifierAccuracy:
    """Classifier accuracy: the share of what the prompts say that the recogniser sees in films `[N, M, T, 3, H, W]`."""

    def __init__(self, recogniser: Recogniser, prompts: Sequence[PromptStory]) -> None:
        self.recogniser = recogniser
        truth = [[labels(shot) for shot in story.shots] for story in prompts]
        self._truth = {head: torch.tensor([[row[head] for row in story] for story in truth]) for head in truth[0][0]}

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """`[B, 3, H, W]` in 0…1 → `[B, D]`."""
        return self.recogniser.features(pictures * 2 - 1).flatten(1)

    def __call__(self, shown: Tensor) -> Row:
        read = self.recogniser.read(shown.flatten(0, 2)).values
        read = {head: values.unflatten(0, shown.shape[:3]) for head, values in read.items()}
        return {
            "action": self._right(read, "action"),
            "place": self._right(read, "place"),
            "identity": sum(self._right(read, head) for head in IDENTITY) / len(IDENTITY),
        }

    def _right(self, read: Mapping[str, Tensor], head: str) -> float:
        truth = self._truth[head] if read[head].ndim == 3 else self._truth[head][:, :, None]  # of the frame, or by side
        truth = truth.expand_as(read[head])
        there = truth != IGNORE
        return float((read[head] == truth)[there].float().mean())
