"""Recipe: the pocket VAE of super-resolution (Wan 2.2 class, 48 channels), on pictures of 160×320 and of 80×160.

Both sizes go through the same VAE (SmartDirector §3.3); the keyframes' and the video model's own knows 80×160 only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from ...media.frames import psnr, psnr_of_error
from ...pipelines.upscale.colour import keep_colour
from ...training.objectives import Ratio, mean_of
from ...training.processes import Share
from ..bank import clip_bank, to_tensor
from ..configs import UPSCALE_VAE
from ..world import HEIGHT, WIDTH
from .vae import Reconstruction, RenderedFrames, VaeBatch, VaeInputs, VaeRecipe

_LOG_VARIANCE = -9.0
"""Of a new channel's latents at the start: with more noise the decoder never learns to listen to it."""


class DetailReconstruction(Reconstruction):
    """`Reconstruction` that weighs most what a picture of half the size cannot tell.

    What it can tell is put right from the source after decoding (`pipelines.upscale.keep_colour`), so an error of an
    upscaled frame is what is left of it then.
    """

    detail = 10.0

    def _errors(self, y: Tensor, x: Tensor) -> dict[str, Ratio]:
        error = (y - x).movedim(1, 2).flatten(0, 1)
        told = F.interpolate(F.avg_pool2d(error, 2), scale_factor=2, mode="bilinear")
        return super()._errors(y, x) | {"detail": mean_of((error - told).square())}

    def loss(self, means: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """`Reconstruction.loss` and the squared error of details; logs their PSNR in dB."""
        loss, numbers = super().loss(means)
        for kind in [k for k in ("pictures", "clips") if f"{k}_detail" in means]:
            loss = loss + self.detail * means[f"{kind}_detail"]
            numbers[f"detail_{kind}"] = psnr_of_error(means[f"{kind}_detail"].detach(), peak=2.0)
        return loss, numbers


class UpscaleVaeRecipe(VaeRecipe):
    """`VaeRecipe` on 80×160 windows of large frames and, every fourth step, on whole small ones.

    A small frame is the large one's mean over 2×2 pixels, as the renderer draws it. Convolutions do not mind the
    windows, which give twice as many steps from the same time. The KL term is a hundredth of the narrow VAE's: with
    more, new channels stay noise (of 48 only 16 were used, 3 dB less on moving pictures).
    """

    config = UPSCALE_VAE
    #: frames of the chunks of a clip, in turn
    joints = ((5, 1), (9,), (5, 5), (17,), (1, 5), (9, 1))

    def __init__(
        self,
        seed: int = 0,
        pictures: int = 6,
        clips: int = 2,
        bank: int = 2400,
        kl: float = 1e-6,
        start: Path | None = None,
    ) -> None:
        super().__init__("both", seed, pictures, clips, bank, kl, start)
        self.name = "upscale_vae"
        self.data = RenderedFrames(seed, pictures, clips, bank, max(map(sum, self.joints)), scale=2)
        self.objective = DetailReconstruction((2.0, 0.6, 0.1), kl)

    def build(self) -> AutoencoderKLWan:
        """At first the video model's VAE with more channels (`widened`)."""
        model = AutoencoderKLWan(**self.config)
        if self.start is not None:
            model.load_state_dict(widened(load_file(self.start), model))
        return model

    def inputs(self, batch: VaeBatch, step: int) -> VaeInputs:
        """Windows of the batch's pictures and clips, or all of them at half the size."""
        rng = np.random.default_rng([self.data.seed, step, 1])
        pictures = _window(to_tensor(self.data.picture_frames[batch.pictures]), step, rng)
        inputs = VaeInputs(pictures[:, None], Share().rows(len(pictures), "pictures"))
        if batch.clips is None:
            return inputs
        chunks = self.joints[step % len(self.joints)]
        clips = to_tensor(self.data.clip_frames[batch.clips, : sum(chunks)])
        clips = _window(clips.flatten(0, 1), step // len(self.joints), rng).unflatten(0, clips.shape[:2])
        return inputs._replace(clips=clips, clip_rows=Share().rows(len(clips), "clips"), chunks=chunks)


def _window(frames: Tensor, turn: int, rng: np.random.Generator) -> Tensor:
    """[N, 3, 160, 320] → [N, 3, 80, 160]: whole at half the size every fourth turn, else cut out somewhere."""
    if turn % 4 == 3:
        return F.avg_pool2d(frames, 2)
    top, left = (2 * int(rng.integers(n // 2 + 1)) for n in (HEIGHT, WIDTH))
    return frames[..., top : top + HEIGHT, left : left + WIDTH]


def widened(weights: Mapping[str, Tensor], model: AutoencoderKLWan) -> dict[str, Tensor]:
    """Weights of a VAE for `model`, which has more latent channels and else the same layers.

    It begins as the narrow one: the new channels carry other views of the last features, and the decoder, which does
    not listen to them yet, learns to.
    """
    fresh = model.state_dict()
    few, many = weights["post_quant_conv.weight"].shape[0], model.config.z_dim
    means, both = torch.arange(few), torch.cat([torch.arange(few), many + torch.arange(few)])
    out: dict[str, Tensor] = {}
    for key, old in weights.items():
        new = fresh[key].clone()
        if new.shape == old.shape:
            new = old
        elif key.startswith("decoder"):
            new[:, few:] = 0
            new[:, :few] = old
        elif key.startswith("encoder"):
            new[many:] = 0 if new.ndim > 1 else _LOG_VARIANCE
            new[both] = old
        else:  # both ends' pointwise layers
            here = means if key.startswith("post") else both
            new = torch.eye(len(new)).view(new.shape) if new.ndim > 1 else torch.zeros_like(new)
            new[(here[:, None], here[None]) if new.ndim > 1 else here] = old
        out[key] = new
    return out


@torch.no_grad()
def reconstruction(model: AutoencoderKLWan, count: int = 8, frames: int = 9) -> dict[str, float]:
    """Mean PSNR in dB of held-out large clips through the VAE, as they come and with the source's low frequencies."""
    clips = to_tensor(clip_bank(count, frames, "test", 3000, scale=2))
    found: dict[str, list[float]] = {"psnr": [], "psnr_corrected": []}
    for clip in clips:
        coded = model.encode(clip.movedim(0, 1)[None].to(model.device) * 2 - 1).latent_dist.mode()
        made = model.decode(coded).sample[0].movedim(0, 1).float().cpu() / 2 + 0.5
        kept = keep_colour(made, F.avg_pool2d(clip, 2), 1)
        found["psnr"].append(float(psnr(made, clip, 4)))
        found["psnr_corrected"].append(float(psnr(kept, clip, 4)))
    return {name: round(sum(values) / len(values), 3) for name, values in found.items()}
