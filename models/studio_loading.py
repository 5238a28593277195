"""How the models of a studio are loaded and proven from their files; `studio.Studio` says which and when."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..core.errors import InputError
from .backbones import DEFAULT_KEYFRAME, find_vae
from .encoders.text import Pooler, TextEncoder, load_text
from .io.loading import Offload, empty_vae, load_transformer, load_vae
from .io.lora import LoraSpec
from .io.proof import named, prove_lora
from .studio_config import StudioConfig
from .studio_defaults import Defaults
from .studio_files import StudioFiles
from .studio_parts import PairTextPart, Part, TextPart, TransformerPart, UpscalePart, VaePart

if TYPE_CHECKING:
    from .encoders.qwen_vl import QwenVLEncoder

__all__ = ["StudioLoader"]

logger = logging.getLogger(__name__)

Present = TypeVar("Present", bound=Part)


class StudioLoader(StudioFiles):
    """Loads the parts of a studio.

    Attributes:
        defaults: sampler defaults: `defaults.keyframe`, `defaults.video` and `defaults.pair`.
        device: where the models compute.
    """

    def __init__(
        self,
        config: StudioConfig,
        file: Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        models_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(config, file, dtype, models_dir)
        self.defaults: Defaults = config.defaults
        self.device = torch.device(device)

    def _prove_pair_text(self, field: str, part: PairTextPart) -> Any:
        from .encoders.qwen_vl import prove_qwen_vl

        path, dtype = self._file(field, part), self._precision(part)
        model = prove_qwen_vl(path, self._tokenizer(field, part), self._config(field, part), dtype).skeleton
        for i, lora in enumerate(part.loras):
            with named(f"{field}.loras[{i}]", self.file.name):
                prove_lora(model, part.kind, self._file(f"{field}.loras[{i}]", lora))
        return model

    def _kind(self, field: str) -> str:
        """The backbone of a transformer part."""
        if field == "pair":
            return self._pair_part(self.config.pair).kind
        if field == "upscale":
            return self._upscale_part().kind
        return DEFAULT_KEYFRAME if field == "keyframe" else self.config.video.kind

    def _loras(self, field: str, part: TransformerPart | PairTextPart) -> list[LoraSpec]:
        def files(section: str, owner: TransformerPart | PairTextPart | None) -> list[Path]:
            return (
                []
                if owner is None
                else [self._file(f"{section}.loras[{i}]", lora) for i, lora in enumerate(owner.loras)]
            )

        # One file may have a half for each model of the pair.
        pair, text = self.config.pair, self.config.pair_text
        halves = set(files("pair", pair)) & set(files("pair_text", text)) if field in ("pair", "pair_text") else set()
        return [
            LoraSpec(path, lora.strength, both=path in halves)
            for path, lora in zip(files(field, part), part.loras, strict=True)
        ]

    def _transformer(self, field: str, part: TransformerPart) -> Any:
        path = self._file(field, part)
        logger.info("loading %s from %s", field, path)
        offload = None
        if part.offload != "none" and (self.device.type != "cpu" or part.offload_folder):
            offload = Offload(part.offload, folder=part.offload_folder)
        return load_transformer(
            self._kind(field),
            path,
            self._config(field, part),
            dtype=self._precision(part),
            device=self.device,
            fp8=part.fp8,
            offload=offload,
            loras=self._loras(field, part),
            compile=part.compile,
        )

    def _vae(self, field: str, part: VaePart, empty: bool = False) -> Any:
        path, config = self._file(field, part), self._config(field, part)
        if empty:
            return self._wrap(part, empty_vae(part.kind, path, config))
        return self._wrap(part, load_vae(part.kind, path, config, dtype=self._precision(part), device=self.device))

    def _wrap(self, part: VaePart, model: Any) -> Any:
        from .encoders.vae_tiling import Tiling

        return find_vae(part.kind).codec()(model, tiling=Tiling(part.tiling, part.tile))

    def _text(self, field: str, part: TextPart, pooler: Pooler | None) -> TextEncoder:
        tokenizer = self._tokenizer(field, part)
        offload = Offload("leaf") if part.offload != "none" and self.device.type != "cpu" else None
        return load_text(
            part.kind,
            self._file(field, part),
            tokenizer,
            self._config(field, part),
            pooler,
            dtype=self._precision(part),
            device=self.device,
            fp8=part.fp8,
            offload=offload,
            max_length=part.max_length,
            pad_to=part.pad_to,
        )

    def _pair_text(self, part: PairTextPart) -> QwenVLEncoder:
        from .encoders.qwen_vl import load_qwen_vl

        return load_qwen_vl(
            self._file("pair_text", part),
            self._tokenizer("pair_text", part),
            self._config("pair_text", part),
            self._precision(part),
            self.device,
            fp8=part.fp8,
            offload=Offload("leaf") if part.offload != "none" and self.device.type != "cpu" else None,
            loras=self._loras("pair_text", part),
        )

    def _pair_part(self, part: Present | None) -> Present:
        """A part of the pair model."""
        if part is None:
            fix = "choose a studio that has one, such as qwen-wan, or leave --pairs out"
            raise InputError("pair", "must be set for start and end frames", None, fix, self.file.name)
        return part

    def _upscale_part(self) -> UpscalePart:
        """The part of the upscaling model."""
        if self.config.upscale is None:
            fix = "choose a studio that has one, such as pocket or flux-wan"
            raise InputError("upscale", "must be set to upscale with a model", None, fix, self.file.name)
        return self.config.upscale
