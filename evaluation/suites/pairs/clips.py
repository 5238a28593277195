"""The video of every shot, from its start frame to its end frame (STAGE Eq. 10), for VBench's figures of clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....pipelines.clip_sampling import sample_with_defaults
from ....pocket.world import FPS
from ....sampling.noise import noise_source
from ....sampling.video import decode_video, plan_video
from ....story.timeline import Timeline
from ...metrics.consistency import consistency, shot_features
from ..video.run import stack_texts
from .stories import ToldStory

if TYPE_CHECKING:
    from ....models.studio import Studio
    from .judges import Judges

__all__ = ["CLIP_FIGURES", "clip_figures", "film_pairs", "shot_timeline"]

CLIP_FIGURES = ("SC_video", "BC_video", "SC_E_video", "BC_E_video")

Tick = Callable[[int], None]
Clips = list[list[Tensor]]
"""Per story and shot, `[T, 3, H, W]`."""


def shot_timeline(length: int) -> Timeline:
    """A shot of so many frames with a keyframe on its first and one on its last."""
    return Timeline.plan(FPS, length / FPS, (0.0, (length - 1) / FPS))


def film_pairs(
    studio: Studio, stories: Sequence[ToldStory], frames: Tensor, seed: int, tick: Tick = lambda done: None
) -> Clips:
    """Sample the clip of every shot through its pair, with the studio's video defaults.

    Args:
        studio: its video model.
        stories: N of them.
        frames: their pairs `[N, P, 2, 3, H, W]`.
        seed: of the noise.
        tick: called with how many clips are done.
    """
    settings = studio.defaults.video
    made: dict[tuple[int, int], Tensor] = {}
    places = [(n, p) for n, story in enumerate(stories) for p in range(len(story.lengths))]
    captions = studio.video_text.alias([stories[n].caption(p, "told") for n, p in places])
    texts = dict(zip(places, studio.video_text.encode(captions).rows(), strict=True))
    # Some models read a caption's padding: only equal lengths go through together.
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for n, p in places:
        width = settings.text_length or texts[n, p].tokens.shape[1]
        groups.setdefault((stories[n].lengths[p], width), []).append((n, p))
    for (length, width), members in groups.items():
        timeline = shot_timeline(length)
        latents = sample_with_defaults(
            studio,
            settings,
            stack_texts([texts[place] for place in members], width),
            timeline,
            torch.stack([frames[place] for place in members]),
            [noise_source(seed, stories[n].truth.seed, p) for n, p in members],
        )
        clips = torch.cat(list(decode_video(studio.video_vae, latents, plan_video(timeline, settings.method))), 1)
        made |= dict(zip(members, clips.clamp(0, 1).cpu(), strict=True))
        tick(len(made))
    return [[made[n, p] for p in range(len(story.lengths))] for n, story in enumerate(stories)]


def clip_figures(clips: Clips, judges: Judges) -> dict[str, list[float | None]]:
    """VBench's consistency of clips, and across the clips of a story: `CLIP_FIGURES`, a value for each story."""
    found: dict[str, list[float | None]] = {}
    for name, embed in (("SC", judges.subject), ("BC", judges.clip.embed_images)):
        features = [[embed(clip).float().cpu() for clip in story] for story in clips]
        within = [[float(consistency(clip)) for clip in story] for story in features]
        found[f"{name}_video"] = [sum(story) / len(story) for story in within]
        shots = [torch.stack([shot_features(clip) for clip in story]) for story in features]
        found[f"{name}_E_video"] = [float(consistency(story)) if len(story) > 1 else None for story in shots]
    return {name: found[name] for name in CLIP_FIGURES}
