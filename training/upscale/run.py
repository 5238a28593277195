"""A recipe file of super-resolution from its models to their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...core.errors import InputError
from ...core.files import atomic_path
from ...models.io import keymaps
from ...models.layouts.chunks import pad_text
from ...models.layouts.upscale import upscale_latents
from ...models.studio import Studio
from ..lora import add_lora, write_lora
from ..objectives import FlowInputs, FlowMatching
from ..processes import Share
from ..recipe import Recipe
from ..recipe_run import begin, folder_of, studio_of
from .bridge import bridge_inputs, predict, share_rows
from .clips import ClipBatch, ClipDraws, find_videos
from .recipe_file import UpscaleRecipeFile, read_recipe

__all__ = ["check", "run"]


def check(path: Path, out: Path | None = None, resume: bool = False) -> Path:
    """The folder that a run would write to.

    Raises:
        InputError: a faulty recipe, or checkpoints in the way without `resume`.
    """
    return folder_of(path, read_recipe, out, resume)


def run(
    path: Path,
    out: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    steps: int | None = None,
    shard: bool = False,
    threads: int | None = None,
) -> None:
    """Train what a recipe file says; weights or a LoRA file lie in ``weights/`` of `out`, renewed at every checkpoint.

    In several processes each calls this; the main one writes.

    Args:
        path: the recipe.
        out: folder for checkpoint, log, loss curve and weights; default ``runs/<name>``.
        resume: go on from the checkpoint in `out`; otherwise there must be none.
        device: ``auto`` lets accelerate choose, ``cpu`` stays on the CPU.
        steps: train only so many, as a trial: no weights are written.
        shard: share the weights out among the processes (FSDP2).
        threads: CPU threads of each process; None leaves them as they are.

    Raises:
        InputError: see `check`; a studio without a model that upscales; videos that cannot be read; see `loop.train`.
    """
    run = begin(path, read_recipe, out, resume, device, steps, threads)
    recipe, processes = run.recipe, run.processes
    studio = _studio(recipe, path, processes.device)
    run.folder.mkdir(parents=True, exist_ok=True)
    with processes.main_process_first():
        index = run.folder / "videos.json" if processes.is_main_process else None
        videos = find_videos(path.parent / recipe.data.folder, recipe.data.frames, recipe.data.hold_out, index)
    job = _StudioRecipe(recipe, studio, run.weights)
    job.data = _draws(recipe, studio, videos)
    processes.print(f"{len(videos)} videos", flush=True)
    run.train(job, recipe.training.loop, shard)


def _draws(recipe: UpscaleRecipeFile, studio: Studio, videos: Any) -> ClipDraws:
    """Clips in sizes that the studio's models can take.

    Raises:
        InputError: a size that is not whole tokens.
    """
    width, height = recipe.data.size
    compression, patch = studio.upscale_vae.spatial_compression, tuple(studio.upscale.config.patch_size[1:])
    unit = (compression * patch[0], compression * patch[1])
    if height % unit[0] or width % unit[1]:
        fix = f"use e.g. [{max(1, width // unit[1]) * unit[1]}, {max(1, height // unit[0]) * unit[0]}]"
        raise InputError("data.size", f"must divide by {unit[1]}x{unit[0]}", [width, height], fix)
    data, chances = recipe.data, recipe.chances
    return ClipDraws(
        videos, (height, width), data.frames, data.scales, recipe.training.batch, recipe.training.seed, data.keyframes,
        chances.keyframes, chances.start, data.captions, recipe.degradations.drawn, compression, patch,
    )  # fmt: skip


class _StudioRecipe(Recipe[ClipBatch, FlowInputs]):
    """A recipe file with the models of its studio; writes weights with every checkpoint."""

    data: ClipDraws
    objective = FlowMatching(predict)
    units = ("DirectorWanBlock",)

    def __init__(self, recipe: UpscaleRecipeFile, studio: Studio, weights: Path | None) -> None:
        self.name, self.recipe, self.studio, self.weights = recipe.name, recipe, studio, weights
        self.keeps_frozen = not recipe.lora.rank

    def build(self) -> torch.nn.Module:
        model: Any = self.studio.upscale
        self.studio.release("upscale")  # what is trained is no longer the studio's
        self.dtype: torch.dtype = model.dtype
        self.config = json.dumps({key: value for key, value in model.config.items() if not key.startswith("_")})
        if self.recipe.lora.rank:
            add_lora(model, self._kind, self.recipe.lora.rank, self.recipe.training.seed)
        else:
            model.float().requires_grad_(True)
        if self.recipe.training.checkpointing:
            model.enable_gradient_checkpointing()
        return model

    @property
    def _kind(self) -> str:
        part = self.studio.config.upscale
        assert part is not None
        return part.kind

    @torch.no_grad()
    def inputs(self, batch: ClipBatch, step: int) -> FlowInputs:
        """Both clips through the VAE, chunk by chunk; the small one's latents in the large size."""
        vae, settings = self.studio.upscale_vae, self.studio.defaults.upscale
        chunks = batch.plan.video.chunks
        high, low = (vae.encode_chunks(clip.float() / 255, chunks) for clip in (batch.high, batch.low))
        low = upscale_latents(low, (high.shape[-2], high.shape[-1]), settings.interpolation, batch.scale)
        text = self.studio.upscale_text.encode(batch.captions)
        tokens = pad_text(text.tokens, text.mask, settings.text_length).to(high)
        times = batch.times.to(high.device)
        return bridge_inputs(high, low, tokens, batch.plan.video.latent_chunks, batch.pinned, times)

    def share(self, inputs: FlowInputs, share: Share) -> FlowInputs:
        return share_rows(inputs, share)

    def saved(self, checkpoint: Path, step: int) -> None:
        if self.weights is None:
            return
        tensors = load_file(checkpoint)
        state = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
        state |= {key.removeprefix("ema."): value for key, value in tensors.items() if key.startswith("ema.")}
        metadata = {"recipe": self.name, "stage": self.recipe.stage, "steps": str(step)}
        target = self.weights / f"{self.name}.safetensors"
        if self.recipe.lora.rank:
            write_lora(target, {self._kind: state}, metadata, self.dtype)
            return
        public: dict[str, Tensor] = keymaps.to_public(self._kind, state)
        public = {key: value.to(self.dtype).contiguous() for key, value in public.items()}
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            save_file(public, temporary, metadata={"format": "pt", "config": self.config, **metadata})


def _studio(recipe: UpscaleRecipeFile, path: Path, device: torch.device) -> Studio:
    """The studio with its model as it can be trained: what saves memory in films would be in the way."""
    config, file = studio_of(path, recipe.studio)
    if config.upscale is None:
        fix = "name a studio that has one, such as qwen-wan"
        raise InputError("studio", "must have a model that upscales", recipe.studio, fix, path.name)
    whole: dict[str, Any] = {"fp8": False, "offload": "none", "offload_folder": None, "compile": False}
    part = config.upscale.model_copy(update=whole)
    return Studio(config.model_copy(update={"upscale": part}), file, device=device)
