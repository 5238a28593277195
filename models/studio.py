"""A studio: the models of one family, loaded when first used.

`load_studio("pocket")` is built in; `flux-wan`, `flux-wan-a14b` and `mochi` name the public checkpoints in ComfyUI's
folders; a path gives one's own. See docs/studios.md.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from ..core.errors import InputError
from ..core.files import file_identity, model_files
from ..story.vocabulary import Vocabulary
from .encoders.text import ClipTextPooler, Pooler, TextEncoder, load_text, prove_text
from .io.checkpoint import read_checkpoint, read_config
from .io.loading import Offload, empty_vae, load_transformer, load_vae, prove_model
from .io.lora import LoraSpec
from .io.proof import files_key, fit_together, named, prove_lora
from .studio_config import (
    DTYPES,
    Defaults,
    Part,
    RecogniserPart,
    StudioConfig,
    TextPart,
    TransformerPart,
    VaePart,
    built_in,
    read_studio,
)
from .studio_files import find_file, model_roots

if TYPE_CHECKING:
    from ..pocket.checking import CaptionCheck
    from ..pocket.recogniser import Reading, Recogniser
    from .backbones.flux.headless import CaptainFlux
    from .backbones.wan.headless import DirectorWan
    from .encoders.clip import ClipScorer
    from .encoders.vae import ImageCodec

__all__ = ["Studio", "StudioConfig", "built_in", "load_studio", "model_roots"]

logger = logging.getLogger(__name__)

Present = TypeVar("Present", bound=Part)

# What was proven good, with the state of its files: films are made one after the other in one process.
_PROVEN: set[tuple[Any, ...]] = set()
RECOGNISER = "recogniser"
"""The part that no film needs: only where its name is given is it proven, counted or fingerprinted."""
PARTS = ("clip", "keyframe_text", "image_vae", "keyframe", "video_text", "video_vae", "video", "video_low")
_TINY = 64 << 20
"""Weights of at most so many bytes make a studio tiny: loaded in a second, and no work for several cores."""


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


class Studio:
    """The models of a studio; each attribute loads its model once, on first use.

    Attributes:
        config: the studio file's content.
        defaults: sampler defaults, `defaults.keyframe` and `defaults.video`.
        device: where the models compute.
        roots: where files are looked for.
    """

    def __init__(
        self,
        config: StudioConfig,
        file: Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
        models_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.config = config
        self.defaults: Defaults = config.defaults
        self.device = torch.device(device)
        self.file = file
        self.roots = model_roots(config, file, models_dir)
        self._dtype = dtype

    def __getstate__(self) -> dict[str, Any]:
        """All but its loaded models: where it is sent to, they load again on use."""
        return {name: value for name, value in vars(self).items() if name not in (*PARTS, RECOGNISER)}

    @property
    def name(self) -> str:
        """The studio's name."""
        return self.config.name

    @cached_property
    def keyframe(self) -> CaptainFlux:
        """The keyframe model (Flux class). Raises InputError if the studio has none."""
        return self._transformer("flux", "keyframe", self._present("keyframe", self.config.keyframe))

    @cached_property
    def video(self) -> Any:
        """The video model: `DirectorWan`, of two experts the high-noise one, or diffusers' MochiTransformer3DModel."""
        return self._transformer(self.config.video.kind, "video", self.config.video)

    @cached_property
    def video_low(self) -> DirectorWan | None:
        """The low-noise expert of Wan 2.2 A14B, or None; `defaults.video.boundary` says where it takes over."""
        low = self.config.video.low
        return None if low is None else self._transformer("wan", "video.low", low)

    @cached_property
    def image_vae(self) -> ImageCodec:
        """The keyframes' VAE; the video VAE where the studio names none."""
        part = self.config.image_vae
        return self.video_vae if part is None else self._vae("image_vae", part)

    @cached_property
    def video_vae(self) -> Any:
        """The video's VAE: `VideoVAE` for Wan, `MochiVAE` for Mochi."""
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

    def words(self, part: str = "keyframe_text") -> Vocabulary:
        """What a text encoder of the studio was taught, `keyframe_text` or `video_text`; empty if it reads any word.

        Only the file's header is read.

        Raises:
            InputError: the file is missing or cannot be read.
        """
        name = part if getattr(self.config, part) is not None else "keyframe_text"
        own = getattr(self.config, name)
        return Vocabulary() if own is None else Vocabulary.read(read_checkpoint(self._file(name, own)).metadata)

    def latent_cell(self) -> tuple[int, int]:
        """(channels, height and width in pixels) of a cell of the video VAE's latents; no weights are loaded.

        Raises:
            InputError: a file that is missing, or no VAE of its kind.
        """
        vae = vars(self).get("video_vae") or self._vae("video_vae", self.config.video_vae, empty=True)
        return vae.latent_channels, vae.image_size_multiple

    def check_task(self, task: str) -> None:
        """Refuse what this studio's models cannot do, before anything is loaded.

        Args:
            task: `film`, or a suite: `keyframes`, `video` (through keyframes), or `storytelling`, which any can do;
                `recogniser`: a film whose keyframes are checked.

        Raises:
            InputError: no keyframe model or recogniser for what needs one, or a video model that takes text alone.
        """
        kind = self.config.video.kind
        if task in ("film", "video") and kind != "wan":
            rule = f"must be wan for {task}; {kind} makes video from text alone"
            fix = "choose a studio with a Wan video model; `anchorshot tell` is for this one"
            raise InputError("video.kind", rule, kind, fix, self.file.name)
        if task in ("film", "keyframes"):
            self._present("keyframe", self.config.keyframe)
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
        for missing, other in (("image_vae", "video_vae"), ("video_text", "keyframe_text")):
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
            kind = getattr(part, "kind", "flux" if field == "keyframe" else "wan")
            model = prove_model(kind, path, config, dtype)
            for i, lora in enumerate(part.loras):
                with named(f"{field}.loras[{i}]", self.file.name):
                    prove_lora(model, kind, self._file(f"{field}.loras[{i}]", lora))
            return model
        if isinstance(part, TextPart):
            return prove_text(part.kind, path, self._tokenizer(field, part), config, dtype)
        if field == RECOGNISER:
            from ..pocket.recogniser import prove_recogniser

            return prove_recogniser(path)
        if field == "clip":
            from .encoders.clip import ClipScorer

            return ClipScorer.prove(path, self._clip_config(part))
        return ClipTextPooler.prove(path, config, dtype)

    def files(self, *parts: str) -> list[Path]:
        """All files of these parts (of all by default), those in folders included.

        Raises:
            InputError: one is missing.
        """
        paths = [path for field, part in self._chosen_parts(parts) for path in self._paths(field, part)]
        return [file for path in dict.fromkeys(paths) for file in model_files(path)]

    def is_tiny(self, *parts: str) -> bool:
        """Whether the files of these parts (of all by default) are small together, like the pocket studio's.

        Raises:
            InputError: one is missing.
        """
        return sum(file.stat().st_size for file in self.files(*parts)) <= _TINY

    def release(self, *parts: str) -> None:
        """Let go of loaded models (of all by default) to make room for the next stage's; they load again on use."""
        for part in parts or (*PARTS, RECOGNISER):
            _check_name(part)
            self.__dict__.pop(part, None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def fingerprint(self, *parts: str) -> str:
        """What results depend on apart from the machine: settings, precision and files; 64 hex digits.

        Files up to 64 MiB count with their content; larger ones with size, time of change and first megabyte, because
        reading tens of gigabytes at every start is too slow.

        Args:
            parts: only these count, with none of the sampler defaults: for work that needs no others. All by default.

        Raises:
            InputError: no such part, or a file of one is missing.
        """
        digest = hashlib.sha256(self._settings(*parts).encode())
        digest.update(str(self._dtype).encode())
        for field, part in self._chosen_parts(parts):
            for path in self._paths(field, part):
                for file in model_files(path):
                    digest.update(f"|{field}|{file.name}|{file_identity(file)}".encode())
        return digest.hexdigest()

    def _settings(self, *parts: str) -> str:
        without: dict[str, Any] = {"models_dir": True, "description": True, "made_for": True}
        if RECOGNISER not in parts:
            without[RECOGNISER] = True
        if self.config.video.kind == "wan":  # a younger field: films made before it was there stay resumable
            without["video"] = {"kind"}
        without["defaults"] = {"keyframe": self.config.defaults.keyframe.unset}
        for field in ("image_vae", "video_vae"):
            if (vae := getattr(self.config, field)) is not None:
                without[field] = vae.unset
        only = {field.partition(".")[0] for field, _ in self._chosen_parts(parts)} | {"dtype"}
        return self.config.model_dump_json(include=only if parts else None, exclude=without)

    def _chosen_parts(self, names: Sequence[str]) -> list[tuple[str, Part]]:
        """What belongs to these parts, all where none is named."""
        for name in names:
            _check_name(name)
        return [
            (field, part)
            for field, part in self._named_parts()
            if (not names and field != RECOGNISER) or field.split(".")[0] in names or field.replace(".", "_") in names
        ]

    def _named_parts(self) -> list[tuple[str, Part]]:
        c = self.config
        named: list[tuple[str, Part | None]] = [
            ("clip", c.clip),
            ("keyframe_text", c.keyframe_text),
            ("keyframe_text.clip_text", c.keyframe_text and c.keyframe_text.clip_text),
            ("image_vae", c.image_vae),
            ("keyframe", c.keyframe),
            ("video_text", c.video_text),
            ("video_vae", c.video_vae),
            ("video", c.video),
            ("video.low", c.video.low),
            (RECOGNISER, c.recogniser),
        ]
        found = [(field, part) for field, part in named if part is not None]
        for field, part in list(found):
            if isinstance(part, TransformerPart):
                found += [(f"{field}.loras[{i}]", Part(file=lora.file)) for i, lora in enumerate(part.loras)]
        return found

    def _paths(self, field: str, part: Part) -> list[Path]:
        """All files and folders that a part names."""
        paths = [self._file(field, part)]
        if part.config is not None and (field != "clip" or part.config.endswith(".json")):
            paths += [p for p in [self._config(field, part)] if p]
        if isinstance(part, TextPart) and part.tokenizer is not None:
            paths.append(self._find(f"{field}.tokenizer", part.tokenizer))
        return paths

    def _transformer(self, kind: str, field: str, part: TransformerPart) -> Any:
        path = self._file(field, part)
        logger.info("loading %s from %s", field, path)
        loras = [LoraSpec(self._file(f"{field}.loras[{i}]", lora), lora.strength) for i, lora in enumerate(part.loras)]
        offload = None
        if part.offload != "none" and (self.device.type != "cpu" or part.offload_folder):
            offload = Offload(part.offload, folder=part.offload_folder)
        return load_transformer(
            kind,
            path,
            self._config(field, part),
            dtype=self._precision(part),
            device=self.device,
            fp8=part.fp8,
            offload=offload,
            loras=loras,
            compile=part.compile,
        )

    def _vae(self, field: str, part: VaePart, empty: bool = False) -> Any:
        path, config = self._file(field, part), self._config(field, part)
        if empty:
            return self._wrap(part, empty_vae(part.kind, path, config))
        return self._wrap(part, load_vae(part.kind, path, config, dtype=self._precision(part), device=self.device))

    def _wrap(self, part: VaePart, model: Any) -> Any:
        from .backbones.mochi.vae import MochiVAE
        from .encoders.vae import ImageVAE, VideoVAE
        from .encoders.vae_tiling import Tiling

        wrap: dict[str, Any] = {"flux_vae": ImageVAE, "wan_vae": VideoVAE, "mochi_vae": MochiVAE}
        return wrap[part.kind](model, tiling=Tiling(part.tiling, part.tile))

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

    def _precision(self, part: Part) -> torch.dtype:
        return self._dtype or DTYPES[part.dtype or self.config.dtype]

    def _config(self, field: str, part: Part) -> Path | None:
        return None if part.config is None else self._find(f"{field}.config", [part.config])

    def _tokenizer(self, field: str, part: TextPart) -> Path | None:
        return None if part.tokenizer is None else self._find(f"{field}.tokenizer", part.tokenizer)

    def _clip_config(self, part: Part) -> Any:
        """CLIP's config: a JSON file's, or the name of an architecture."""
        if part.config is None or not part.config.endswith(".json"):
            return part.config
        return read_config(self._config("clip", part))

    def _file(self, field: str, part: Any) -> Path:
        return self._find(f"{field}.file", part.file)

    def _find(self, field: str, names: list[str]) -> Path:
        return find_file(field, names, self.roots, self.file)


def _check_name(part: str) -> None:
    if part not in (*PARTS, RECOGNISER):
        known = ", ".join((*PARTS, RECOGNISER))
        raise InputError("part", f"must be one of {known}", part, "name a part of the studio")
