"""A studio: the models of one family, loaded when first used.

`load_studio("pocket")` is built in; the other built-in ones name public checkpoints in ComfyUI's folders; a
path gives one's own. See docs/studios.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..core.errors import InputError
from .backbones import DEFAULT_KEYFRAME, Backbone, find_backbone, kinds_for
from .encoders.text import ClipTextPooler, Pooler, TextEncoder, prove_text
from .io.kinds import listed
from .io.loading import prove_model
from .io.proof import files_key, fit_together, named, prove_lora
from .layouts.chunks import ChunkModel, Experts
from .layouts.pairs import PairModel
from .layouts.start_end import SegmentModel
from .studio_config import (
    Part,
    RecogniserPart,
    StudioConfig,
    built_in,
    read_studio,
)
from .studio_files import EXTRA, PARTS, RECOGNISER, check_name, model_roots
from .studio_loading import StudioLoader
from .studio_parts import PairTextPart, TextPart, TransformerPart, VaePart

if TYPE_CHECKING:
    from ..pocket.checking import CaptionCheck
    from ..pocket.recogniser import Reading, Recogniser
    from .encoders.clip import ClipScorer
    from .encoders.qwen_vl import QwenVLEncoder
    from .encoders.vae import ImageCodec, VideoCodec

__all__ = ["Studio", "StudioConfig", "built_in", "load_studio", "model_roots"]

Present = TypeVar("Present", bound=Part)

# What was proven good, with the state of its files: films are made one after the other in one process.
_PROVEN: set[tuple[Any, ...]] = set()


def load_studio(
    name_or_path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    models_dir: str | os.PathLike[str] | None = None,
) -> Studio:
    """Open a studio; its models load when they are first used.

    Args:
        name_or_path: `pocket`, another built-in name, or a studio's YAML file.
        device: where the models compute.
        dtype: precision for all models instead of the file's.
        models_dir: where model files are looked for, instead of the file's and the environment's folders.

    Raises:
        InputError: no such studio, or a fault in its file (field, line, rule, value, fix).
    """
    config, path = read_studio(name_or_path)
    return Studio(config, path, device=device, dtype=dtype, models_dir=models_dir)


class Studio(StudioLoader):
    """The models of a studio; each attribute loads its model once, on first use.

    Attributes:
        config: the studio file's content.
        defaults: sampler defaults, `defaults.keyframe` and `defaults.video`.
        device: where the models compute.
        roots: where files are looked for.
    """

    def __getstate__(self) -> dict[str, Any]:
        """All but its loaded models: where it is sent to, they load again on use."""
        return {name: value for name, value in vars(self).items() if name not in (*PARTS, *EXTRA)}

    @property
    def backbone(self) -> Backbone:
        """What the video model is."""
        return find_backbone(self.config.video.kind)

    @property
    def keyframe_backbone(self) -> Backbone:
        """What the keyframe model is."""
        return find_backbone(DEFAULT_KEYFRAME)

    @cached_property
    def keyframe(self) -> PairModel:
        """The keyframe model. Raises InputError if the studio has none."""
        return self._transformer("keyframe", self._present("keyframe", self.config.keyframe))

    @cached_property
    def video(self) -> ChunkModel:
        """The video model, of two experts the high-noise one."""
        return self._transformer("video", self.config.video)

    @cached_property
    def video_low(self) -> ChunkModel | None:
        """The low-noise expert, or None; `defaults.video.boundary` says where it takes over."""
        low = self.config.video.low
        return None if low is None else self._transformer("video.low", low)

    @property
    def video_model(self) -> ChunkModel | Experts:
        """The video model, with its low-noise expert where it has one."""
        low = self.video_low
        return self.video if low is None else Experts(self.video, low, self.defaults.video.boundary)

    @cached_property
    def image_vae(self) -> ImageCodec:
        """The keyframes' VAE; the video VAE where the studio names none."""
        part = self.config.image_vae
        return self.video_vae if part is None else self._vae("image_vae", part)

    @cached_property
    def video_vae(self) -> VideoCodec:
        """The video's VAE."""
        return self._vae("video_vae", self.config.video_vae)

    @cached_property
    def keyframe_text(self) -> TextEncoder:
        """The keyframe model's text encoder, with pooled text. Raises InputError if the studio has none."""
        part = self._present("keyframe_text", self.config.keyframe_text)
        pooler: Pooler
        if part.clip_text is None:
            pooler = self.clip.pooled
        else:
            field = "keyframe_text.clip_text"
            pooler = ClipTextPooler.load(
                self._file(field, part.clip_text),
                self._config(field, part.clip_text),
                dtype=self._precision(part.clip_text),
                device=self.device,
            )
        return self._text("keyframe_text", part, pooler)

    @cached_property
    def video_text(self) -> TextEncoder:
        """The video model's text encoder; the keyframe model's where the studio names none."""
        part = self.config.video_text
        return self.keyframe_text if part is None else self._text("video_text", part, None)

    @cached_property
    def clip(self) -> ClipScorer:
        """CLIP for retrieval and scores."""
        from .encoders.clip import ClipScorer

        part = self.config.clip
        path, config = self._file("clip", part), self._clip_config(part)
        return ClipScorer.load(path, config, device=self.device, dtype=self._precision(part))

    @cached_property
    def pair(self) -> SegmentModel:
        """The model of start and end frames. Raises InputError if the studio has none."""
        return self._transformer("pair", self._pair_part(self.config.pair))

    @cached_property
    def pair_text(self) -> QwenVLEncoder:
        """Its text encoder, which sees pictures, too. Raises InputError if the studio has none."""
        return self._pair_text(self._pair_part(self.config.pair_text))

    @cached_property
    def pair_vae(self) -> ImageCodec:
        """Its VAE; the keyframes' where the studio names none."""
        part = self.config.pair_vae
        return self.image_vae if part is None else self._vae("pair_vae", part)

    @cached_property
    def upscale(self) -> ChunkModel:
        """The model that upscales clips. Raises InputError if the studio has none."""
        return self._transformer("upscale", self._upscale_part())

    @property
    def upscale_model(self) -> ChunkModel:
        """The same by the name that goes with `video_model`."""
        return self.upscale

    @property
    def upscale_parts(self) -> tuple[str, ...]:
        """Names of the parts that upscaling uses: its own, and where the studio names none those that serve as them.

        Raises:
            InputError: the studio has no model that upscales.
        """
        self._upscale_part()
        others = (("upscale_text", "video_text", "keyframe_text"), ("upscale_vae", "video_vae"))
        return ("upscale", *(next(name for name in names if getattr(self.config, name)) for names in others))

    @cached_property
    def upscale_text(self) -> TextEncoder:
        """Its text encoder; the video's where the studio names none."""
        part = self.config.upscale_text
        return self.video_text if part is None else self._text("upscale_text", part, None)

    @cached_property
    def upscale_vae(self) -> VideoCodec:
        """Its VAE; the video's where the studio names none."""
        part = self.config.upscale_vae
        return self.video_vae if part is None else self._vae("upscale_vae", part)

    @cached_property
    def recogniser(self) -> Recogniser:
        """Reads what keyframes show. Raises InputError if the studio has none."""
        from ..pocket.recogniser import load_recogniser

        return load_recogniser(self._file(RECOGNISER, self._recogniser_part())).to(self.device)

    def keyframe_check(self, characters: Mapping[str, str]) -> CaptionCheck:
        """Compares keyframes of a film with their captions; its recogniser is proven now and loads on first use.

        Args:
            characters: the film's descriptions by name.

        Raises:
            InputError: the studio has no recogniser, or its file cannot be used.
        """
        from ..pocket.checking import CaptionCheck

        self.check_task(RECOGNISER)
        self.check(RECOGNISER)

        def read(pictures: Tensor) -> Reading:
            return self.recogniser.read(pictures.to(self.device))

        return CaptionCheck(read, characters, self.fingerprint(RECOGNISER))

    def latent_pixel(self) -> tuple[int, int]:
        """(channels, height and width in pixels) of a latent pixel of the video VAE; no weights are loaded.

        Raises:
            InputError: a file that is missing, or no VAE of its kind.
        """
        vae = self._empty_vae("video_vae")
        return vae.latent_channels, vae.spatial_compression

    @property
    def upscale_token(self) -> int:
        """Height and width in pixels of what the model that upscales sees as one; no weights are loaded.

        Raises:
            InputError: as `latent_pixel`.
        """
        vae = self._empty_vae("video_vae" if self.config.upscale_vae is None else "upscale_vae")
        return int(vae.pixels_per_token)

    def _empty_vae(self, field: str) -> Any:
        """A VAE, without weights unless it is loaded already."""
        return vars(self).get(field) or self._vae(field, getattr(self.config, field), empty=True)

    def check_task(self, task: str) -> None:
        """Refuse what this studio's models cannot do, before anything is loaded.

        Args:
            task: `film`, `pairs`: a film of start and end frames; `upscale`; or a suite: `keyframes`, `video` (through
                keyframes), or `storytelling`, which any can do; `recogniser`: a film whose keyframes are checked.

        Raises:
            InputError: no keyframe model or recogniser for what needs one, or a video model that takes text alone.
        """
        kind = self.config.video.kind
        if task in ("film", "video", "pairs") and "video" not in self.backbone.tasks:
            able = kinds_for("video")
            titles = listed([find_backbone(other).title for other in able])
            rule = f"must be {listed(able)} for {task}; {kind} makes video from text alone"
            fix = f"choose a studio with a {titles} video model; `anchorshot tell` is for this one"
            raise InputError("video.kind", rule, kind, fix, self.file.name)
        if task in ("film", "keyframes"):
            self._present("keyframe", self.config.keyframe)
        if task == "pairs":
            self._pair_part(self.config.pair)
        if task == "upscale":
            self._upscale_part()
        if task == RECOGNISER:
            self._recogniser_part()

    def check(self, *parts: str) -> None:
        """Prove that these parts (all by default) would load and fit each other, without loading them.

        Headers, names, shapes, types, configs, tokenizers and LoRAs are looked at; of files up to 256 MiB the values,
        too. Nothing is done twice as long as the files stay as they are.

        Raises:
            InputError: the first fault: a missing file, with where it was looked for, or whatever would stop loading.
        """
        chosen = self._chosen_parts(parts)
        files = [path for field, part in chosen for path in self._paths(field, part)]
        settings = self.config.model_dump_json(exclude={"defaults": True})
        key = (settings, tuple(field for field, _ in chosen), str(self._dtype), files_key(files))
        if key in _PROVEN:
            return
        models: dict[str, Any] = {}
        for field, part in chosen:
            if "loras[" not in field:
                with named(field, self.file.name):
                    models[field] = self._prove(field, part)
        for missing, other in (
            ("image_vae", "video_vae"),
            ("video_text", "keyframe_text"),
            ("pair_vae", "image_vae"),
            ("upscale_vae", "video_vae"),
            ("upscale_text", "video_text"),
        ):
            if getattr(self.config, missing) is None and other in models:
                models[missing] = models[other]  # which serves as it, too
        fit_together(models, self.file.name)
        _PROVEN.add(key)

    def _prove(self, field: str, part: Part) -> Any:
        """The part's empty model, once it is known to load, its LoRAs matched."""
        path, config, dtype = self._file(field, part), self._config(field, part), self._precision(part)
        if isinstance(part, VaePart):
            return self._wrap(part, prove_model(part.kind, path, config, dtype))
        if isinstance(part, TransformerPart):
            kind = self._kind(field)
            model = prove_model(kind, path, config, dtype)
            for i, lora in enumerate(part.loras):
                with named(f"{field}.loras[{i}]", self.file.name):
                    prove_lora(model, kind, self._file(f"{field}.loras[{i}]", lora))
            return model
        if isinstance(part, PairTextPart):
            return self._prove_pair_text(field, part)
        if isinstance(part, TextPart):
            return prove_text(part.kind, path, self._tokenizer(field, part), config, dtype)
        if field == RECOGNISER:
            from ..pocket.recogniser import prove_recogniser

            return prove_recogniser(path)
        if field == "clip":
            from .encoders.clip import ClipScorer

            return ClipScorer.prove(path, self._clip_config(part))
        return ClipTextPooler.prove(path, config, dtype)

    def release(self, *parts: str) -> None:
        """Release loaded models (of all by default) to make room for the next stage's; they load again on use."""
        for part in parts or (*PARTS, *EXTRA):
            check_name(part)
            self.__dict__.pop(part, None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _present(self, field: str, part: Present | None) -> Present:
        """A part that not every studio has."""
        if part is None:
            fix = "choose a studio with a keyframe model; `anchorshot tell` needs none"
            raise InputError(field, "must be set for keyframes", None, fix, self.file.name)
        return part

    def _recogniser_part(self) -> RecogniserPart:
        if self.config.recogniser is None:
            fix = "leave --check out, or choose a studio that has one, such as pocket"
            raise InputError(RECOGNISER, "must be set for keyframes to be checked", None, fix, self.file.name)
        return self.config.recogniser
