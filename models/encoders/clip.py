"""CLIP on open_clip: scores frames against text for retrieval, and pools prompts for backbones that take pooled text.

Any open_clip `CLIP` architecture loads: the pocket studio's, or a public checkpoint in open_clip's key format
(`visual.conv1.weight`, `transformer.resblocks.0.…`, `text_projection`) stored as safetensors.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import text_global_pool
from safetensors.torch import save_file
from torch import Tensor

from ...core.errors import InputError
from ...core.files import atomic_path
from ...memory.retrieval import query_parts
from ..io.checkpoint import check_values, compare, dequantise, load_weights, read_checkpoint
from .clip_config import Config, find_config, split_config
from .tokenizer import ClipTokenizer

__all__ = ["ClipScorer", "build_clip", "empty_clip"]

VOCABULARY = 49408
"""Tokens of CLIP's own tokenizer."""


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
        model_cfg, self.preprocess_cfg = split_config(config)
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
        checkpoint = read_checkpoint(path, "clip")
        found = find_config(config, checkpoint.metadata, path)
        checkpoint.state = dequantise(checkpoint, torch.float32)
        model = build_clip(found, checkpoint.state, checkpoint.name, dtype=dtype or torch.float32, device=device)
        return cls(model, found)

    @staticmethod
    def prove(path: str | os.PathLike[str], config: Config | str | None = None) -> open_clip.CLIP:
        """The model of a file without its weights, once it is known that they would load; large files stay unread.

        Args and errors as `load`.
        """
        checkpoint = read_checkpoint(path, "clip")
        found = find_config(config, checkpoint.metadata, path)
        tensors = dequantise(checkpoint.without_large_values(), torch.float32)
        state = {key: value for key, value in tensors.items() if key != "attn_mask"}
        model = empty_clip(found, state, checkpoint.name)
        check_values(state, torch.float32, checkpoint.name)
        return model

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
        """Embed texts to `[B, D]`, unit length. Text past the context length (77 tokens) is cut, as CLIP does."""
        parts = [F.normalize(self.model.encode_text(ids).float(), dim=-1) for ids in self._tokens(texts, batch)]
        return torch.cat(parts) if parts else torch.zeros(0, self.dim, device=self.device)

    def embed_query(self, text: str) -> Tensor:
        """Embed a query for retrieval: the parts `[P, D]` of a text that is longer than the model reads, else `[1, D]`.

        So a query's last words say as much as its first (`memory.retrieval.query_parts`).
        """
        tokenizer = self.tokenizer
        if not isinstance(tokenizer, ClipTokenizer):
            return self.embed_texts([text])
        limit = tokenizer.context_length - 2
        return self.embed_texts(query_parts(text, lambda part: tokenizer.lengths([part])[0], limit))

    @torch.no_grad()
    def pooled(self, texts: Sequence[str], batch: int = 64) -> Tensor:
        """Return the pooled text state before the projection, `[B, text_width]` fp32 (`pooled_projections`).

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


def _listed(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise InputError("texts", "must be a list of strings", texts, "wrap the text in a list")
    return list(texts)


def build_clip(
    config: Config,
    state: Mapping[str, Tensor] | None = None,
    source: str = "clip",
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> open_clip.CLIP:
    """Build `open_clip.CLIP` from a config; with `state`, take the weights from it without initialising any.

    Raises:
        InputError: the config is no CLIP that we can build, or the weights do not fit it or are not finite.
    """
    if state is None:
        return _build(split_config(config)[0], source)
    # Older files carry the causal mask, which the model makes itself.
    own = {key: value for key, value in state.items() if key != "attn_mask"}
    model = empty_clip(config, own, source)
    if model.attn_mask is not None:
        length = model.context_length
        model.attn_mask = torch.full((length, length), float("-inf")).triu_(1)
    return load_weights(model, own, source=source, dtype=dtype, device=device)


def empty_clip(config: Config, state: Mapping[str, Tensor], source: str = "clip") -> open_clip.CLIP:
    """The CLIP that a config and tensors describe, without weights (on the meta device), once it is known to work.

    Raises:
        InputError: as `build_clip`, of what names, shapes and types tell.
    """
    if any(key.startswith(("text_model.", "vision_model.")) for key in state):
        fix = "use the open_clip file of this model"
        raise InputError(source, "must have open_clip's key names", "a transformers CLIP file", fix)
    model_cfg, _ = split_config(config, state)
    image = model_cfg["vision_cfg"]
    positions = state.get("visual.positional_embedding")
    if positions is not None and positions.ndim and isinstance(image.get("layers"), int):
        # Before building: some position tables are computed in full.
        sides = [image.get(name, default) for name, default in (("image_size", 224), ("patch_size", 16))]
        grid = [side if isinstance(side, list) else [side, side] for side in sides]
        if len(grid[0]) == len(grid[1]) == 2 and all(isinstance(n, int) and n > 0 for pair in grid for n in pair):
            rows = math.prod(size // patch for size, patch in zip(*grid, strict=True)) + 1
            if rows != len(positions):
                rule = f"image_size and patch_size must make the file's {len(positions)} positions"
                raise InputError(f"{source}: config", rule, rows, "give the config of this file")
    with torch.device("meta"):  # nothing is initialised: faster, and the global random state stays as it was
        model = _build(model_cfg, source)
    expected, given = set(model.state_dict()), set(state)
    if expected != given:
        _refuse_keys(source, expected, given)
    compare(model, state, source)
    _prove(model, source)
    return model


def _build(model_cfg: Mapping[str, Any], source: str) -> open_clip.CLIP:
    try:
        return open_clip.CLIP(**{key: value for key, value in model_cfg.items() if key != "custom_text"})
    except Exception as error:  # whatever a class that trusts its arguments runs into
        raise InputError(f"{source}: config", "must be an open_clip CLIP config", str(error), "correct it") from error


def _prove(model: open_clip.CLIP, source: str) -> None:
    """Let shapes run through both towers: a config may describe layers that do not fit each other."""
    size, rows = model.visual.image_size, model.token_embedding.weight.shape[0]
    height, width = (size, size) if isinstance(size, int) else size
    try:
        with torch.device("meta"), torch.no_grad():
            model.eval()
            image = model.encode_image(torch.zeros(1, 3, height, width))
            text = model.encode_text(torch.zeros(1, model.context_length, dtype=torch.long))
        shapes = tuple(image.shape), tuple(text.shape)
    except Exception as error:
        raise InputError(f"{source}: config", "must be an open_clip CLIP config", str(error), "correct it") from error
    if shapes[0] != shapes[1] or len(shapes[0]) != 2:
        rule = "pictures and texts must become vectors of one length"
        raise InputError(f"{source}: config", rule, f"{shapes[0]} and {shapes[1]}", "give the config of this file")
    if rows < VOCABULARY:
        fix = "give a CLIP with CLIP's own vocabulary"
        raise InputError(source, f"must know CLIP's {VOCABULARY} tokens", f"{rows} rows", fix)


def _refuse_keys(source: str, expected: set[str], given: set[str]) -> None:
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
