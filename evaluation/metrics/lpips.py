"""LPIPS, how different two pictures look to people (Zhang et al. 2018): distances of the features of a trained network.

The weights come from a safetensors file with the key names of the `lpips` package. The package itself would have to be
given random weights first, through arguments that torchvision has deprecated, and brings scipy along; its last release
is of 2021. torchvision, which is here anyway, has both networks without weights, and what is left is this short
definition. The tests hold it to the package.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16

from ...core.errors import InputError
from ...models.io.checkpoint import load_weights, read_checkpoint

__all__ = ["Lpips", "load_lpips"]

Net = Literal["alex", "vgg"]

_BUILD = {"alex": alexnet, "vgg": vgg16}
_BOUNDS = {"alex": (0, 2, 5, 8, 10, 12), "vgg": (0, 4, 9, 16, 23, 30)}
"""Where the network is cut: every part ends in a ReLU, whose features are compared."""
_CHANNELS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
# A layer that only this network has: the file's names tell which it is.
_MARKS: dict[Net, str] = {"alex": "net.slice2.3.weight", "vgg": "net.slice1.2.weight"}


class Lpips(nn.Module):
    """LPIPS v0.1 on AlexNet (`alex`) or VGG16 (`vgg`), with the `lpips` package's names of weights."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        layers = _BUILD[net](weights=None).features
        parts = [OrderedDict((str(i), layers[i]) for i in range(*ends)) for ends in pairwise(_BOUNDS[net])]
        self.net = nn.Sequential(OrderedDict((f"slice{k}", nn.Sequential(part)) for k, part in enumerate(parts, 1)))
        for k, channels in enumerate(_CHANNELS[net]):
            weigh = nn.Sequential(OrderedDict([("1", nn.Conv2d(channels, 1, 1, bias=False))]))
            self.add_module(f"lin{k}", nn.Sequential(OrderedDict([("model", weigh)])))
        self.scaling_layer = nn.Module()
        for name in ("shift", "scale"):
            self.scaling_layer.register_buffer(name, torch.zeros(1, 3, 1, 1))

    @torch.no_grad()
    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Distance of pictures `[N, 3, H, W]` in 0…1, at least 64×64, → `[N]` on the CPU; 0 is the same picture."""
        a, b = self._scaled(before), self._scaled(after)
        total = a.new_zeros(len(a))
        for k, part in enumerate(self.net):
            a, b = part(a), part(b)
            total += self.get_submodule(f"lin{k}")((_unit(a) - _unit(b)) ** 2).mean((1, 2, 3))
        return total.cpu()

    def _scaled(self, pictures: Tensor) -> Tensor:
        shift, scale = (self.scaling_layer.get_buffer(name) for name in ("shift", "scale"))
        return (pictures.to(shift) * 2 - 1 - shift) / scale


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)


def load_lpips(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Lpips:
    """Read LPIPS from a safetensors file of the `lpips` package's state dict, AlexNet or VGG16.

    Raises:
        InputError: no such file, a pickle, another network, missing or misshapen tensors, or values that are not
            finite.
    """
    checkpoint = read_checkpoint(path, "lpips")
    # The package registers every linear layer under a second name.
    state = {key: value for key, value in checkpoint.state.items() if not key.startswith("lins.")}
    net = next((net for net, mark in _MARKS.items() if mark in state), None)
    if net is None:
        rule = "must hold all of LPIPS, network and linear layers, on AlexNet or VGG16"
        fix = "make it with safetensors.torch.save_model(lpips.LPIPS(net='alex'), FILE)"
        raise InputError("lpips", rule, f"{checkpoint.name}: {', '.join(sorted(state)[:2]) or 'empty'}", fix)
    with torch.device("meta"):  # nothing is initialised: faster, and the global random state stays as it was
        model = Lpips(net)
    return load_weights(model, state, source=f"lpips {checkpoint.name}", dtype=torch.float32, device=device)
