"""A studio of small models, such as `pocket`, as ComfyUI's own objects."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.errors import InputError
from ..models.layouts.video_latents import BRIDGE, COLOUR_CELL, NATIVE_SIZE, NEAR
from ..models.studio_config import Part, read_studio
from ..models.studio_parts import PairPart, PairTextPart
from . import native, native_pairs
from .native_files import File

__all__ = ["NativeStudio"]


class NativeStudio:
    """The models of a studio like `pocket`, each loaded when first used.

    Args:
        name_or_path: a studio whose file says where its models lie (`models_dir`); studios of public checkpoints need
            none of this, core nodes load them.

    Attributes:
        defaults: sampler defaults, as headless.
    """

    def __init__(self, name_or_path: File = "pocket") -> None:
        self.config, self._studio = read_studio(name_or_path)
        self.defaults = self.config.defaults

    @cached_property
    def video_vae(self) -> native.PocketVAE:
        """VAE for video: an IMAGE batch is one clip."""
        return native.load_video_vae(self._file("video_vae", self.config.video_vae))

    @cached_property
    def image_vae(self) -> native.PocketVAE:
        """The same VAE for pictures: an IMAGE batch is as many pictures, LATENT `[B, C, h, w]`."""
        return self.video_vae.for_images()

    @cached_property
    def keyframe(self) -> Any:
        """MODEL for keyframes, ComfyUI's Flux class."""
        path, shift = self._file("keyframe", self.config.keyframe), self.defaults.keyframe.shift
        return native.load_keyframe_model(path, 1.0 if shift is None else shift, self._previews)

    @cached_property
    def video(self) -> Any:
        """MODEL for video, ComfyUI's Wan class."""
        return native.load_video_model(
            self._file("video", self.config.video), self.defaults.video.shift, self._previews
        )

    @cached_property
    def keyframe_clip(self) -> Any:
        """CLIP for the keyframe model: T5 states at their real length, pooled CLIP text."""
        text, clip = self.config.keyframe_text, self.config.clip
        made = native.load_keyframe_clip(self._file("keyframe_text", text), self._file("clip", clip))
        return self._made_for(made)

    @cached_property
    def video_clip(self) -> Any:
        """CLIP for the video model: T5 states, filled up with zeros as the model was trained."""
        text = self.config.video_text or self.config.keyframe_text
        made = native.load_video_clip(self._file("video_text", text), self.defaults.video.text_length)
        return self._made_for(made)

    @cached_property
    def retrieval_clip(self) -> Any:
        """CLIP whose pooled output is projected, to compare with `clip_vision`'s image embeddings."""
        return native.load_retrieval_clip(self._file("clip", self.config.clip))

    @cached_property
    def clip_vision(self) -> Any:
        """CLIP_VISION for retrieval."""
        return native.load_clip_vision(self._file("clip", self.config.clip))

    @cached_property
    def pair(self) -> Any:
        """MODEL for start and end frames, ComfyUI's Qwen-Image class, with the studio's LoRAs."""
        part, shift = self.config.pair, self.defaults.pair.shift
        made = native_pairs.load_pair_model(self._file("pair", part), 1.0 if shift is None else shift, self._previews)
        return native_pairs.with_loras(made, self._loras(part), "diffusion_model.")

    @cached_property
    def pair_clip(self) -> Any:
        """CLIP for it: Qwen2.5-VL, which puts texts as the studio says, with the studio's LoRAs."""
        part, defaults = self.config.pair_text, self.defaults.pair
        made = native_pairs.load_pair_clip(self._file("pair_text", part))
        tokenizer: native_pairs.PairTokenizer = made.tokenizer
        if defaults.system_prompt is not None:
            tokenizer.prompting = replace(tokenizer.prompting, system_prompt=defaults.system_prompt)
        if defaults.drop_tokens is not None:
            tokenizer.prompting = replace(tokenizer.prompting, drop_tokens=defaults.drop_tokens)
        tokenizer.template = defaults.prompt
        return self._made_for(native_pairs.with_loras(made, self._loras(part), "text_encoders."))

    @cached_property
    def upscale(self) -> Any:
        """MODEL that upscales video, ComfyUI's Wan class; it says what it was trained for."""
        path = self._file("upscale", self.config.upscale)
        made = native.load_video_model(
            path, self.defaults.upscale.shift, native.preview_factors(self.upscale_vae.for_images())
        )
        made.attachments.pop(NATIVE_SIZE, None)  # any video is larger than what the pocket makes
        made.set_attachments(BRIDGE, self.defaults.upscale.mode == "bridge")
        made.set_attachments(COLOUR_CELL, self.defaults.upscale.colour_cell)
        made.set_attachments(NEAR, self.defaults.upscale.near or 0)
        return made

    @cached_property
    def upscale_vae(self) -> native.PocketVAE:
        """Its VAE."""
        if self.config.upscale_vae is None:
            return self.video_vae
        return native.load_video_vae(self._file("upscale_vae", self.config.upscale_vae))

    @property
    def names(self) -> list[str]:
        """Character names that the text encoders know; others must be replaced by free ones over a whole film."""
        return list(self.keyframe_clip.tokenizer.names)

    @cached_property
    def _previews(self) -> tuple[Tensor, Tensor]:
        return native.preview_factors(self.image_vae)

    def _made_for(self, clip: Any) -> Any:
        """A CLIP that says what size and rate its studio was made for, to whoever reads a storyboard with it."""
        clip.tokenizer.made_for = self.config.made_for
        return clip

    def _loras(self, part: PairPart | PairTextPart | None) -> list[tuple[Path, float]]:
        """Files and strengths of a part's LoRAs."""
        return [(self._path("loras", lora.file), lora.strength) for lora in (part.loras if part else ())]

    def _file(self, field: str, part: Part | None) -> Path:
        if part is None:
            raise InputError(field, "must be set for native objects", None, "use the pocket studio")
        return self._path(f"{field}.file", part.file)

    def _path(self, field: str, files: list[str]) -> Path:
        if self.config.models_dir is None:
            rule = "a studio for native objects must say where its models lie"
            raise InputError("models_dir", rule, self.config.name, "load public checkpoints with ComfyUI's own loaders")
        root = self._studio.parent / self.config.models_dir
        found = next((root / name for name in files if (root / name).is_file()), None)
        if found is None:
            raise InputError(field, "file must exist", str(root / files[0]), "install the pack again")
        return found
