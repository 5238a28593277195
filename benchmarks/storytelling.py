"""Storytelling: what Text2Story's parts cost beside the plain model, and how well cheap previews weigh the prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor

from ..evaluation.pocket_tellings import Telling, prompt_pair, tellings
from ..evaluation.storytelling import FRAMES, SETTINGS, segment_cost
from ..models.pocket.world import HEIGHT, WIDTH
from ..models.studio import load_studio
from ..pipelines.story_stage import Preview, story_model, story_pictures, story_sampler
from ..sampling.preview import Pictures, picture_scorer
from ..sampling.prompt_mixing import DIPW, PromptMixer
from ..sampling.story import PromptPair

if TYPE_CHECKING:
    from ..models.studio import Studio
    from ..sampling.story_wan import WanStory

__all__ = ["disagreement", "run_storytelling"]

Row = dict[str, Any]

AGREEMENT = 0.05
"""Mean difference of weights that we allow a cheap preview."""

STORIES = 4


def run_storytelling(studio: Studio | None = None) -> list[Row]:
    """Time and peak memory of a segment with every preview over the plain model's, in one run; weights compared."""
    models = load_studio("pocket") if studio is None else studio
    model = story_model(models, FRAMES, (HEIGHT, WIDTH))
    previews = {name: story_pictures(model, name) for name in get_args(Preview)}
    told = tellings(1, STORIES, 2)
    samplers = {name: story_sampler(models, model, SETTINGS, pictures) for name, pictures in previews.items()}
    every_step = replace(SETTINGS, dipw=DIPW(every=1))
    samplers["decoded_video, every step"] = story_sampler(models, model, every_step, previews["decoded_video"])
    rows = []
    for name, cost in segment_cost(told, model, samplers).items():
        plain = cost["seconds"] / cost["time_ratio"]
        rows.append(_row(f"seconds a segment, {name}; reference: plain model", cost["seconds"], plain))
        rows.append(_row(f"peak memory of a segment, {name}; reference: plain model", cost["memory_ratio"], 1.0))
    for name in ("latent_rgb", "decoded_frame"):
        found = disagreement(models, model, told, previews[name], previews["decoded_video"])
        rows.append(_row(f"mean difference of weights, {name} against decoding all at every step", found, AGREEMENT))
    return rows


def disagreement(
    studio: Studio, model: WanStory, told: list[Telling], cheap: Pictures, dear: Pictures, cheap_every: int = DIPW.every
) -> float:
    """Mean |difference| of the weights over the steps of one run, whose previews both scorers are shown.

    `cheap` is asked every `cheap_every` steps as by default, `dear` at every step as in the paper. Each goes on from
    its own last weights.
    """
    seen: list[Tensor] = []

    def watched(latents: Tensor) -> Tensor:
        seen.append(latents)
        return cheap(latents)

    pair = prompt_pair(told, 0)
    settings = replace(SETTINGS, dipw=DIPW(every=1))
    story_sampler(studio, model, settings, watched).segment(pair, generator=torch.Generator().manual_seed(0))
    mixed = [
        _replayed(studio, model, pair, seen, pictures, every) for pictures, every in ((cheap, cheap_every), (dear, 1))
    ]
    return float((mixed[0] - mixed[1]).abs().mean())


def _replayed(
    studio: Studio, model: WanStory, pair: PromptPair, seen: list[Tensor], pictures: Pictures, every: int
) -> Tensor:
    """Weights [T, B, 2] of a run that foresees `seen`."""
    queries = [pair.scene_query or pair.scene, pair.action_query or pair.action]
    prompts = torch.stack([studio.clip.embed_texts(list(texts)) for texts in queries], 1)
    scorer = picture_scorer(pictures, studio.clip.embed_images, prompts)
    levels = model.sigmas.tolist()
    mixer = PromptMixer(model.encode(pair.scene), model.encode(pair.action), levels, scorer, DIPW(every=every))
    for t, x0 in zip(levels, [*seen, None], strict=False):
        mixer.text(t)
        if x0 is not None:
            mixer.observe(x0)
    return torch.stack([entry.weights for entry in mixer.record])


def _row(what: str, ours: float, reference: float) -> Row:
    return {"what": what, "ours": ours, "reference": reference, "ratio": ours / reference}
