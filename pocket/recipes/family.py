"""The pocket family's recipes by name: each trains its model and puts it in the family of its run.

Order of dependence: ``vae``, ``clip`` and ``text`` → ``keyframes`` (which trains the text encoder on) and ``video``;
``keyframes`` → ``pair_text`` → ``pairs`` → ``pair_dpo``; ``vae`` → ``upscale_vae``, and with ``video`` → ``upscale`` →
``upscale_pixels``;
``recogniser`` stands alone. ``pocket`` runs all of them. A later recipe takes what it needs from the weights that the
earlier ones wrote.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import cast

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from ...core.errors import InputError
from ...core.files import atomic_path
from ...models.encoders.qwen_vl import load_qwen_vl
from ...models.encoders.vae import VideoCodec
from ...models.io.loading import load_transformer
from ...models.studio import Studio, load_studio
from ...training.checkpoint import check_folder
from ...training.loop import LoopConfig, Recipe, train
from ..dataset import encode_stories
from ..recogniser import load_recogniser
from ..world import DATA_VERSION
from . import export
from .clip import ClipRecipe
from .imperfect import remade
from .keyframes import STAGES, WARM_STAGES, KeyframeRecipe
from .pair_data import PairData, pair_data
from .pair_dpo import PreferenceDraws, PreferenceRecipe
from .pair_start import from_keyframe_model, mean_power
from .pair_text import PairReadingRecipe
from .pairs import PairRecipe
from .recogniser import RecogniserRecipe, held_out_accuracy
from .story_frames import StoryFrames
from .text import ReadingRecipe, Teacher, grown
from .upscale_run import train_upscale, train_upscale_pixels, train_upscale_vae
from .vae import VaeRecipe, fast_stills, reconstruction_psnr
from .video import VideoRecipe, encode_clips

SEED = 0
#: how long processes wait while the main one draws and encodes data
_PATIENCE = timedelta(hours=6)
SHOTS = 14


@dataclass(frozen=True)
class Scale:
    """How much one kind of device takes.

    Attributes:
        batch_multiplier, vae_multiplier: batch size as a multiple of that of the recipes, which fit two CPU cores.
        stories, copies, clips, bank: data to draw: stories for the keyframes, some of them also as the studio draws
            them; clips of each layout for the video, pictures for the VAE (and a quarter of that in clips), stories for
            the pairs; clips of each layout for super-resolution.
    """

    batch_multiplier: int = 1
    vae_multiplier: int = 1
    stories: int = 900
    copies: int = 200
    clips: int = 400
    bank: int = 2400
    pairs: int = 1500
    upscaled: int = 400


SCALES = {
    "cpu": Scale(),
    "cuda": Scale(
        batch_multiplier=6,
        vae_multiplier=16,
        stories=2500,
        copies=600,
        clips=800,
        bank=12_000,
        pairs=2500,
        upscaled=1600,
    ),
}

CONFIGS = {
    "vae_pictures": LoopConfig(3300, lr=3e-3, muon_lr=0.02, warmup=50, ema=0.99, weight_decay=0.0, save_every=100),
    "vae_clips": LoopConfig(1700, lr=1e-3, muon_lr=0.006, warmup=30, ema=0.99, weight_decay=0.0, save_every=50),
    "vae_decoder": LoopConfig(1500, lr=1e-3, muon_lr=0.008, warmup=30, ema=0.995, weight_decay=0.0, save_every=50),
    "clip": LoopConfig(2700, lr=1e-3, muon_lr=0.01, warmup=40, ema=0.99, save_every=200, precision="no"),
    "text": LoopConfig(1600, lr=3e-3, muon_lr=0.01, warmup=20, ema=0.98, save_every=200, precision="no"),
    "recogniser": LoopConfig(steps=1000, lr=2e-3, warmup=50, ema=0.99, save_every=200),
    "keyframes": LoopConfig(sum(s.steps for s in STAGES), lr=1e-3, muon_lr=0.01, final_lr=0.03),
    "pair_text": LoopConfig(1000, lr=3e-3, muon_lr=0.01, warmup=20, ema=0.98, save_every=200),
    "pairs": LoopConfig(8600, lr=6e-4, muon_lr=6e-3, warmup=30, ema=0.998, final_lr=0.03, save_every=100),
    "pairs_memory": LoopConfig(10_000, lr=5e-4, muon_lr=5e-3, warmup=30, ema=0.998, final_lr=0.03, save_every=100),
    "pair_dpo": LoopConfig(120, lr=2e-4, warmup=10, ema=0.98, save_every=50, final_lr=0.1, precision="no"),
    "video": LoopConfig(11_000, lr=1e-3, muon_lr=0.01, warmup=50, ema=0.995, final_lr=0.03),
    "upscale_vae": LoopConfig(3000, lr=6e-4, muon_lr=5e-3, warmup=30, ema=0.99, weight_decay=0.0, save_every=50),
    "upscale": LoopConfig(13_000, lr=1e-3, muon_lr=0.005, warmup=30, ema=0.995, weight_decay=0.0, save_every=100),
    "upscale_pixels": LoopConfig(6000, lr=3e-4, muon_lr=3e-3, warmup=20, ema=0.99, weight_decay=0.0, save_every=100),
}

#: going on from shipped weights (``--warm``)
WARM_CONFIGS = {
    "text": LoopConfig(1600, lr=2e-3, muon_lr=0.006, warmup=30, ema=0.99, weight_decay=0.0, precision="no"),
    "text_video": LoopConfig(2400, lr=2e-3, muon_lr=0.006, warmup=30, ema=0.99, weight_decay=0.0, precision="no"),
    "clip": LoopConfig(1200, lr=6e-4, muon_lr=0.006, warmup=40, ema=0.99, save_every=200, precision="no"),
    "keyframes": LoopConfig(1500, lr=3e-4, muon_lr=3e-3, warmup=40, ema=0.995, save_every=100),
    "video": LoopConfig(800, lr=2e-4, muon_lr=2e-3, warmup=40, ema=0.995, final_lr=0.05, save_every=100),
}


def check(recipe: str, out: Path | None = None, resume: bool = False) -> Path:
    """The folder that a run would write to.

    Raises:
        InputError: unknown recipe, the package's own folder, or checkpoints in the way without `resume`.
    """
    if recipe not in RECIPES:
        fix = "choose one of them, or give a recipe's YAML file"
        raise InputError("RECIPE", f"must be one of {', '.join(RECIPES)}", recipe, fix)
    folder = out or Path("runs") / recipe
    if folder.resolve() == export.WEIGHTS.parent:
        raise InputError(
            "--out", "must not be where the package keeps its weights", str(folder), "choose another folder"
        )
    check_folder(folder, resume)
    return folder


def run(
    recipe: str,
    out: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    steps: int | None = None,
    warm: bool = False,
    shard: bool = False,
    threads: int | None = None,
) -> None:
    """Train one recipe (or ``pocket``: all) and write its weight file to ``weights/`` in `out`.

    In several processes each calls this; the main one writes.

    Args:
        recipe: a name of `RECIPES`.
        out: folder for checkpoints, logs, loss curves and the family that comes of it; default ``runs/<recipe>``.
        resume: go on from the checkpoints in `out`; otherwise they must not exist.
        device: ``auto`` lets accelerate choose, ``cpu`` stays on the CPU.
        steps: train only this many steps per model (for trials: nothing is exported).
        warm: start `text`, `clip`, `keyframes` and `video` from the shipped weights instead of from nothing.
        shard: share the weights out among the processes (FSDP2).
        threads: CPU threads of each process; None leaves them as they are.

    Raises:
        InputError: see `check`; or `shard` with one process.
    """
    main = os.environ.get("RANK", "0") == "0"
    folder = check(recipe, out, resume or not main)  # the others may come when the main process has begun to write
    processes = PartialState(cpu=device == "cpu", timeout=_PATIENCE)
    if main and steps is None:
        export.start_family(folder)
    processes.wait_for_everyone()
    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    settings = _Run(folder, processes, steps, warm, shard)
    for name in MODELS if recipe == "pocket" else (recipe,):
        MODELS[name](folder, settings)
        processes.wait_for_everyone()  # the next recipe reads what the main process wrote


class _Run:
    """Settings shared by the recipes of one call."""

    def __init__(self, folder: Path, processes: PartialState, steps: int | None, warm: bool, shard: bool) -> None:
        self.folder, self.processes, self.steps, self.warm, self.shard = folder, processes, steps, warm, shard
        self.device = processes.device
        self.scale = SCALES.get(self.device.type, Scale())
        self.weights = folder / "weights"

    def studio(self) -> Studio:
        """The family so far."""
        with self.processes.main_process_first():
            return load_studio(export.start_family(self.folder), device=self.device)

    @property
    def exports(self) -> bool:
        """Whether this process writes weight files: not in a short trial, and only one process does."""
        return self.steps is None and self.processes.is_main_process

    def config(self, name: str) -> LoopConfig:
        """How the recipe `name` runs in this call."""
        return (WARM_CONFIGS if self.warm and name in WARM_CONFIGS else CONFIGS)[name]

    def train(self, recipe: Recipe) -> dict[str, torch.Tensor]:
        """Train and return the averaged weights."""
        config = replace(self.config(recipe.name), shard=self.shard)
        if self.steps is not None:
            config = replace(config, steps=min(self.steps, config.steps), warmup=min(5, config.warmup), log_every=5)
        train(recipe, config, self.folder, cpu=self.device.type == "cpu")
        return export.checkpoint_weights(self.folder / f"{recipe.name}.safetensors")


def _kept(run: _Run, weights: dict[str, torch.Tensor]) -> Path:
    """Weights as a file for the next stage to start from."""
    path = run.folder / "vae_start.safetensors"
    run.processes.wait_for_everyone()  # the last stage may still start from it
    if run.processes.is_main_process:
        with atomic_path(path) as temporary:
            save_file(weights, temporary)
    run.processes.wait_for_everyone()
    return path


def _vae(folder: Path, run: _Run) -> None:
    if run.device.type == "cpu":
        fast_stills()
    batch, bank = run.scale.vae_multiplier, run.scale.bank
    weights = run.train(VaeRecipe("pictures", pictures=8 * batch, bank=bank))
    start = _kept(run, weights)
    weights = run.train(VaeRecipe("clips", pictures=2 * batch, clips=2 * batch, bank=bank, start=start))
    start = _kept(run, weights)
    weights = run.train(VaeRecipe("decoder", pictures=batch, clips=2 * batch, bank=bank, start=start))
    if not run.exports:
        return
    model = VaeRecipe("pictures").build()
    model.load_state_dict(weights)
    model.to(run.device).eval()
    data = encode_stories(model, 64, SHOTS)  # the pictures' statistics make the latents unit scale
    export.export_vae(
        run.weights, weights, data.mean.tolist(), data.std.tolist(), SEED, {"psnr": reconstruction_psnr(model)}
    )


def _clip(folder: Path, run: _Run) -> None:
    start = run.studio().clip.model.state_dict() if run.warm else None
    recipe = ClipRecipe(SEED, start=start)
    weights = export.part(run.train(recipe), "clip.")
    if run.exports:
        export.export_clip(run.weights, weights, SEED, {"retrieval": recipe.held_out(weights)})


def _recogniser(folder: Path, run: _Run) -> None:
    recipe = RecogniserRecipe(SEED)
    weights = run.train(recipe)
    if not run.exports:
        return
    path = export.export_recogniser(run.weights, weights, recipe.width, SEED, {})
    accuracy = held_out_accuracy(load_recogniser(path))
    export.export_recogniser(run.weights, weights, recipe.width, SEED, {"accuracy": accuracy})


def story_frames(studio: Studio, folder: Path, stories: int, copies: int = 0) -> StoryFrames:
    """The keyframe recipe's data: stories through the family's VAE, and `copies` of them as the family draws them; kept
    in `folder`.
    """
    vae, data_name = studio.video_vae, f"{DATA_VERSION}_{stories}x{SHOTS}"  # another set is another file
    cache = folder / f"stories_{data_name}.safetensors"
    data = encode_stories(vae.model, stories, SHOTS, cache=cache, codec=vae, max_places=4)
    made = remade(studio, data, min(copies, stories), folder / f"copies_{data_name}.safetensors") if copies else None
    return StoryFrames(data, studio.clip.pooled, folder / f"captions_{data_name}.safetensors", copies=made)


def _text(folder: Path, run: _Run) -> None:
    if run.warm:
        _texts_from_teachers(run)
        return
    weights = run.train(ReadingRecipe(SEED))
    if run.exports:
        # the keyframe model trains its own copy on; the video model keeps this one
        for name in ("t5", "t5_video"):
            export.export_t5(run.weights, export.part(weights, "t5."), SEED, {"steps": CONFIGS["text"].steps}, name)


def _texts_from_teachers(run: _Run) -> None:
    """Both encoders learn more words from what they were: the models that listen to them need not learn again."""
    studio = run.studio()
    assert studio.video_text is not None
    for recipe_name, name, encoder in (
        ("text", "t5", studio.keyframe_text),
        ("text_video", "t5_video", studio.video_text),
    ):
        tokenizer = export.tokenizer_of(run.weights / f"{name}.safetensors")
        state = {key: value.cpu().float() for key, value in encoder.model.state_dict().items()}
        teacher = Teacher(encoder.model.cpu().float(), tokenizer)
        recipe = ReadingRecipe(SEED, start=grown(state, tokenizer), teacher=teacher, batch_size=48)
        recipe.name = recipe_name
        weights = run.train(recipe)
        if run.exports:
            steps = {"steps": WARM_CONFIGS[recipe_name].steps}
            export.export_t5(run.weights, export.part(weights, "t5."), SEED, steps, name)


def _keyframes(folder: Path, run: _Run) -> None:
    studio = run.studio()
    parts = {"t5.": studio.keyframe_text.model.state_dict()}
    if run.warm:
        parts["flux."] = cast(nn.Module, studio.keyframe).state_dict()
    start = {k: v.cpu() for k, v in export.joined(parts).items()}
    with run.processes.main_process_first():  # the others read what it has drawn and kept
        frames = story_frames(studio, folder, run.scale.stories, run.scale.copies if run.warm else 0)
        frames.captions  # noqa: B018 (kept, too)
    stages = WARM_STAGES if run.warm else STAGES
    recipe = KeyframeRecipe(frames, seed=SEED, batch_multiplier=run.scale.batch_multiplier, start=start, stages=stages)
    weights = run.train(recipe)
    if run.exports:
        steps = {"steps": run.config("keyframes").steps}
        export.export_keyframe(run.weights, export.part(weights, "flux."), SEED, steps)
        export.export_t5(run.weights, export.part(weights, "t5."), SEED, steps)


def _video(folder: Path, run: _Run) -> None:
    studio = run.studio()
    vae: VideoCodec = studio.video_vae
    with run.processes.main_process_first():
        clips = encode_clips(vae, run.scale.clips, cache=folder / "clips.safetensors")
    # Wan reads a caption's padding too, so training and studio pad alike
    length = studio.defaults.video.text_length
    assert length is not None

    def encode_text(texts):
        cond = studio.video_text.encode(list(texts))
        missing = length - cond.tokens.shape[1]
        return functional.pad(cond.tokens, (0, 0, 0, missing)), functional.pad(cond.mask, (0, missing))

    start = {k: v.cpu() for k, v in cast(nn.Module, studio.video).state_dict().items()} if run.warm else None
    weights = run.train(VideoRecipe(clips, encode_text, SEED, batch_size=16 * run.scale.batch_multiplier, start=start))
    if run.exports:
        export.export_video(run.weights, weights, SEED, {"steps": run.config("video").steps})


def _pair_data(folder: Path, run: _Run) -> PairData:
    """The stories of the pair recipes; the main process draws them and keeps them in `folder`."""
    studio = run.studio()
    with run.processes.main_process_first():
        return pair_data(run.scale.pairs, studio.video_vae, studio.clip, folder)


def _pair_text(folder: Path, run: _Run) -> None:
    encoder = run.studio().keyframe_text
    teacher = Teacher(encoder.model.float(), export.tokenizer_of(run.weights / "t5.safetensors"))
    data = _pair_data(folder, run)
    weights = run.train(PairReadingRecipe(data.stories, data.tables.seen, teacher, SEED))
    if run.exports:
        steps = {"steps": run.config("pair_text").steps}
        export.export_qwen_vl(run.weights, export.part(weights, "qwen."), SEED, steps)


def _pairs(folder: Path, run: _Run) -> None:
    studio = run.studio()
    data = _pair_data(folder, run)
    flux = cast(nn.Module, studio.keyframe).state_dict()
    pooled = studio.clip.pooled(data.queries(2000)).float().mean(0)
    parts = {
        "transformer.": from_keyframe_model(flux, pooled, mean_power(studio.keyframe_text, data.stories[:20])),
        "qwen.": load_qwen_vl(run.weights / "qwen_vl.safetensors", dtype=torch.float32).model.state_dict(),
    }
    start = {k: v.cpu() for k, v in export.joined(parts).items()}
    draws = data.draws(SEED, 16 * run.scale.batch_multiplier)
    weights = run.train(PairRecipe(draws, start))
    # then words recall looks from the memory alone: near t = 1, where no frame shows them yet
    recalling = replace(draws, seed=SEED + 1, hidden=0.75)
    memory = PairRecipe(recalling, weights, identity_weight=0.6, t_mean=2.2, end_weight=1.7, name="pairs_memory")
    weights = run.train(memory)
    if run.exports:
        steps = {"steps": run.config("pairs").steps + run.config("pairs_memory").steps}
        export.export_pair(run.weights, export.part(weights, "transformer."), SEED, steps)
        export.export_qwen_vl(run.weights, export.part(weights, "qwen."), SEED, steps)


def _pair_dpo(folder: Path, run: _Run) -> None:
    data = _pair_data(folder, run)
    parts = {
        "transformer.": load_transformer("qwen_image", run.weights / "pair.safetensors").state_dict(),
        "qwen.": load_qwen_vl(run.weights / "qwen_vl.safetensors", dtype=torch.float32).model.state_dict(),
    }
    draws = PreferenceDraws(data.stories, data.tables, data.captions, SEED, 8 * run.scale.batch_multiplier)
    weights = run.train(PreferenceRecipe(draws, export.joined(parts)))
    if run.exports:
        export.export_pair_dpo(run.weights, weights, SEED, {"steps": run.config("pair_dpo").steps})


MODELS: dict[str, Callable[[Path, _Run], None]] = {
    "vae": _vae,
    "clip": _clip,
    "text": _text,
    "recogniser": _recogniser,
    "keyframes": _keyframes,
    "video": _video,
    "pair_text": _pair_text,
    "pairs": _pairs,
    "pair_dpo": _pair_dpo,
    "upscale_vae": train_upscale_vae,
    "upscale": train_upscale,
    "upscale_pixels": train_upscale_pixels,
}
RECIPES = (*MODELS, "pocket")

__all__ = ["CONFIGS", "MODELS", "RECIPES", "SCALES", "Scale", "run", "story_frames"]
