"""A recipe file from its models to its LoRA file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors import safe_open
from torch import Tensor

from ...core.errors import InputError
from ...models.io.checkpoint import read_checkpoint
from ...models.io.lora import LoraSpec
from ...models.io.lora_names import of_text
from ...models.studio import Studio
from ...models.studio_defaults import PairDefaults
from ..lora import add_lora, merge_lora, write_lora
from ..recipe_run import begin, folder_of, studio_of
from .cache import CacheSettings, PairCache, Ranker, encode_movies
from .draws import PairDraws
from .flow import PairLearner
from .recipe_file import RecipeFile, read_recipe
from .recipes import PairRecipe
from .records import held_out, read_records

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
    """Train what a recipe file says; the LoRA file lies in ``weights/`` of `out`, renewed at every checkpoint.

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
        InputError: see `check`; a studio without a pair model; a data set that cannot be read; see `loop.train`.
    """
    run = begin(path, read_recipe, out, resume, device, steps, threads)
    recipe, processes = run.recipe, run.processes
    studio = _studio(recipe, path, processes.device)
    pair = recipe.pairs(studio.defaults.pair, path.name)
    cache = _cache(recipe, path, studio, processes)
    away = held_out(list(cache.records), recipe.data.hold_out)
    data = PairDraws(
        cache,
        [movie for movie in cache.records if movie not in away],
        pair.pack,
        pair.rank_by,
        pair.told,
        recipe.training.batch,
        recipe.training.seed,
        recipe.draws,
        recipe.data.min_distance if recipe.stage == "dpo" else None,
    )
    processes.print(f"{len(data)} shots, {data.left_out} left out, {len(away)} movies held out", flush=True)
    job = _StudioRecipe(recipe, path, studio, pair, data, run.weights)
    run.train(job, recipe.training.loop, shard)


class _StudioRecipe(PairRecipe):
    """A recipe file with the models of its studio; writes a LoRA file with every checkpoint."""

    def __init__(
        self, recipe: RecipeFile, path: Path, studio: Studio, pair: PairDefaults, data: PairDraws, weights: Path | None
    ) -> None:
        super().__init__(recipe.name, data, self._learner, pair.layout, recipe.levels, recipe.preferred)
        self.recipe, self.path, self.studio, self.pair, self.weights = recipe, path, studio, pair, weights

    def _learner(self) -> PairLearner:
        recipe, studio = self.recipe, self.studio
        transformer: Any = studio.pair
        encoder = studio.pair_text
        studio.release("pair", "pair_text")  # what is trained is no longer the studio's
        kinds = _kinds(studio)
        for model, kind, rank in (
            (transformer, kinds["transformer"], recipe.lora.rank),
            (encoder.model, kinds["text"], recipe.lora.text_rank),
        ):
            merge_lora(model, kind, _start(recipe, self.path, kind == kinds["text"]))
            model.requires_grad_(False)
            if rank:
                add_lora(model, kind, rank, recipe.training.seed)
        if self.pair.system_prompt is not None:
            encoder.prompting = replace(encoder.prompting, system_prompt=self.pair.system_prompt)
        if self.pair.drop_tokens is not None:
            encoder.prompting = replace(encoder.prompting, drop_tokens=self.pair.drop_tokens)
        learner = PairLearner(transformer, encoder, recipe.training.checkpointing)
        self.dtype = learner.dtype
        return learner

    def saved(self, checkpoint: Path, step: int) -> None:
        if self.weights is None:
            return
        kinds = _kinds(self.studio)
        states: dict[str, dict[str, Tensor]] = {kinds["transformer"]: {}, kinds["text"]: {}}
        with safe_open(checkpoint, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                for prefix in ("transformer", "text"):
                    if key.startswith(f"ema.{prefix}."):
                        states[kinds[prefix]][key.removeprefix(f"ema.{prefix}.")] = file.get_tensor(key)
        metadata = {"recipe": self.name, "stage": self.recipe.stage, "steps": str(step)}
        write_lora(self.weights / f"{self.name}.safetensors", states, metadata, self.dtype)


def _kinds(studio: Studio) -> dict[str, str]:
    pair, text = studio.config.pair, studio.config.pair_text
    assert pair is not None and text is not None
    return {"transformer": pair.kind, "text": text.kind}


def _studio(recipe: RecipeFile, path: Path, device: torch.device) -> Studio:
    """The studio with its pair model as it can be trained: what saves memory in films would be in the way."""
    config, file = studio_of(path, recipe.studio)
    pair, text = config.pair, config.pair_text
    if pair is None or text is None:
        fix = "name a studio that has one, such as qwen-wan"
        raise InputError("studio", "must have a pair model", recipe.studio, fix, path.name)
    whole: dict[str, Any] = {"fp8": False, "offload": "none"}
    parts = {
        "pair": pair.model_copy(update={**whole, "offload_folder": None, "compile": False}),
        "pair_text": text.model_copy(update=whole),
    }
    return Studio(config.model_copy(update=parts), file, device=device)


def _cache(recipe: RecipeFile, path: Path, studio: Studio, processes: PartialState) -> PairCache:
    movies = read_records(path.parent / recipe.data.file)
    prompting, eyes = studio.pair_text.prompting, studio.pair_text.model.config.vision_config
    vae = next(name for name in ("pair_vae", "image_vae", "video_vae") if getattr(studio.config, name) is not None)
    settings = CacheSettings(
        tuple(recipe.data.sizes),
        recipe.data.inner,
        recipe.data.inset,
        prompting.picture_area,
        eyes.patch_size * eyes.spatial_merge_size,
        studio.fingerprint(vae, "clip"),
    )

    def models() -> tuple[Any, Ranker]:
        return studio.pair_vae, Ranker(studio.clip.embed_images, studio.clip.embed_query)

    main = processes.is_main_process
    with processes.main_process_first():
        cache = encode_movies(movies, path.parent / recipe.data.cache, settings, models, write=main)
    studio.release("pair_vae", "image_vae", "clip")
    return cache


def _start(recipe: RecipeFile, path: Path, text: bool) -> list[LoraSpec]:
    """The files to begin with that hold a half for the text encoder, or for the transformer."""
    found = []
    for name in recipe.lora.start:
        file = path.parent / name
        if any(of_text(key) is text for key in read_checkpoint(file, "lora.start").state):
            found.append(LoraSpec(file, both=True))
    return found
