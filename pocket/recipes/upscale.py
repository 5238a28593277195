"""Recipe: the pocket super-resolution model, SmartDirector's Director-SR (§3.3) at pocket scale: 80×160 to 160×320.

A bridge without noise from the low-resolution latents to the high-resolution ones (Eq. 5), the chunks of Director-Gen,
keyframes at high resolution with t = 0. It starts from the video model's weights.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ...core.files import atomic_path
from ...models.backbones.wan.headless import DirectorWan
from ...models.encoders.vae import VideoCodec
from ...models.layouts.chunks import frame_timesteps, mc_index
from ...models.layouts.upscale import UpscalePlan, plan_upscale, upscale_latents
from ...training.degradations import MILD, degrade
from ...training.objectives import FlowInputs, FlowMatching
from ...training.processes import Share
from ...training.recipe import Recipe
from ..bank import draw_all, to_tensor
from ..configs import UPSCALE
from ..render import render_clip
from ..world import make_story
from .video import VideoConditions

SCALE = 2
"""Sides of the large pictures over those of the small ones."""

PLANS = (
    plan_upscale(17, (0,)),
    plan_upscale(17, (0, 8)),
    plan_upscale(17, (0, 5)),
    plan_upscale(13, (0, 9), after=1),
    plan_upscale(17, (), before=1),
)
"""How clips are laid out: chunks that are full and chunks that are filled up, keyframes inside and outside."""

KEYFRAMES = (0.55, 0.2, 0.25)
"""How often a batch has all of its keyframes at high resolution, none, or each with an even chance."""

DEGRADED = 0.5
"""Share of clips whose low-resolution frames are more than the mean of the large ones' pixels."""


@dataclass(frozen=True)
class UpscaleLatents:
    """Encoded clips: per plan [N, C, F, h', w'] of the large frames, [N, C, F, h, w] of the small ones (fp16), captions.
    """

    high: list[Tensor]
    low: list[Tensor]
    captions: list[list[str]]


def draw_pair(plan: UpscalePlan, seed: int, split: str) -> tuple[np.ndarray, np.ndarray, str]:
    """A clip's frames as a plan's chunks hold them, large and small, uint8 [T, H, W, 3], and its caption.

    A frame outside the clip, before or behind it, is from half a second to two seconds away.
    """
    rng = random.Random(f"upscale/{seed}")
    shot = make_story(seed, 1, split).shots[0]
    start = rng.uniform(0, 1)
    far = rng.randrange(4, 17)
    frames, _ = render_clip(shot, plan.frames + 2 * far, start=start, scale=SCALE)
    order = [far + n for n in plan.source]
    order[: plan.before] = [rng.randrange(far)] * plan.before
    order[len(order) - plan.after :] = [far + plan.frames + rng.randrange(far)] * plan.after
    high = frames[order]
    low = F.avg_pool2d(to_tensor(high), SCALE)
    if rng.random() < DEGRADED:
        ends = (plan.before, len(order) - plan.after)
        low[slice(*ends)] = degrade(to_tensor(high[slice(*ends)]), SCALE, seed, MILD)
    return high, low.mul(255).round().byte().movedim(1, -1).numpy(), shot.prompt


@torch.no_grad()
def encode_pairs(
    vae: VideoCodec, per_plan: int, split: str = "train", seed: int = 0, cache: Path | None = None, rows: int = 8
) -> UpscaleLatents:
    """Draw and encode clips of every plan, large and small by the same VAE; with `cache` they are kept in that file."""
    seeds = [[120_000_000 + seed + n * len(PLANS) + i for n in range(per_plan)] for i in range(len(PLANS))]
    captions = [[make_story(s, 1, split).shots[0].prompt for s in row] for row in seeds]
    if cache is not None and cache.exists():
        with safe_open(cache, framework="pt") as file:
            high, low = ([file.get_tensor(f"{name}{i}") for i in range(len(PLANS))] for name in ("high", "low"))
        return UpscaleLatents(high, low, captions)
    high, low = [], []
    for plan, row in zip(PLANS, seeds, strict=True):
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for start in range(0, len(row), rows):
            drawn = draw_all(partial(_draw, plan, split), row[start : start + rows])
            for side in (0, 1):
                video = to_tensor(np.stack([pair[side] for pair in drawn]))
                parts[side].append(vae.encode_chunks(video, plan.video.chunks).cpu().half())
        high.append(torch.cat(parts[0]))
        low.append(torch.cat(parts[1]))
    if cache is not None:
        with atomic_path(cache) as temporary:
            tensors = {f"high{i}": z for i, z in enumerate(high)} | {f"low{i}": z for i, z in enumerate(low)}
            save_file(tensors, temporary)
    return UpscaleLatents(high, low, captions)


def _draw(plan: UpscalePlan, split: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return draw_pair(plan, seed, split)[:2]


class UpscaleBatch(NamedTuple):
    """Clips of one plan.

    Attributes:
        plan: index into `PLANS`.
        clips: [N] indices into the plan's clips.
        pinned: latent frames that are keyframes at high resolution.
        times: [N], 1 where a sampler starts.
        captioned: whether there is text.
        window: top, left, height and width in latent pixels of what is trained on; None: all.
    """

    plan: int
    clips: Tensor
    pinned: list[int]
    times: Tensor
    captioned: bool
    window: tuple[int, int, int, int] | None


class PairDraws:
    """Encoded pairs, `batch_size` of one plan in a batch, or as many windows of half the sides as cost the same.

    Args:
        whole: share of the steps that see whole pictures.
        at_start: share of the clips at t = 1; the times of the others are even.
    """

    def __init__(self, pairs: UpscaleLatents, seed: int, batch_size: int, whole: float, at_start: float = 0.5) -> None:
        self.pairs, self.seed, self.batch_size = pairs, seed, batch_size
        self.whole, self.at_start = whole, at_start

    def __len__(self) -> int:
        return sum(map(len, self.pairs.high))

    def draw(self, step: int) -> UpscaleBatch:
        """The clips of a step."""
        rng = random.Random(f"{self.seed}/{step}")
        plan = rng.randrange(len(PLANS))
        height, width = self.pairs.high[plan].shape[-2:]
        window, rows = None, self.batch_size
        if rng.random() >= self.whole:
            # on even places: a token is 2×2 of the latents, and 2×2 of these are one of the small picture's
            top, left = (2 * rng.randrange(n // 4 + 1) for n in (height, width))
            window, rows = (top, left, height // 2, width // 2), 4 * rows
        chance = rng.choices((1.0, 0.0, 0.5), KEYFRAMES)[0]
        keyframes = [k for k in PLANS[plan].video.pinned if rng.random() < chance]
        clips = [rng.randrange(len(self.pairs.high[plan])) for _ in range(rows)]
        times = [1.0 if rng.random() < self.at_start else rng.uniform(0.05, 1) for _ in range(rows)]
        return UpscaleBatch(plan, torch.tensor(clips), keyframes, torch.tensor(times), rng.random() < 0.5, window)


def _predict(model: DirectorWan, noisy: Tensor, inputs: FlowInputs) -> Tensor:
    times, text, latent_chunks = inputs.conditions
    return model.forward_chunks(noisy, times, text, mc_index(latent_chunks))


class UpscaleRecipe(Recipe[UpscaleBatch, FlowInputs]):
    """Eq. 5: z_t = (1 − t)·z_HR + t·z_LR, the velocity z_LR − z_HR is learned off the keyframes; these are z_HR, t = 0.

    Args:
        data: pairs to learn from.
        encode_text: texts → (states [N, T, D] with zeros at padding, mask).
        batch_size: whole clips of a step.
        start: weights to begin with, see `from_video_model`.
    """

    name = "upscale"
    data: PairDraws
    objective = FlowMatching(_predict)
    edges = ("condition_embedder", "patch_embedding", "proj_out", "scale_shift_table")
    units = ("DirectorWanBlock",)

    def __init__(
        self,
        data: UpscaleLatents,
        encode_text: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
        seed: int = 0,
        batch_size: int = 2,
        whole: float = 0.3,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.data = PairDraws(data, seed, batch_size, whole)
        self.start = start
        self._text = [encode_text(captions)[0].half() for captions in data.captions]
        self._silence = encode_text([""])[0].half()

    def prepare(self, device: torch.device) -> None:
        """Latents and captions live on the device."""
        pairs = self.data.pairs
        high, low = [z.to(device) for z in pairs.high], [z.to(device) for z in pairs.low]
        self.data.pairs = UpscaleLatents(high, low, pairs.captions)
        self._text, self._silence = [states.to(device) for states in self._text], self._silence.to(device)

    def build(self) -> DirectorWan:
        model = DirectorWan(**UPSCALE)
        if self.start is not None:
            model.load_state_dict(dict(self.start))
        return model

    def inputs(self, batch: UpscaleBatch, step: int) -> FlowInputs:
        pairs, video = self.data.pairs, PLANS[batch.plan].video
        high = pairs.high[batch.plan][batch.clips].float()
        low = upscale_latents(pairs.low[batch.plan][batch.clips].float(), (high.shape[-2], high.shape[-1]))
        if batch.window is not None:
            top, left, height, width = batch.window
            high, low = (z[..., top : top + height, left : left + width] for z in (high, low))
        times = frame_timesteps(batch.times, batch.pinned, video.latents)
        text = self._text[batch.plan][batch.clips] if batch.captioned else self._silence.expand(len(high), -1, -1)
        t = times[:, None, :, None, None]
        conditions = VideoConditions(times, text.float(), video.latent_chunks)
        return FlowInputs(clean=high, noise=low, t=t, weight=(t > 0).float(), conditions=conditions)

    def share(self, inputs: FlowInputs, share: Share) -> FlowInputs:
        rows = share.rows(len(inputs.clean), "clips")
        times, text, latent_chunks = inputs.conditions
        clean, noise, t, weight = (rows.of(x) for x in inputs[:4])
        return FlowInputs(clean, noise, t, weight, VideoConditions(rows.of(times), rows.of(text), latent_chunks))


def from_video_model(video: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights to begin with: the video model's, but for the layers at its two ends, which meet other latents. The
    last one begins at zero: nothing is changed.
    """
    out = DirectorWan(**UPSCALE).state_dict()
    for key, value in video.items():
        if out[key].shape == value.shape:
            out[key] = value.float()
    for key in ("proj_out.weight", "proj_out.bias"):
        out[key] = torch.zeros_like(out[key])
    return out
