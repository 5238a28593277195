"""DINO features of frames: what Text2Story measures a film's consistency with (§4.4).

Any of Meta's self-supervised vision transformers, as transformers saves them: DINO (ViT), DINOv2, DINOv3. A frame's
feature is the last state of the class token.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import center_crop, normalize, resize

from ...core.errors import InputError
from ...models.io.checkpoint import read_checkpoint

__all__ = ["DinoFeatures", "Preprocess", "load_dino"]

# Arguments of the class: DINO's ViTs carry no pooler.
_KINDS: dict[str, dict[str, Any]] = {
    "vit": {"add_pooling_layer": False},
    "dinov2": {},
    "dinov2_with_registers": {},
    "dinov3_vit": {},
}
_RESAMPLE = {2: InterpolationMode.BILINEAR, 3: InterpolationMode.BICUBIC}  # PIL's numbers


@dataclass(frozen=True)
class Preprocess:
    """How pictures become the model's input; without a preprocessor_config.json as most DINO models want it.

    Attributes:
        size: one number: the shorter side; two: height and width; None leaves the size.
        crop: height and width of the middle that is kept; None keeps all.
        mean, std: of ImageNet.
        resample: 2 bilinear, 3 bicubic.
        scale: pixels of 0…1 are multiplied with it before mean and deviation are taken; 255 gives back 8-bit values.
    """

    size: tuple[int, ...] | None = (256,)
    crop: tuple[int, int] | None = (224, 224)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resample: int = 3
    scale: float = 1.0

    def __call__(self, pictures: Tensor) -> Tensor:
        """`[B, 3, H, W]` in 0…1 → the model's input `[B, 3, h, w]`."""
        if self.size is not None:
            pictures = resize(pictures, list(self.size), _RESAMPLE[self.resample], antialias=True).clamp(0, 1)
        if self.crop is not None:
            pictures = center_crop(pictures, list(self.crop))
        if self.scale != 1:
            pictures = pictures * self.scale
        return normalize(pictures, list(self.mean), list(self.std))

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Preprocess:
        """Read transformers' preprocessor_config.json.

        Raises:
            InputError: a value that does not fit.
        """
        crops, resizes = _flag(data, "do_center_crop", False), _flag(data, "do_resize", True)
        size = cls.size if crops and resizes else None
        if resizes and "size" in data:
            # A single number is the shorter side where a crop follows, else both sides.
            size = _sides("size", data["size"], square=not crops)
        crop = _sides("crop_size", data.get("crop_size", 224), square=True) if crops else None
        resample = data.get("resample", cls.resample)
        if resample not in list(_RESAMPLE):
            raise _fault("resample", "must be 2 (bilinear) or 3 (bicubic)", resample)
        mean, std = (
            _triple(name, data.get(name, value)) for name, value in (("image_mean", cls.mean), ("image_std", cls.std))
        )
        if min(std) <= 0:
            raise _fault("image_std", "must be greater than 0", std)
        if not _flag(data, "do_normalize", True):
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        # transformers starts from 8-bit values, we from 0…1.
        factor = 1 / 255 if data.get("rescale_factor") is None else data["rescale_factor"]
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 0 < factor < 1e6:
            raise _fault("rescale_factor", "must be a number greater than 0", factor)
        scale = 1.0 if abs(255 * factor - 1) < 1e-6 else 255.0 * factor
        scale = scale if _flag(data, "do_rescale", True) else 255.0
        return cls(size, (crop[0], crop[1]) if crop is not None else None, mean, std, resample, scale)


class DinoFeatures:
    """A vision transformer with its preprocessing: frames → class tokens."""

    def __init__(self, model: Any, preprocess: Preprocess = Preprocess()) -> None:
        self.model, self.preprocess = model.eval().requires_grad_(False), preprocess
        # The later models do so unasked.
        self._more = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}

    @torch.no_grad()
    def __call__(self, pictures: Tensor, batch: int = 16) -> Tensor:
        """Features `[B, D]` of pictures `[B, 3, H, W]` in 0…1; fp32, of any length, on the CPU."""
        device = next(self.model.parameters()).device
        parts = []
        for part in pictures.split(batch):
            out = self.model(pixel_values=self.preprocess(part.to(device, torch.float32)), **self._more)
            parts.append(out.last_hidden_state[:, 0].float().cpu())
        return torch.cat(parts)


def load_dino(folder: str | os.PathLike[str], device: torch.device | str = "cpu") -> DinoFeatures:
    """Read a transformers folder: config.json, safetensors, and preprocessor_config.json if it is there.

    Nothing is downloaded, no pickle is opened, and no code of the folder's is run.

    Raises:
        InputError: no folder, a pickle, another kind of model, missing or misshapen tensors, values that are not
            finite, or a config that does not fit.
    """
    path = Path(folder)
    if not path.is_dir():
        fix = "give the folder of a DINO model as transformers saves it"
        raise InputError("dino", "must be a folder with config.json and safetensors", str(folder), fix)
    checkpoint = read_checkpoint(path, "dino")  # whole, and no pickle
    if checkpoint.config is None:
        raise InputError(
            "dino", "folder must hold config.json", str(folder), "copy the model's own config.json into it"
        )
    kind = checkpoint.config.get("model_type")
    if kind not in list(_KINDS):
        raise InputError("dino", f"model_type must be one of {', '.join(_KINDS)}", kind, "give a DINO model's folder")
    model = _model(path, kind)
    wrong = next((key for key, value in model.state_dict().items() if not torch.isfinite(value).all()), None)
    if wrong is not None:
        rule, fix = "weights must be finite numbers", "copy or download the file again"
        raise InputError(f"dino {path.name}", rule, f"{wrong}: NaN or infinity", fix)
    return DinoFeatures(model.to(device), _preprocess(path))


def _model(path: Path, kind: str) -> nn.Module:
    from transformers import AutoModel
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # stderr belongs to our own one line
    logging.set_verbosity_error()
    try:
        model, info = AutoModel.from_pretrained(
            str(path),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **_KINDS[kind],
        )
    except Exception as error:  # transformers refuses a config or weights with errors of many kinds
        seen = next(iter(str(error).splitlines()), "") or type(error).__name__
        fix = "check that config.json belongs to the weights"
        raise InputError(f"dino {path.name}", "transformers must be able to load the folder", seen, fix) from error
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    # It would fill what is missing with random numbers.
    if missing := sorted(info["missing_keys"]):
        seen = f"no {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
        fix = "give the model's whole safetensors file"
        raise InputError(f"dino {path.name}", "tensors must be complete", seen, fix)
    return model


def _preprocess(path: Path) -> Preprocess:
    file = path / "preprocessor_config.json"
    if not file.is_file():
        return Preprocess()
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _fault("", "must be JSON", str(error)) from error
    if not isinstance(data, dict):
        raise _fault("", "must be a JSON object", type(data).__name__)
    return Preprocess.parse(data)


def _sides(name: str, value: Any, square: bool) -> tuple[int, ...]:
    """`224`, `{"shortest_edge": 256}` or `{"height": 224, "width": 224}` → one or two numbers."""
    if isinstance(value, dict):
        names = ["shortest_edge"] if "shortest_edge" in value else ["height", "width"]
        sides: Sequence[Any] = [value.get(key) for key in names]
    else:
        sides = [value, value] if square else [value]
    if not all(isinstance(side, int) and not isinstance(side, bool) and 1 <= side <= 4096 for side in sides):
        raise _fault(name, "must be sides of 1 to 4096 pixels", value)
    return tuple(sides) * (2 if square and len(sides) == 1 else 1)


def _flag(data: Mapping[str, Any], name: str, default: bool) -> bool:
    """A switch; null is the default, as in transformers."""
    value = data.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _fault(name, "must be true or false", value)
    return value


def _triple(name: str, value: Any) -> tuple[float, ...]:
    fits = isinstance(value, (list, tuple)) and len(value) == 3
    if not fits or not all(isinstance(v, (int, float)) and abs(v) < 1e6 for v in value):
        raise _fault(name, "must be three numbers", value)
    return tuple(float(v) for v in value)


def _fault(name: str, rule: str, value: object) -> InputError:
    field = "dino: preprocessor_config.json" + (f": {name}" if name else "")
    return InputError(field, rule, value, "copy the model's own file, or remove it")
