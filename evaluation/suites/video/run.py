"""Suite `video`: do clips go through their keyframes, without a jump there and without losing motion?

SmartDirector's ablation (§4.4) on the pocket world: Multi-Chunk against latent replacement and keyframe replication,
with the same weights, seeds and keyframes. Keyframes are true frames of held-out shots, at times that the grid has to
snap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ....core.errors import InputError
from ....media.frames import psnr
from ....models.encoders.text import TextCond
from ....pipelines.clip_sampling import sample_with_defaults
from ....pipelines.job import Progress
from ....pocket.bank import to_tensor
from ....pocket.render import render_clip
from ....pocket.world import FPS, ShotSpec
from ....sampling.noise import noise_source
from ....sampling.video import Method, decode_video, plan_video
from ....story.timeline import Timeline
from ...metrics.pixels import boundary_jump, frame_change, same_picture
from ...stories import held_out_stories
from ...suite import Row
from .suite import VideoSuite

if TYPE_CHECKING:
    from ....models.studio import Studio

__all__ = ["REQUESTS", "VARIANTS", "Clip", "held_out_clips", "run_video", "sample_clips"]

VARIANTS = VideoSuite.variants

REQUESTS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (2.25, (0.0, 1.1)),
    (2.375, (0.0, 0.6, 1.7)),
    (2.25, (0.0, 0.7)),
    (2.25, (0.0, 1.6)),
)
"""(seconds, keyframe times) that are asked for in turn; no time after 0 lies on a frame."""

BATCH = 16


@dataclass(frozen=True)
class Clip:
    """A held-out clip: its true frames `[T, 3, H, W]`, and what a sampler is given of them.

    Attributes:
        number: counts the clips; with the seed it fixes the noise.
        shot: what it shows.
        timeline: its length and keyframes, asked for and snapped.
        frames: ground truth.
    """

    number: int
    shot: ShotSpec
    timeline: Timeline
    frames: Tensor

    @property
    def keyframes(self) -> Tensor:
        """The given images `[K, 3, H, W]`: the true frames at the snapped times."""
        return self.frames[self.timeline.keyframe_frames]


def held_out_clips(seed: int, stories: int, shots: int) -> list[Clip]:
    """One clip of each story: its first shot, the next story's second, and so on, with each of `REQUESTS` in turn."""
    clips = []
    for n, story in enumerate(held_out_stories(seed, stories, shots)):
        shot = story.shots[n % shots]
        seconds, times = REQUESTS[n % len(REQUESTS)]
        timeline = Timeline.plan(FPS, seconds, times)
        clips.append(Clip(n, shot, timeline, to_tensor(render_clip(shot, timeline.frames)[0])))
    return clips


def run_video(
    studio: Studio,
    seed: int = 0,
    stories: int = 16,
    shots: int = 8,
    variants: Sequence[str] = VARIANTS,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """Run the suite.

    Args:
        studio: models and sampler defaults.
        seed: which held-out clips, and the noise.
        stories: how many clips.
        shots: length of the stories that they are from.
        variants: `multi_chunk`, `latent_replacement`, `replication`; `ground_truth` is what the VAE makes of the clips.
        progress: called with how many clips of all variants are done.

    Returns:
        ({"rows": one per variant, "clips": figures of single clips, "change": frame by frame, per variant and keyframe
        layout}, the clips `[T, 3, H, W]` per variant).

    Raises:
        InputError: no such variant.
    """
    for name in variants:
        if name not in VARIANTS:
            raise InputError("variants", f"must be among {', '.join(VARIANTS)}", name, "choose some of them")
    clips = held_out_clips(seed, stories, shots)
    shown = _reconstructed_keyframes(studio, clips)
    true_motion = _motion([clip.frames for clip in clips])
    rows: list[Row] = []
    singles: list[Row] = []
    changes: dict[str, dict[str, list[float]]] = {"truth": _mean_change(clips, [clip.frames for clip in clips])}
    videos = {"truth": [clip.frames for clip in clips]}
    for number, name in enumerate(variants):

        def tick(done: int, before: int = number * len(clips), note: str = name) -> None:
            if progress is not None:
                progress("evaluate", before + done, len(variants) * len(clips), note)

        tick(0)
        begin = time.perf_counter()
        if name == "ground_truth":
            made, seconds = _reconstructed(studio, clips), None
        else:
            made = sample_clips(studio, clips, seed, cast(Method, name), tick)
            seconds = (time.perf_counter() - begin) / len(clips)
        tick(len(clips))
        per_clip = [_measure(clip, video, seen) for clip, video, seen in zip(clips, made, shown, strict=True)]
        motion = _motion(made)
        rows.append(
            {
                "variant": name,
                **_pooled(per_clip),
                "boundary_jump": _jump(clips, made),
                "boundary_jump_truth": _jump(clips, [clip.frames for clip in clips]),
                "motion": motion,
                "motion_ratio": motion / true_motion,
                "seconds": seconds,
            }
        )
        for clip, video, figures in zip(clips, made, per_clip, strict=True):
            singles.append({"variant": name, **figures, "boundary_jump": _jump([clip], [video])})
        changes[name] = _mean_change(clips, made)
        videos[name] = made
    return {"rows": rows, "clips": singles, "change": changes}, videos


def sample_clips(
    studio: Studio,
    clips: Sequence[Clip],
    seed: int,
    method: Method,
    tick: Callable[[int], None] = lambda done: None,
) -> list[Tensor]:
    """Sample every clip with the studio's defaults and this method; `[T, 3, H, W]` each, on the CPU.

    Clips go through the model together where they have one timeline and captions of one length: some models read a
    caption's padding, so a clip padded to its neighbour's length would not be the clip that a film gets.
    """
    settings = studio.defaults.video
    texts = studio.video_text.encode(studio.video_text.alias([clip.shot.prompt for clip in clips])).rows()
    groups: dict[tuple[str, int], list[int]] = {}
    for index, (clip, text) in enumerate(zip(clips, texts, strict=True)):
        length = settings.text_length or text.tokens.shape[1]
        groups.setdefault((clip.timeline.to_json(), length), []).append(index)
    made: dict[int, Tensor] = {}
    for (_, length), members in groups.items():
        for start in range(0, len(members), BATCH):
            part = members[start : start + BATCH]
            timeline = clips[part[0]].timeline
            latents = sample_with_defaults(
                studio,
                settings,
                stack_texts([texts[i] for i in part], length),
                timeline,
                torch.stack([clips[i].keyframes for i in part]),
                [noise_source(seed, clips[i].number) for i in part],
                method,
            )
            frames = list(decode_video(studio.video_vae, latents, plan_video(timeline, method)))
            made |= dict(zip(part, torch.cat(frames, 1).cpu(), strict=True))
            tick(len(made))
    return [made[index] for index in range(len(clips))]


def stack_texts(texts: Sequence[TextCond], length: int) -> TextCond:
    """Captions as one batch; zeros up to `length` where the studio pads all to one length."""
    tokens = [torch.nn.functional.pad(text.tokens, (0, 0, 0, length - text.tokens.shape[1])) for text in texts]
    masks = [torch.nn.functional.pad(text.mask, (0, length - text.mask.shape[1])) for text in texts]
    return TextCond(torch.cat(tokens), torch.cat(masks))


def _reconstructed(studio: Studio, clips: Sequence[Clip]) -> list[Tensor]:
    """What the VAE makes of the true clips, chunk by chunk."""
    vae = studio.video_vae
    out = []
    for clip in clips:
        latents = vae.encode_chunks(clip.frames[None], clip.timeline.chunks)
        out.append(torch.cat(list(vae.decode_chunks(latents, clip.timeline.latent_chunks)), 1)[0].cpu())
    return out


def _reconstructed_keyframes(studio: Studio, clips: Sequence[Clip]) -> list[Tensor]:
    """What the VAE makes of each given image alone, `[K, 3, H, W]` per clip."""
    vae = studio.video_vae
    return [vae.decode_image(vae.encode_image(clip.keyframes)).cpu() for clip in clips]


def _measure(clip: Clip, video: Tensor, shown: Tensor) -> Row:
    """Figures of one clip; `shown` is the VAE's own reconstruction of its keyframes."""
    at = video[clip.timeline.keyframe_frames]
    return {
        "clip": clip.number,
        "keyframe_frames": clip.timeline.keyframe_frames,
        "keyframe_psnr": psnr(at, clip.keyframes).tolist(),
        "vae_psnr": psnr(shown, clip.keyframes).tolist(),
        "keyframes_exact": same_picture(at, shown).tolist(),
        "snap_error": float(max(key.error for key in clip.timeline.keyframes)),
        "psnr": float(psnr(video, clip.frames, dims=4)),
    }


def _pooled(figures: Sequence[Row]) -> Row:
    """One row of the single clips' figures: means over keyframes or clips, the worst snap error."""

    def mean(name: str) -> float:
        values = [value for row in figures for value in (row[name] if isinstance(row[name], list) else [row[name]])]
        return sum(map(float, values)) / len(values)

    means = {name: mean(name) for name in ("keyframe_psnr", "vae_psnr", "keyframes_exact", "psnr")}
    return {**means, "snap_error": max(row["snap_error"] for row in figures)}


def _jump(clips: Sequence[Clip], videos: Sequence[Tensor]) -> float | None:
    return boundary_jump([frame_change(video) for video in videos], [clip.timeline.chunk_starts for clip in clips])


def _motion(videos: Sequence[Tensor]) -> float:
    """Mean change between consecutive frames, over the clips."""
    return float(torch.stack([frame_change(video).mean() for video in videos]).mean())


def _mean_change(clips: Sequence[Clip], videos: Sequence[Tensor]) -> dict[str, list[float]]:
    """`frame_change` averaged over the clips of one timeline, by the frames of its keyframes, e.g. ``0,9``."""
    groups: dict[str, list[Tensor]] = {}
    for clip, video in zip(clips, videos, strict=True):
        groups.setdefault(",".join(map(str, clip.timeline.keyframe_frames)), []).append(frame_change(video))
    return {name: torch.stack(found).mean(0).tolist() for name, found in groups.items()}
