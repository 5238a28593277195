"""Recipe: the pocket causal video VAE (Wan 2.2 class), on pictures at every GoldenMem size and on short clips."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import kornia
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d
from safetensors.torch import load_file
from torch.nn import functional as F

from ...media.frames import psnr, psnr_of_error
from ...training.objectives import Ratio, mean_of
from ...training.processes import Rows, Share
from ...training.recipe import Recipe
from ..bank import clip_bank, picture_bank, to_tensor
from ..configs import VAE


class VaeBatch(NamedTuple):
    """Indices into the banks of pictures and of clips; None where a stage has no clips."""

    pictures: torch.Tensor
    clips: torch.Tensor | None


class VaeInputs(NamedTuple):
    """Frames [B, T, 3, H, W] in 0…1 of pictures and clips, which of the whole batch's they are, and the frames of each
    of the clips' chunks.
    """

    pictures: torch.Tensor
    picture_rows: Rows
    clips: torch.Tensor | None = None
    clip_rows: Rows | None = None
    chunks: tuple[int, ...] = ()


class RenderedFrames:
    """A bank of pictures and a quarter as many clips, drawn on first use.

    Args:
        seed: of the batches.
        pictures, clips: how many a batch holds.
        bank: pictures to draw.
        frames: length of a clip.
        scale: of what is drawn, see `render`.
    """

    def __init__(self, seed: int, pictures: int, clips: int, bank: int, frames: int, scale: int = 1) -> None:
        self.seed, self.pictures, self.clips, self.bank, self.frames = seed, pictures, clips, bank, frames
        self.scale = scale
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return self.bank

    @cached_property
    def picture_frames(self) -> torch.Tensor:
        """uint8 [bank, 80 · scale, 160 · scale, 3] on the device."""
        return torch.from_numpy(picture_bank(self.bank, "train", scale=self.scale)).to(self.device)

    @cached_property
    def clip_frames(self) -> torch.Tensor:
        """uint8 [bank / 4, frames, 80 · scale, 160 · scale, 3] on the device."""
        return torch.from_numpy(clip_bank(self.bank // 4, self.frames, "train", scale=self.scale)).to(self.device)

    def draw(self, step: int) -> VaeBatch:
        """Which pictures and clips a step takes."""
        rng = np.random.default_rng([self.seed, step])
        pictures = torch.from_numpy(rng.integers(self.bank, size=self.pictures))
        return VaeBatch(
            pictures, torch.from_numpy(rng.integers(self.bank // 4, size=self.clips)) if self.clips else None
        )


class Reconstruction:
    """Reconstruction with a light KL term (see `VaeRecipe`): an objective of `VaeInputs`.

    Args:
        weights: of the squared error, L1 and edge L1.
        kl: weight of the KL term.
    """

    def __init__(self, weights: tuple[float, float, float], kl: float) -> None:
        self.weights, self.kl = weights, kl

    def sums(self, model: AutoencoderKLWan, inputs: VaeInputs) -> dict[str, Ratio]:
        """The errors of pictures and clips, and the KL term of every chunk."""
        sums = self._sums("pictures", model, inputs.pictures, inputs.picture_rows, (1,))
        if inputs.clips is not None and inputs.clip_rows is not None:
            sums |= self._sums("clips", model, inputs.clips, inputs.clip_rows, inputs.chunks)
        return sums

    def _sums(
        self, kind: str, model: AutoencoderKLWan, frames: torch.Tensor, rows: Rows, chunks: tuple[int, ...]
    ) -> dict[str, Ratio]:
        x = frames.movedim(2, 1) * 2 - 1
        coded = [_code(model, part, rows) for part in x.split(chunks, 2)]
        y = torch.cat([part for part, _ in coded], 2).float()
        sums = {f"{kind}_kl{n}": kl for n, (_, kl) in enumerate(coded)}
        sums |= {f"{kind}_{name}": error for name, error in self._errors(y, x).items()}
        if kind == "clips":
            change = (y - x).diff(dim=2)
            sums["change_square"], sums["change_l1"] = mean_of(change.square()), mean_of(change.abs())
            sums["motion"] = mean_of(x.diff(dim=2).abs())
        return sums

    def _errors(self, y: torch.Tensor, x: torch.Tensor) -> dict[str, Ratio]:
        """Errors of decoded frames [B, 3, T, H, W] in −1…1."""
        edges = mean_of(_edge_error(y, x))
        return {"square": mean_of((y - x).square()), "l1": mean_of((y - x).abs()), "edges": edges}

    def loss(self, means: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted sum over pictures and clips; logs their PSNR in dB and the clips' error of change."""
        total = means["pictures_square"].new_zeros(())
        numbers = {}
        a, b, c = self.weights
        for kind in [k for k in ("pictures", "clips") if f"{k}_square" in means]:
            kls = [0.5 * value for name, value in means.items() if name.startswith(f"{kind}_kl")]
            kl = sum(kls) / len(kls)
            square, error, edges = (means[f"{kind}_{name}"] for name in ("square", "l1", "edges"))
            total = total + a * square + b * error + c * edges + self.kl * kl
            numbers[f"psnr_{kind}"] = psnr_of_error(square.detach(), peak=2.0)
        if "motion" in means:
            total = total + 5.0 * means["change_square"] + 1.0 * means["change_l1"]
            numbers["change_error"] = means["change_l1"] / means["motion"]
        return total, numbers


class VaeRecipe(Recipe[VaeBatch, VaeInputs]):
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

    data: RenderedFrames
    #: architecture
    config = VAE
    #: frames of the chunks of a clip, in turn
    joints: tuple[tuple[int, ...], ...] = ((5, 5), (9, 1), (5, 5), (13, 1))

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
        self.stage, self.start = stage, start
        stills = stage == "pictures"
        self.data = RenderedFrames(seed, pictures, 0 if stills else clips, bank, max(map(sum, self.joints)))
        self.objective = Reconstruction((3.0, 0.2, 0.05) if stills else (2.0, 0.6, 0.1), kl)

    def prepare(self, device: torch.device) -> None:
        """The bank lives on the device."""
        self.data.device = device

    def build(self) -> AutoencoderKLWan:
        model = AutoencoderKLWan(**self.config)
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

    def inputs(self, batch: VaeBatch, step: int) -> VaeInputs:
        """The pictures at the size whose turn it is, the clips in the chunks whose turn it is."""
        pictures = to_tensor(self.data.picture_frames[batch.pictures])
        size = self.sizes[step % len(self.sizes)]
        if size != pictures.shape[-2:]:
            pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True).clamp(0, 1)
        inputs = VaeInputs(pictures[:, None], Share().rows(len(pictures), "pictures"))
        if batch.clips is None:
            return inputs
        chunks = self.joints[step % len(self.joints)]
        clips = to_tensor(self.data.clip_frames[batch.clips, : sum(chunks)])
        return inputs._replace(clips=clips, clip_rows=Share().rows(len(clips), "clips"), chunks=chunks)

    def share(self, inputs: VaeInputs, share: Share) -> VaeInputs:
        rows = share.rows(len(inputs.pictures), "pictures")
        inputs = inputs._replace(pictures=rows.of(inputs.pictures), picture_rows=rows)
        if inputs.clips is None:
            return inputs
        rows = share.rows(len(inputs.clips), "clips")
        return inputs._replace(clips=rows.of(inputs.clips), clip_rows=rows)


def _code(model: AutoencoderKLWan, x: torch.Tensor, rows: Rows) -> tuple[torch.Tensor, Ratio]:
    """A chunk [B, 3, T, H, W] through the VAE, and twice the KL term of its latents.

    The latents' noise is drawn for the whole batch of which these are `rows`: the same in any number of processes.
    """
    frozen = not model.quant_conv.weight.requires_grad
    with torch.no_grad() if frozen else nullcontext():
        posterior = model.encode(x).latent_dist
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = mean_of(mean.square() + logvar.exp() - 1 - logvar)
    shape, like = (rows.total, *posterior.mean.shape[1:]), posterior.parameters
    noise = rows.of(torch.randn(shape, device=like.device, dtype=like.dtype))
    return model.decode(posterior.mean + posterior.std * noise).sample, kl


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


def _edge_error(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Difference of Sobel gradients, whose L1 keeps cartoon outlines sharp where plain L1 blurs them."""
    error = (y - x).movedim(1, 2).flatten(0, 2)[:, None].float()
    return F.conv2d(F.pad(error, (1, 1, 1, 1), "replicate"), _sobel(error.device)).abs()


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
def reconstruction_psnr(model: AutoencoderKLWan, count: int = 64, scale: int = 1) -> float:
    """Mean PSNR in dB of held-out images through the VAE, drawn at a scale (see `render`)."""
    x = to_tensor(picture_bank(count, "test", 3000, scale))[:, :, None].to(model.device) * 2 - 1
    y = torch.cat([model.decode(model.encode(part).latent_dist.mode()).sample for part in x.split(16)])
    return float(psnr(y, x, dims=4, peak=2.0).mean())
