"""Reads a pocket picture: who stands where with which looks, in which place and layout. Trained on ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.documents import as_integer, as_object, parse_json
from ..core.errors import InputError
from ..models.io.arguments import no_weights
from ..models.io.checkpoint import check_values, compare, load_weights, read_checkpoint
from .world import ACCESSORIES, ACTIONS, COLOURS, LAND_SLOTS, PLACES, SCALES, SHAPES, SIDES, SKY_SLOTS, ShotSpec

#: heads read once per side of the frame
SIDE_HEADS = {
    "present": 2,
    "colour": len(COLOURS),
    "shape": len(SHAPES),
    "accessory": len(ACCESSORIES),
    "action": len(ACTIONS),
}
#: heads read once per frame
FRAME_HEADS = {
    "place": len(PLACES),
    "sky": SKY_SLOTS,
    "first": LAND_SLOTS,
    "second": LAND_SLOTS,
    "scale": len(SCALES),
}
IDENTITY = ("colour", "shape", "accessory")
LAYOUT = ("sky", "first", "second")
IGNORE = -100


def labels(shot: ShotSpec) -> dict[str, list[int]]:
    """Ground truth of a shot: side heads have one value per side (−100 where nobody stands), frame heads one value."""
    out: dict[str, list[int]] = {k: [IGNORE] * len(SIDES) for k in SIDE_HEADS}
    out["present"] = [0] * len(SIDES)
    for a in shot.actors:
        out["present"][a.side] = 1
        out["colour"][a.side] = a.look.colour
        out["shape"][a.side] = a.look.shape
        out["accessory"][a.side] = a.look.accessory
        out["action"][a.side] = a.action
    layout = shot.layout
    out |= {"place": [layout.place], "sky": [layout.sky], "first": [layout.first], "second": [layout.second]}
    out["scale"] = [shot.scale]
    return out


@dataclass(frozen=True)
class Reading:
    """What the recogniser saw: class indices, [B, 2] for side heads and [B] for frame heads."""

    values: dict[str, torch.Tensor]

    def __getitem__(self, head: str) -> torch.Tensor:
        return self.values[head]


class Recogniser(nn.Module):
    """A small convolutional net: [B, 3, 80, 160] in 0…1 to logits per head.

    Side heads look at the features of their half of the frame only, so that a left character cannot vouch for a
    right one.
    """

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.config = {"width": width}
        channels = [3, width, 2 * width, 3 * width, 4 * width]
        layers: list[nn.Module] = []
        for a, b in zip(channels[:-1], channels[1:], strict=True):
            layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.GroupNorm(4, b), nn.SiLU()]
            layers += [nn.Conv2d(b, b, 3, padding=1), nn.GroupNorm(4, b), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        last = channels[-1]
        self.side = nn.Sequential(nn.Linear(last * 5 * 5, 160), nn.SiLU(), nn.Linear(160, sum(SIDE_HEADS.values())))
        self.frame = nn.Sequential(nn.Linear(last * 5 * 10, 96), nn.SiLU(), nn.Linear(96, sum(FRAME_HEADS.values())))

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits: side heads [B, 2, classes], frame heads [B, classes]."""
        x = self.features(pictures * 2 - 1)
        halves = torch.stack([x[..., :5], x[..., 5:]], 1).flatten(2)
        side = self.side(halves).split(list(SIDE_HEADS.values()), -1)
        frame = self.frame(x.flatten(1)).split(list(FRAME_HEADS.values()), -1)
        return dict(zip(SIDE_HEADS, side, strict=True)) | dict(zip(FRAME_HEADS, frame, strict=True))

    @torch.no_grad()
    def read(self, pictures: torch.Tensor) -> Reading:
        """The most likely class of every head for pictures [B, 3, H, W] in 0…1 (resized to 80×160 if needed)."""
        if pictures.shape[-2:] != (80, 160):
            pictures = F.interpolate(pictures, (80, 160), mode="bicubic", antialias=True).clamp(0, 1)
        return Reading({k: v.argmax(-1) for k, v in self(pictures).items()})


def load_recogniser(path: Path) -> Recogniser:
    """Load the recogniser from safetensors written by its recipe.

    Raises:
        InputError: another kind of file, or broken weights.
    """
    model, state, source = _plan(path)
    return load_weights(model, state, source=source, dtype=torch.float32)


def prove_recogniser(path: Path) -> Recogniser:
    """The recogniser of a file without its weights, once it is known that they would load. Errors as the loader's."""
    model, state, source = _plan(path)
    compare(model, state, source)
    check_values(state, torch.float32, source)
    return model


def _plan(path: Path) -> tuple[Recogniser, dict[str, Tensor], str]:
    """An empty recogniser, its tensors, and the file's name."""
    checkpoint = read_checkpoint(path)
    first = checkpoint.state.get("features.0.weight")
    if first is None or first.ndim != 4 or "config" not in checkpoint.metadata:
        seen = next(iter(checkpoint.state), "nothing")
        rule = "file must hold a recogniser, with its config in the metadata"
        raise InputError(checkpoint.name, rule, seen, "give recogniser.safetensors")
    where = f"{checkpoint.name}: config"
    config = as_object(parse_json(checkpoint.metadata["config"], where), where)
    width = as_integer(config.get("width"), f"{where}.width", 4)
    if width != first.shape[0] or width % 4:
        rule = "must be the width of the file's first layer, a multiple of 4"
        raise InputError(f"{where}.width", rule, width, "give the config that belongs to the file")
    with no_weights():
        model = Recogniser(width)
    return model, dict(checkpoint.state), checkpoint.name
