"""CLIP on open_clip: scores frames against text for retrieval, and pools prompts the way Flux wants.

Any open_clip `CLIP` architecture loads: the pocket studio's, or a public checkpoint in open_clip's key format
(`visual.conv1.weight`, `transformer.resblocks.0.…`, `text_projection`) stored as safetensors.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import text_global_pool
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..memory.retrieval import mean_direction, query_parts
from ..story.errors import InputError
from ..story.files import atomic_path
from .tokenizer import ClipTokenizer

__all__ = ["ClipScorer", "build_clip"]

Config = Mapping[str, Any]
_CHOICES = {"resize_mode": ("squash", "shortest", "longest"), "interpolation": ("bicubic", "bilinear")}


class ClipScorer:
    """An open_clip model with its tokenizer and its picture preprocessing.

    Args:
        model: a real `open_clip.CLIP`; put into eval mode.
        config: open_clip's model config (`embed_dim`, `vision_cfg`, `text_cfg`, optional `quick_gelu`), or the form
            of open_clip's config files, `{"model_cfg": …, "preprocess_cfg": …}`. `preprocess_cfg` may set `mean`,
            `std`, `interpolation` (bicubic | bilinear) and `resize_mode`:

            * `squash` (default here): the whole frame is resized to the model's size. Frames are wide, and whoever
              stands at their edge must be seen.
            * `shortest`: shorter side to size, then centre crop, as most public CLIPs were trained.
            * `longest`: longer side to size, the rest filled with black.

    Embeddings are fp32 and of unit length, on the model's device.
    """

    def __init__(self, model: open_clip.CLIP, config: Config) -> None:
        model_cfg, self.preprocess_cfg = _split(config)
        self.model = model.eval()
        self.config: dict[str, Any] = {"model_cfg": model_cfg, "preprocess_cfg": self.preprocess_cfg}
        size = model.visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        options = model_cfg["text_cfg"].get("tokenizer_kwargs") or {}
        # Some models were trained on texts that were prepared otherwise; the rest read as ComfyUI and diffusers do.
        self.tokenizer: Any = ClipTokenizer(model.context_length)
        if options:
            self.tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length, **options)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        config: Config | str | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> ClipScorer:
        """Load open_clip-format safetensors.

        Args:
            path: the weights.
            config: a config dict (see the class), a model name that open_clip knows (`ViT-L-14-quickgelu` is OpenAI's
                ViT-L/14), or None to read the JSON under `config` in the file's own metadata.
            device: where the model goes.
            dtype: precision of the weights; None keeps fp32.

        Raises:
            InputError: missing or unreadable file, no or unknown config, or weights that do not fit the config.
        """
        state, metadata = _read(Path(path))
        found = _config(config, metadata, path)
        model = build_clip(found, state, source=str(path))
        return cls(model.to(device=device, dtype=dtype or torch.float32), found)

    def save(self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> Path:
        """Write the weights, with the config (and `metadata`) in the file's metadata, in one atomic step."""
        state = {key: value.detach().contiguous().cpu() for key, value in self.model.state_dict().items()}
        target = Path(path)
        with atomic_path(target) as temporary:
            save_file(state, temporary, metadata={**(metadata or {}), "config": json.dumps(self.config)})
        return target

    @property
    def dim(self) -> int:
        """Width D of the joint embedding."""
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def text_width(self) -> int:
        """Width of `pooled`."""
        return int(self.model.ln_final.weight.shape[0])

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.positional_embedding.device

    def preprocess(self, images: Tensor) -> Tensor:
        """Resize and normalise `[B, 3, H, W]` in 0…1 to the model's input `[B, 3, h, w]`; differentiable.

        Raises:
            InputError: another shape, or values that are not finite.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise InputError("images", "must be [B, 3, H, W]", tuple(images.shape), "stack RGB frames into one batch")
        if not torch.isfinite(images).all():
            raise InputError("images", "must be finite", "NaN or infinity", "check where the frames come from")
        cfg = self.preprocess_cfg
        pixels = _fit(images.to(self.device, torch.float32), self.image_size, cfg["resize_mode"], cfg["interpolation"])
        mean, std = (pixels.new_tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        return (pixels - mean) / std

    @torch.no_grad()
    def embed_images(self, images: Tensor, batch: int = 64) -> Tensor:
        """Embed frames `[B, 3, H, W]` in 0…1 to `[B, D]`, unit length.

        Raises:
            InputError: as `preprocess`.
        """
        dtype = self.model.positional_embedding.dtype
        parts = [
            F.normalize(self.model.encode_image(self.preprocess(part).to(dtype)).float(), dim=-1)
            for part in images.split(batch)
            if len(part)
        ]
        return torch.cat(parts) if parts else torch.zeros(0, self.dim, device=self.device)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], batch: int = 64) -> Tensor:
        """Embed texts to `[B, D]`, unit length.

        Of a text that is longer than the model reads (77 tokens) the parts are embedded, and their mean direction
        counts: a query's last words say as much as its first.
        """
        parts = [self._parts(text) for text in _listed(texts)]
        ids = self._tokens([part for split in parts for part in split], batch)
        found = [F.normalize(self.model.encode_text(rows).float(), dim=-1) for rows in ids]
        if not found:
            return torch.zeros(0, self.dim, device=self.device)
        rows = torch.cat(found).split([len(split) for split in parts])
        return torch.stack([row[0] if len(row) == 1 else mean_direction(row) for row in rows])

    @torch.no_grad()
    def pooled(self, texts: Sequence[str], batch: int = 64) -> Tensor:
        """Return the pooled text state before the projection, `[B, text_width]` fp32: Flux's `pooled_projections`.

        The same state as `pooler_output` of a transformers CLIPTextModel: last layer, final layer norm, end token.
        """
        parts = []
        for ids in self._tokens(texts, batch):
            dtype = self.model.transformer.get_cast_dtype()
            x = self.model.token_embedding(ids).to(dtype) + self.model.positional_embedding.to(dtype)
            x = self.model.ln_final(self.model.transformer(x, attn_mask=self.model.attn_mask))
            parts.append(text_global_pool(x, ids, self.model.text_pool_type, self.model.text_eos_id).float())
        return torch.cat(parts) if parts else torch.zeros(0, self.text_width, device=self.device)

    def _tokens(self, texts: Sequence[str], batch: int) -> Iterator[Tensor]:
        texts = _listed(texts)
        for start in range(0, len(texts), batch):
            yield self.tokenizer(texts[start : start + batch]).to(self.device)

    def _parts(self, text: str) -> list[str]:
        """The text in parts that the model can read whole."""
        words = self.tokenizer
        if not isinstance(words, ClipTokenizer):
            return [text]
        return query_parts(text, lambda part: words.lengths([part])[0], words.context_length - 2)


def _listed(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise InputError("texts", "must be a list of strings", texts, "wrap the text in a list")
    return list(texts)


def build_clip(config: Config, state: Mapping[str, Tensor] | None = None, source: str = "clip") -> open_clip.CLIP:
    """Build `open_clip.CLIP` from a config; with `state`, take the weights from it without initialising any.

    Raises:
        InputError: the config is no CLIP that we can build, or the weights do not fit it.
    """
    model_cfg, _ = _split(config)
    arguments = {key: value for key, value in model_cfg.items() if key != "custom_text"}
    if arguments["vision_cfg"].get("timm_model_name"):
        name = arguments["vision_cfg"]["timm_model_name"]
        raise InputError(f"{source}: config", "must use CLIP's own vision tower", name, "choose a ViT CLIP model")
    try:
        # On the meta device nothing is initialised: faster, and the global random state stays as it was.
        with torch.device("meta") if state is not None else contextlib.nullcontext():
            model = open_clip.CLIP(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"{source}: config", "must be an open_clip CLIP config", str(error), "correct it") from error
    if state is None:
        return model
    # Older files carry the causal mask, which the model makes itself.
    state = {key: value.float() for key, value in state.items() if key != "attn_mask"}
    expected, given = set(model.state_dict()), set(state)
    if expected != given:
        _refuse_keys(source, expected, given)
    try:
        model.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        rule = "weights must have the shapes of the config"
        raise InputError(source, rule, str(error).split("\n")[1].strip(), "give the config of this file") from error
    if model.attn_mask is not None:
        length = model.context_length
        model.attn_mask = torch.full((length, length), float("-inf")).triu_(1)
    return model


def _split(config: Config) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (model config, complete preprocess config)."""
    model_cfg = dict(config.get("model_cfg", config))
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model_cfg]
    if missing:
        rule = f"must have {', '.join(missing)}"
        raise InputError("clip config", rule, sorted(model_cfg), "give an open_clip config")
    text_cfg = model_cfg["text_cfg"]
    if text_cfg.get("hf_model_name") or text_cfg.get("hf_tokenizer_name"):
        name = text_cfg.get("hf_model_name") or text_cfg.get("hf_tokenizer_name")
        raise InputError("clip config", "must use CLIP's own text tower and tokenizer", name, "choose a ViT CLIP model")
    preprocess = {
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "squash",
        **{key: value for key, value in dict(config.get("preprocess_cfg") or {}).items() if value is not None},
    }
    for key, choices in _CHOICES.items():
        if preprocess[key] not in choices:
            rule = f"must be one of {', '.join(choices)}"
            raise InputError(f"preprocess_cfg.{key}", rule, preprocess[key], "choose one of them")
    return model_cfg, preprocess


def _config(config: Config | str | None, metadata: Mapping[str, str], path: str | os.PathLike[str]) -> Config:
    if isinstance(config, str):
        found = open_clip.get_model_config(config)
        if found is None:
            near = difflib.get_close_matches(config, open_clip.list_models(), 3)
            fix = f"try {' or '.join(near) or 'ViT-L-14'}"
            raise InputError("clip config", "must be a model name that open_clip knows", config, fix)
        return found
    if config is not None:
        return config
    if "config" not in metadata:
        fix = "give a config or an open_clip model name such as ViT-L-14-quickgelu"
        raise InputError(str(path), "must carry its config in the metadata", sorted(metadata), fix)
    try:
        found = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: config", "must be JSON", str(error), "give a config") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: config", "must be a JSON object", type(found).__name__, "give a config")
    return found


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise InputError(str(path), "must be a file", "nothing there", "correct the path")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})
    except SafetensorError as error:
        rule = "must be a safetensors file; pickled checkpoints are never opened"
        raise InputError(str(path), rule, str(error), "convert it to safetensors") from error


def _refuse_keys(source: str, expected: set[str], given: set[str]) -> None:
    if any(key.startswith(("text_model.", "vision_model.")) for key in given):
        fix = "use the open_clip file of this model"
        raise InputError(source, "must have open_clip's key names", "a transformers CLIP file", fix)
    missing, surplus = sorted(expected - given), sorted(given - expected)
    seen = f"{len(missing)} missing {missing[:2]}, {len(surplus)} unexpected {surplus[:2]}"
    raise InputError(source, "weights must have the keys of the config", seen, "give the config of this file")


def _fit(images: Tensor, size: tuple[int, int], mode: str, interpolation: str) -> Tensor:
    """Bring `[B, 3, H, W]` to `size`, antialiased as PIL does it."""
    height, width = images.shape[-2:]
    if mode == "squash":
        target = size
    else:
        pick = max if mode == "shortest" else min
        scale = pick(size[0] / height, size[1] / width)
        target = (max(1, round(height * scale)), max(1, round(width * scale)))
    if target != (height, width):
        images = F.interpolate(images, size=target, mode=interpolation, antialias=True, align_corners=False).clamp(0, 1)
    top, left = (target[0] - size[0]) // 2, (target[1] - size[1]) // 2
    if mode == "shortest":
        return images[..., top : top + size[0], left : left + size[1]]
    pads = (-left, size[1] - target[1] + left, -top, size[0] - target[0] + top)
    return F.pad(images, pads) if any(pads) else images
