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
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ...core.files import atomic_path
from ...media.degradations import MILD, degrade
from ...models.backbones.wan.headless import DirectorWan
from ...models.encoders.vae import VideoCodec
from ...models.layouts.upscale import UpscalePlan, plan_upscale, upscale_latents
from ...sampling.noise import noise_like
from ...training.objectives import FlowInputs, FlowMatching, Ratio, flow_error, interpolate, velocity
from ...training.processes import Share
from ...training.recipe import Recipe
from ...training.upscale.bridge import KeyframeChances, bridge_inputs, draw_times, predict, share_rows
from ..bank import draw_all, to_tensor
from ..configs import UPSCALE
from ..render import render_clip
from ..world import make_story

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

VEILS = (2, 2, 2, 5)
"""Sides of the squares over which a veiled clip's small latents are averaged, one drawn for a step."""

DEGRADED = 0.5
"""Share of clips whose low-resolution frames are more than the mean of the large ones' pixels."""


@dataclass(frozen=True)
class UpscaleLatents:
    """Encoded clips: per plan [N, C, F, h', w'] of the large frames, [N, C, F, h, w] of the small ones; captions."""

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


def pair_seed(plan: int, clip: int, seed: int = 0) -> int:
    """Seed of a training clip of a plan."""
    return 120_000_000 + seed + clip * len(PLANS) + plan


@torch.no_grad()
def encode_pairs(
    vae: VideoCodec, per_plan: int, split: str = "train", seed: int = 0, cache: Path | None = None, rows: int = 8
) -> UpscaleLatents:
    """Draw and encode clips of every plan, large and small by the same VAE; with `cache` they are kept in that file."""
    seeds = [[pair_seed(i, n, seed) for n in range(per_plan)] for i in range(len(PLANS))]
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
                parts[side].append(vae.encode_chunks(video, plan.video.chunks).cpu().float())
        high.append(torch.cat(parts[0]).half())
        low.append(torch.cat(parts[1]).half())
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
        veil: side of the squares over which the small latents are averaged; 1: they are as they are.
    """

    plan: int
    clips: Tensor
    pinned: list[int]
    times: Tensor
    captioned: bool
    window: tuple[int, int, int, int] | None
    veil: int = 1


class PairDraws:
    """Encoded pairs, `batch_size` of one plan in a batch, or as many windows of half the sides as cost the same.

    Args:
        whole: share of the steps that see whole pictures.
        at_start: share of the clips at t = 1; the times of the others are even.
        veiled: share of the steps whose small latents are blurred and whose keyframes are all given. Most of what a
            keyframe tells is in the small frames, too; where it is not, the model learns to look at the keyframe.
    """

    def __init__(
        self,
        pairs: UpscaleLatents,
        seed: int,
        batch_size: int,
        whole: float,
        at_start: float = 0.5,
        veiled: float = 0.3,
    ) -> None:
        self.pairs, self.seed, self.batch_size = pairs, seed, batch_size
        self.whole, self.at_start, self.veiled = whole, at_start, veiled

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
        keyframes = KeyframeChances().draw(PLANS[plan].video.pinned, rng)
        clips = [rng.randrange(len(self.pairs.high[plan])) for _ in range(rows)]
        times = torch.tensor(draw_times(rows, self.at_start, rng))
        captioned, veil = rng.random() < 0.5, 1
        if rng.random() < self.veiled:
            keyframes, veil = list(PLANS[plan].video.pinned), rng.choice(VEILS)
        return UpscaleBatch(plan, torch.tensor(clips), keyframes, times, captioned, window, veil)


def windows_of(
    pairs: UpscaleLatents, plan: int, clips: Tensor, window: tuple[int, int, int, int] | None, veil: int = 1
) -> tuple[Tensor, Tensor]:
    """z_HR and z_LR of a step in one size, [N, C, F, h, w] each; the rest as in `UpscaleBatch`."""
    high, small = (z[plan][clips].float() for z in (pairs.high, pairs.low))
    if veil > 1:
        flat = small.flatten(1, 2)
        blurred = F.interpolate(F.avg_pool2d(flat, veil), flat.shape[-2:], mode="bilinear")
        small = blurred.view(small.shape)
    low = upscale_latents(small, (high.shape[-2], high.shape[-1]))
    if window is not None:
        top, left, height, width = window
        high, low = (z[..., top : top + height, left : left + width] for z in (high, low))
    return high, low


class SeenFlow(FlowMatching):
    """Flow matching whose error counts as far as it is seen in decoded details.

    Args:
        metric: [C, C], from `seen_errors`; None: every channel counts the same.
        plain: share of the error that counts as it is.
    """

    def __init__(self, metric: Tensor | None, plain: float = 0.3) -> None:
        super().__init__(predict)
        self.root: Tensor | None = None
        if metric is not None:
            eye = torch.eye(len(metric), dtype=torch.float64)
            mixed = plain * eye + (1 - plain) * metric.double() * len(metric) / metric.double().trace()
            values, vectors = torch.linalg.eigh(mixed)
            self.root = (vectors * values.clamp(min=0).sqrt() @ vectors.T).float()

    def sums(self, model: Any, inputs: FlowInputs) -> dict[str, Ratio]:
        """``flow``: the error as it is seen; ``plain``: as it is."""
        noisy = interpolate(inputs.clean, inputs.noise, inputs.t)
        error = self.predict(model, noisy, inputs).float() - velocity(inputs.clean, inputs.noise)
        seen = error if self.root is None else torch.einsum("ij,njfhw->nifhw", self.root.to(error), error)
        nothing = torch.zeros_like(error)
        (_, weighted), (_, plain) = (flow_error(e, nothing, inputs.weight) for e in (seen, error.detach()))
        return {"flow": weighted, "plain": plain}


@torch.no_grad()
def seen_errors(vae: VideoCodec, latents: Tensor, seed: int = 0, step: float = 0.2) -> Tensor:
    """How much errors of latent channels show together, [C, C]: mean products of what they change in decoded details.

    Details are what is finer than the small picture's pixels; the rest is put right from the source, see
    `DetailReconstruction`.

    Args:
        vae: decodes.
        latents: [N, C, F, h, w], one chunk each, around which is looked.
        seed: of the signs of errors at different places, which keep them apart.
        step: size of an error.
    """
    signs = noise_like((1, 1, *latents.shape[2:]), torch.Generator().manual_seed(seed)).sign() * step

    def details(z: Tensor) -> Tensor:
        frames = torch.cat(list(vae.decode_chunks(z, [z.shape[2]])), 1).flatten(0, 1)
        return (frames - F.interpolate(F.avg_pool2d(frames, SCALE), scale_factor=SCALE)).flatten()

    still = details(latents)
    changes = []
    for channel in range(latents.shape[1]):
        moved = latents.clone()
        moved[:, channel] += signs[:, 0]
        changes.append(details(moved) - still)
    changed = torch.stack(changes)
    return changed @ changed.T / changed.shape[1]


class UpscaleRecipe(Recipe[UpscaleBatch, FlowInputs]):
    """Eq. 5: z_t = (1 − t)·z_HR + t·z_LR, the velocity z_LR − z_HR is learned off the keyframes; these are z_HR, t = 0.

    Args:
        data: pairs to learn from.
        encode_text: texts → (states [N, T, D] with zeros at padding, mask).
        batch_size: whole clips of a step.
        whole: share of the steps that see whole pictures.
        start: weights to begin with, see `from_video_model`.
        metric: how errors count, see `SeenFlow`.
    """

    name = "upscale"
    data: PairDraws
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
        metric: Tensor | None = None,
    ) -> None:
        self.objective = SeenFlow(metric)
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
        video = PLANS[batch.plan].video
        high, low = windows_of(self.data.pairs, batch.plan, batch.clips, batch.window, batch.veil)
        text = self._text[batch.plan][batch.clips] if batch.captioned else self._silence.expand(len(high), -1, -1)
        return bridge_inputs(high, low, text.float(), video.latent_chunks, batch.pinned, batch.times)

    def share(self, inputs: FlowInputs, share: Share) -> FlowInputs:
        return share_rows(inputs, share)


def from_video_model(video: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights to begin with: the video model's, but for the layers at its two ends, which meet other latents. The
    last one begins at zero: nothing is changed.
    """
    out = DirectorWan(**UPSCALE).state_dict()
    for key, value in video.items():
        if key in out and out[key].shape == value.shape:
            out[key] = value.float()
    for key in ("proj_out.weight", "proj_out.bias"):
        out[key] = torch.zeros_like(out[key])
    return out
