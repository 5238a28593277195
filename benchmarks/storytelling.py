"""Storytelling: what Text2Story's parts cost beside the plain model, and how well cheap previews weigh the prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import torch
from torch import Tensor

from ..evaluation.suites.text2story.cost import segment_cost
from ..evaluation.suites.text2story.pocket_prompts import PromptStory, prompt_pair, prompt_stories
from ..evaluation.suites.text2story.prompt_set import plan_set, read_set
from ..evaluation.suites.text2story.story_size import FRAMES, check_files, check_pocket_size, choose_set
from ..evaluation.suites.text2story.storytelling_set import prompt_pair as set_pair
from ..evaluation.suites.text2story.variants import SETTINGS
from ..models.studio import load_studio
from ..pipelines.story_stage import Preview, story_model, story_pictures, story_sampler
from ..pocket.world import HEIGHT, WIDTH
from ..sampling.text2story.preview import Pictures, picture_scorer
from ..sampling.text2story.prompt_mixing import DIPW, PromptMixer
from ..sampling.text2story.segments import PromptPair
from .table import Row, row

if TYPE_CHECKING:
    from ..models.studio import Studio
    from ..sampling.text2story.text_to_video import TextToVideoModel

__all__ = ["disagreement", "run_storytelling"]


AGREEMENT = 0.05
"""Mean difference of weights that we allow a cheap preview."""

STORIES = 4


def run_storytelling(
    studio: Studio | None = None,
    prompt_set: str | None = None,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
) -> list[Row]:
    """Time and peak memory of a segment with every preview over the plain model's, in one run.

    With the pocket world's stories also how far the weights of cheap previews are from the paper's.

    Args:
        studio: the models; None takes the pocket studio's.
        prompt_set: `pocket`, `benchmark` or a set's file; None takes `pocket` where the studio can make its films, else
            `benchmark`.
        size, frames: of a set's films, see `text2story.prompt_set.plan_set`; by default the studio's own.

    Raises:
        InputError: a set, size or length that the studio cannot make, or a file that is missing; before models load.
    """
    models = load_studio("pocket") if studio is None else studio
    chosen = choose_set(models, prompt_set)
    check_pocket_size(chosen, size, frames)
    if chosen != "pocket":
        return _run_set(models, chosen, size, frames)
    check_files(models)
    model = story_model(models, FRAMES, (HEIGHT, WIDTH))
    previews = {name: story_pictures(model, name) for name in get_args(Preview)}
    stories = prompt_stories(1, STORIES, 2)
    samplers = {name: story_sampler(models, model, SETTINGS, pictures) for name, pictures in previews.items()}
    every_step = replace(SETTINGS, dipw=DIPW(every=1))
    samplers["decoded_video, every step"] = story_sampler(models, model, every_step, previews["decoded_video"])
    first, second = (prompt_pair(stories[:1], i) for i in range(2))
    # Where a few hundredths count, more turns make them sure; before the others, which leave cold caches behind.
    default = {"latent_rgb": samplers.pop("latent_rgb")}
    costs = segment_cost(first, second, model, default, repeats=15) | segment_cost(first, second, model, samplers)
    rows = _cost_rows("a segment", costs)
    for name in ("latent_rgb", "decoded_frame"):
        found = disagreement(models, model, stories, previews[name], previews["decoded_video"])
        rows.append(
            row(
                f"mean difference of weights, {name} against decoding all at every step; reference: our limit",
                found,
                AGREEMENT,
            )
        )
    return rows


def _run_set(studio: Studio, name: str, size: tuple[int, int] | None, frames: int | None) -> list[Row]:
    """Costs at a size and length of the studio's own: every segment is made once, because one may take many minutes."""
    plan = plan_set(studio, read_set(name), 1, 1, None, size, frames)
    check_files(studio)
    model = story_model(studio, plan.frames, plan.size)
    samplers = {
        preview: story_sampler(studio, model, SETTINGS, story_pictures(model, preview)) for preview in get_args(Preview)
    }
    first, second = (set_pair(plan.stories, i % plan.shots) for i in range(2))
    what = f"a segment of {plan.frames} frames of {plan.size[1]}x{plan.size[0]}"
    return _cost_rows(what, segment_cost(first, second, model, samplers, repeats=1))


def _cost_rows(what: str, costs: Mapping[str, Mapping[str, float]]) -> list[Row]:
    rows = []
    for name, cost in costs.items():
        plain = cost["seconds"] / cost["time_ratio"]
        rows.append(row(f"seconds {what}, {name}; reference: plain model", cost["seconds"], plain))
        rows.append(row(f"peak memory of {what} in the plain model's, {name}", cost["memory_ratio"], 1.0))
    return rows


def disagreement(
    studio: Studio,
    model: TextToVideoModel,
    stories: list[PromptStory],
    cheap: Pictures,
    dear: Pictures,
    cheap_every: int = DIPW.every,
) -> float:
    """Mean |difference| of the weights over the steps of one run, whose previews both scorers are shown.

    `cheap` is asked every `cheap_every` steps as by default, `dear` at every step as in the paper. Each goes on from
    its own last weights.
    """
    seen: list[Tensor] = []

    def watched(latents: Tensor) -> Tensor:
        seen.append(latents)
        return cheap(latents)

    pair = prompt_pair(stories, 0)
    settings = replace(SETTINGS, dipw=DIPW(every=1))
    story_sampler(studio, model, settings, watched).segment(pair, generator=torch.Generator().manual_seed(0))
    mixed = [
        _replayed(studio, model, pair, seen, pictures, every) for pictures, every in ((cheap, cheap_every), (dear, 1))
    ]
    return float((mixed[0] - mixed[1]).abs().mean())


def _replayed(
    studio: Studio, model: TextToVideoModel, pair: PromptPair, seen: list[Tensor], pictures: Pictures, every: int
) -> Tensor:
    """Weights [T, B, 2] of a run that predicts `seen`."""
    queries = [pair.query("scene"), pair.query("whole")]
    prompts = torch.stack([studio.clip.embed_texts(list(texts)) for texts in queries], 1)
    scorer = picture_scorer(pictures, studio.clip.embed_images, prompts)
    levels = model.sigmas.tolist()
    mixer = PromptMixer(model.encode(pair.scene), model.encode(pair.plain), levels, scorer, DIPW(every=every))
    for t, x0 in zip(levels, [*seen, None], strict=False):
        mixer.text(t)
        if x0 is not None:
            mixer.observe(x0)
    return torch.stack([entry.weights for entry in mixer.record])
