"""Recipe: the pocket causal video VAE (Wan 2.2 class), on pictures at every GoldenMem size and on short clips."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import kornia
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from safetensors.torch import load_file
from torch.nn import functional as F

from ...media.frames import psnr, psnr_of_error
from ...training.recipe import Recipe
from ..bank import clip_bank, picture_bank, to_tensor
from ..configs import VAE


class VaeRecipe(Recipe):
    """Reconstruction (squared error finds the colours, L1 and edge L1 the outlines) with a light KL term, in the
    stages of the public causal VAEs.

    Stage ``pictures``: still pictures only, at every size GoldenMem stores them at. Only the last temporal tap of each
    kernel takes part; the others start at zero (2-D to 3-D inflation).
    Stage ``clips``: clips of two chunks beside the pictures, each chunk coded on its own (SmartDirector §3.2); the
    change from frame to frame is learned too, across the joint as well, because that is where chunks show: by squared
    error, which does not prefer stillness where motion is uncertain, and by L1, which keeps from flickering what is
    still.
    Stage ``decoder``: the same with a frozen encoder, so that models trained on the latents stay valid.
    """

    #: frames of the two chunks of a clip, in turn
    joints = ((5, 5), (9, 1), (5, 5), (13, 1))

    edges = ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out", "quant_conv")
    sizes = ((80, 160), (80, 160), (80, 160), (48, 96), (80, 160), (80, 160), (80, 160), (16, 32))

    def __init__(
        self,
        stage: str = "pictures",
        seed: int = 0,
        pictures: int = 16,
        clips: int = 2,
        bank: int = 4000,
        kl: float = 1e-4,
        start: Path | None = None,
    ) -> None:
        self.name = f"vae_{stage}"
        self.stage, self.seed, self.pictures, self.clips = stage, seed, pictures, clips
        self.bank, self.kl, self.start = bank, kl, start
        self._device = torch.device("cpu")

    @cached_property
    def _pictures(self) -> torch.Tensor:
        return torch.from_numpy(picture_bank(self.bank, "train")).to(self._device)

    @cached_property
    def _clips(self) -> torch.Tensor:
        return torch.from_numpy(clip_bank(self.bank // 4, max(map(sum, self.joints)), "train")).to(self._device)

    def prepare(self, device: torch.device) -> None:
        """The bank lives on the device."""
        self._device = device

    def build(self) -> AutoencoderKLWan:
        model = AutoencoderKLWan(**VAE)
        if self.start is not None:
            model.load_state_dict(load_file(self.start))
        elif self.stage == "pictures":
            for module in model.modules():
                if isinstance(module, WanCausalConv3d) and module.kernel_size[0] == 3:
                    with torch.no_grad():
                        module.weight[:, :, :-1] = 0
        if self.stage == "clips":
            inflate_time(model)
        if self.stage == "decoder":
            model.encoder.requires_grad_(False)
            model.quant_conv.requires_grad_(False)
        return model

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, step])
        batch = {"pictures": torch.from_numpy(rng.integers(self.bank, size=self.pictures))}
        if self.stage != "pictures":
            batch["clips"] = torch.from_numpy(rng.integers(self.bank // 4, size=self.clips))
        return batch

    def inputs(self, batch: dict[str, torch.Tensor], step: int) -> dict[str, Any]:
        """Frames [B, T, 3, H, W] in 0…1 of the pictures and clips that a batch names, and the clips' chunks."""
        pictures = to_tensor(self._pictures[batch["pictures"]])
        size = self.sizes[step % len(self.sizes)]
        if size != pictures.shape[-2:]:
            pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 1)
        frames: dict[str, Any] = {"pictures": pictures[:, None]}
        if "clips" in batch:
            frames["chunks"] = self.joints[step % len(self.joints)]
            frames["clips"] = to_tensor(self._clips[batch["clips"], : sum(frames["chunks"])])
        return frames

    def loss(self, model: AutoencoderKLWan, inputs: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        total = inputs["pictures"].new_zeros(())
        numbers = {}
        for kind in [k for k in ("pictures", "clips") if k in inputs]:
            x = inputs[kind].movedim(2, 1) * 2 - 1
            chunks = inputs["chunks"] if kind == "clips" else (1,)
            coded = [_code(model, part) for part in x.split(chunks, 2)]
            y, kl = torch.cat([part for part, _ in coded], 2).float(), sum(k for _, k in coded) / len(coded)
            square, error = (y - x).square().mean(), (y - x).abs().mean()
            a, b, c = (3.0, 0.2, 0.05) if self.stage == "pictures" else (2.0, 0.6, 0.1)
            total = total + a * square + b * error + c * _edge_loss(y, x) + self.kl * kl
            numbers[f"psnr_{kind}"] = psnr_of_error(square.detach(), peak=2.0)
            if kind == "clips":
                change = (y - x).diff(dim=2)
                still = change.abs().mean()
                total = total + 5.0 * change.square().mean() + 1.0 * still
                numbers["change_error"] = still / x.diff(dim=2).abs().mean()
        return total, numbers


def _code(model: AutoencoderKLWan, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A chunk [B, 3, T, H, W] through the VAE, and the KL term of its latents."""
    frozen = not model.quant_conv.weight.requires_grad
    with torch.no_grad() if frozen else nullcontext():
        posterior = model.encode(x).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return model.decode(posterior.sample()).sample, kl


@torch.no_grad()
def inflate_time(model: AutoencoderKLWan) -> None:
    """Start from time as stills know it: the strides of the encoder keep the last of their frames, those of the decoder
    repeat theirs, so a clip's frames come out as sharp as pictures before any clip was seen.
    """
    for name, module in model.named_modules():
        if name.endswith("time_conv"):
            out_channels, in_channels = module.weight.shape[:2]
            module.weight.zero_()
            module.bias.zero_()
            module.weight[:, :, -1, 0, 0] = torch.eye(in_channels).repeat(out_channels // in_channels, 1)


def _edge_loss(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """L1 between Sobel gradients: keeps cartoon outlines sharp where plain L1 blurs them."""

    error = (y - x).movedim(1, 2).flatten(0, 2)[:, None].float()
    return F.conv2d(F.pad(error, (1, 1, 1, 1), "replicate"), _sobel(error.device)).abs().mean()


@lru_cache
def _sobel(device: torch.device) -> torch.Tensor:
    """Both Sobel kernels [2, 1, 3, 3], kept on the device: a CUDA graph cannot fetch them from the host."""
    kernels = kornia.filters.get_spatial_gradient_kernel2d("sobel", 1)
    return kornia.filters.kernels.normalize_kernel2d(kernels)[:, None].to(device)


def fast_stills() -> None:
    """Let Wan's causal convolutions run as 2-D ones where that gives the same numbers, for training on a CPU.

    A lone first frame without a cache is padded with zeros in time, so only the last temporal tap of a kernel counts: a
    third of the work. A pointwise kernel does not know time at all; its 3-D backward in bf16 crashes in some CPU
    builds of torch 2.11.
    """
    stock = WanCausalConv3d.forward

    def forward(self: WanCausalConv3d, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        if self.kernel_size == (1, 1, 1) and self.stride == (1, 1, 1):
            y = F.conv2d(x.flatten(2, 3), self.weight[:, :, 0], self.bias)
            return y.unflatten(2, x.shape[2:4])
        if cache_x is not None or x.shape[2] != 1 or self.kernel_size[0] == 1 or self.stride[0] != 1:
            return stock(self, x, cache_x)
        pad = self._padding
        flat = x[:, :, 0].contiguous(memory_format=torch.channels_last)
        y = F.conv2d(flat, self.weight[:, :, -1], self.bias, stride=self.stride[1:], padding=(pad[2], pad[0]))
        return y[:, :, None]

    WanCausalConv3d.forward = forward  # type: ignore[method-assign]


@torch.no_grad()
def reconstruction_psnr(model: AutoencoderKLWan, count: int = 64) -> float:
    """Mean PSNR in dB of held-out images through the VAE."""
    x = to_tensor(picture_bank(count, "test", 3000))[:, :, None].to(model.device) * 2 - 1
    y = model.decode(model.encode(x).latent_dist.mode()).sample
    return float(psnr(y, x, dims=4, peak=2.0).mean())
