"""Recipe: super-resolution learns from the pixels it makes, together with the decoder that shows them.

Flow matching finds the mean of the latents, and what a decoder makes of a mean is no mean of pictures. So at the end
the few steps of a sampler are taken as in use, from z_LR on, what comes of them is decoded, and the error of the
pictures goes back through decoder and steps. The encoder is frozen: latents keep their meaning.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from torch.nn import functional as F

from ...media.frames import psnr_of_error
from ...models.backbones.wan.headless import DirectorWan
from ...models.layouts.upscale import UpscaleSettings
from ...sampling.upscale_schedule import upscale_sigmas
from ...training.objectives import FlowInputs, Ratio, mean_of
from ...training.processes import Share
from ...training.recipe import Recipe
from ...training.upscale.bridge import KeyframeChances, bridge_inputs, predict, share_rows
from ..bank import to_tensor
from ..configs import UPSCALE, UPSCALE_VAE
from .upscale import PLANS, SCALE, UpscaleLatents, draw_pair, pair_seed, windows_of
from .vae import _edge_error

__all__ = ["DrawnFrames", "PixelDraws", "UpscalePixelsRecipe", "UpscaleStudent"]


class UpscaleStudent(nn.Module):
    """The super-resolution model and the VAE whose decoder learns with it."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = DirectorWan(**UPSCALE)
        self.vae = AutoencoderKLWan(**UPSCALE_VAE)
        self.vae.encoder.requires_grad_(False)
        self.vae.quant_conv.requires_grad_(False)


class PixelBatch(NamedTuple):
    """Clips of one plan, and which chunk of them is decoded.

    Attributes:
        plan: index into `PLANS`.
        clips: [N] indices into the plan's clips.
        pinned: latent frames that are keyframes at high resolution.
        captioned: whether there is text.
        window: top, left, height and width in latent pixels.
        latents: the latent frames that are decoded: a chunk, or its beginning.
        frames: those of the plan's frames that come of them.
        made: decode what the steps make; otherwise the true latents, which keyframes are decoded from.
    """

    plan: int
    clips: Tensor
    pinned: list[int]
    captioned: bool
    window: tuple[int, int, int, int]
    latents: slice
    frames: slice
    made: bool


class PixelInputs(NamedTuple):
    """A step: the bridge at t = 1, the latent frames to decode, their pixels [N, 3, T, H, W] in −1…1."""

    bridge: FlowInputs
    latents: slice
    pixels: Tensor
    made: bool


Frames = Callable[[Sequence[int], slice], np.ndarray]
"""Clips' indices and frames → uint8 [N, T, H, W, 3]."""


class DrawnFrames:
    """Large frames of the clips of a plan that `encode_pairs` encodes, drawn when they are asked for: that takes a
    twentieth of a second, and all of them would take gigabytes.
    """

    def __init__(self, plan: int, per_plan: int, split: str = "train", seed: int = 0) -> None:
        self.plan, self.split = plan, split
        self.seeds = [pair_seed(plan, clip, seed) for clip in range(per_plan)]

    def __call__(self, clips: Sequence[int], frames: slice) -> np.ndarray:
        """uint8 [N, T, H, W, 3]."""
        return np.stack([draw_pair(PLANS[self.plan], self.seeds[n], self.split)[0][frames] for n in clips])


class PixelDraws:
    """Encoded pairs with their large frames.

    Args:
        pairs: latents, see `encode_pairs`.
        frames: for each plan what gives the frames of some of its clips.
        whole: share of the steps that see whole pictures; the others see windows of half the sides.
        made: share of the steps that decode what the model makes.
        rows: windows of a step, of up to `length` latent frames.
    """

    def __init__(
        self,
        pairs: UpscaleLatents,
        frames: Sequence[Frames],
        seed: int = 0,
        whole: float = 0.08,
        made: float = 0.85,
        rows: int = 2,
        length: int = 3,
    ) -> None:
        self.pairs, self.frames, self.seed = pairs, frames, seed
        self.whole, self.made, self.rows, self.length = whole, made, rows, length

    def __len__(self) -> int:
        return sum(map(len, self.pairs.high))

    def draw(self, step: int) -> PixelBatch:
        """The clips of a step."""
        rng = random.Random(f"{self.seed}/{step}")
        n = rng.randrange(len(PLANS))
        video = PLANS[n].video
        height, width = self.pairs.high[n].shape[-2:]
        window, rows = (0, 0, height, width), 1
        if rng.random() >= self.whole:
            top, left = (2 * rng.randrange(side // 4 + 1) for side in (height, width))
            window, rows = (top, left, height // 2, width // 2), self.rows
        chunk = rng.choices(range(len(video.chunks)), video.latent_chunks)[0]
        start, first = sum(video.latent_chunks[:chunk]), sum(video.chunks[:chunk])
        long = rows > 1 and rng.random() < 0.2
        count = min(video.latent_chunks[chunk], 2 * self.length if long else self.length)
        return PixelBatch(
            plan=n,
            clips=torch.tensor([rng.randrange(len(self.pairs.high[n])) for _ in range(1 if long else rows)]),
            pinned=KeyframeChances().draw(video.pinned, rng),
            captioned=rng.random() < 0.3,
            window=window,
            latents=slice(start, start + count),
            frames=slice(first, first + 4 * (count - 1) + 1),
            made=rng.random() < self.made,
        )


class SeenPixels:
    """Error of the pictures that a sampler's steps come to.

    Args:
        mean, std: of the latents' channels.
        settings: the steps that are taken.
        detail: weight of the squared error of what a picture of half the size cannot tell: the rest is put right from
            the source after decoding, see `pipelines.upscale.keep_colour`.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], settings: UpscaleSettings, detail: float = 20.0
    ) -> None:
        self.mean, self.std = (torch.tensor(x).view(1, -1, 1, 1, 1) for x in (mean, std))
        self.sigmas = upscale_sigmas(settings).tolist()
        self.detail = detail

    def sums(self, model: UpscaleStudent, inputs: PixelInputs) -> dict[str, Ratio]:
        """Errors of pixels, of their details, of edges and of changes in time."""
        z = self.upscaled(model, inputs.bridge) if inputs.made else inputs.bridge.clean
        z = z[:, :, inputs.latents]
        y = model.vae.decode(z * self.std.to(z) + self.mean.to(z)).sample.float()
        x = inputs.pixels
        error = y - x
        fine = _finer(_finer(error.movedim(1, 2).flatten(0, 1)))
        change = error.diff(dim=2) if x.shape[2] > 1 else error[:, :, :0]
        still = Ratio(error.new_zeros(()), 0.0)
        return {
            "square": mean_of(error.square()),
            "l1": mean_of(error.abs()),
            "detail": mean_of(fine.square()),
            "detail_l1": mean_of(fine.abs()),
            "edges": mean_of(_edge_error(y, x)),
            "change": mean_of(change.square()) if change.numel() else still,
            "change_l1": mean_of(change.abs()) if change.numel() else still,
        }

    def upscaled(self, model: UpscaleStudent, bridge: FlowInputs) -> Tensor:
        """Euler steps from z_LR to z_HR, keyframes pinned: `super_resolve` with gradients."""
        pinned = bridge.weight == 0
        z = torch.where(pinned, bridge.clean, bridge.noise)
        for sigma, following in zip(self.sigmas, self.sigmas[1:], strict=False):
            conditions = bridge.conditions._replace(times=sigma * (bridge.conditions.times > 0))
            v = predict(model.transformer, z, bridge._replace(conditions=conditions)).float()
            z = torch.where(pinned, z, z + (following - sigma) * v)
        return z

    def loss(self, means: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Their weighted sum; logs the details' PSNR in dB."""
        m = means
        loss = m["square"] + 0.3 * m["l1"] + self.detail * m["detail"] + 0.5 * m["detail_l1"] + 0.1 * m["edges"]
        loss = loss + 2 * m["change"] + 0.5 * m["change_l1"]
        return loss, {"detail": psnr_of_error(m["detail"].detach(), peak=2.0)}


def _finer(error: Tensor) -> Tensor:
    """What one pass of back-projection leaves of an error [N, 3, H, W]."""
    told = F.interpolate(F.avg_pool2d(error, SCALE), scale_factor=SCALE, mode="bicubic", align_corners=False)
    return error - told


class UpscalePixelsRecipe(Recipe[PixelBatch, PixelInputs]):
    """See the module.

    Args:
        data: pairs with their pixels.
        text: for each plan token states [N, T, D] of its clips.
        silence: [1, T, D], of an empty prompt.
        start: weights of the student, ``transformer.…`` and ``vae.…``.
        mean, std: of the latents' channels.
        settings: the steps that are taken.
    """

    name = "upscale_pixels"
    data: PixelDraws
    edges = (
        "condition_embedder", "patch_embedding", "proj_out", "scale_shift_table", "conv_in", "conv_out", "quant_conv"
    )  # fmt: skip
    units = ("DirectorWanBlock",)

    def __init__(
        self,
        data: PixelDraws,
        text: Sequence[Tensor],
        silence: Tensor,
        start: Mapping[str, Tensor],
        mean: Sequence[float],
        std: Sequence[float],
        settings: UpscaleSettings,
    ) -> None:
        self.data, self.start = data, start
        self._text, self._silence = list(text), silence
        self.objective = SeenPixels(mean, std, settings)

    def prepare(self, device: torch.device) -> None:
        """Latents and captions live on the device."""
        pairs = self.data.pairs
        high, low = [z.to(device) for z in pairs.high], [z.to(device) for z in pairs.low]
        self.data.pairs = UpscaleLatents(high, low, pairs.captions)
        self._text, self._silence = [states.to(device) for states in self._text], self._silence.to(device)

    def build(self) -> UpscaleStudent:
        model = UpscaleStudent()
        model.load_state_dict(dict(self.start))
        return model

    def inputs(self, batch: PixelBatch, step: int) -> PixelInputs:
        pairs, video = self.data.pairs, PLANS[batch.plan].video
        high, low = windows_of(pairs, batch.plan, batch.clips, batch.window)
        text = self._text[batch.plan][batch.clips] if batch.captioned else self._silence.expand(len(high), -1, -1)
        times = torch.ones(len(high), device=high.device)
        bridge = bridge_inputs(high, low, text.float(), video.latent_chunks, batch.pinned, times)
        top, left, height, width = batch.window
        frames = self.data.frames[batch.plan](batch.clips.tolist(), batch.frames)
        unit = frames.shape[2] // pairs.high[batch.plan].shape[-2]
        cut = frames[:, :, top * unit : (top + height) * unit, left * unit : (left + width) * unit]
        pixels = to_tensor(cut).movedim(2, 1).to(high.device) * 2 - 1
        return PixelInputs(bridge, batch.latents, pixels, batch.made)

    def share(self, inputs: PixelInputs, share: Share) -> PixelInputs:
        rows = share.rows(len(inputs.pixels), "clips")
        return inputs._replace(bridge=share_rows(inputs.bridge, share), pixels=rows.of(inputs.pixels))
