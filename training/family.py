"""The pocket family's recipes by name: each trains its model from nothing and writes the shipped weight file.

Order of dependence: ``vae``, ``clip`` and ``text`` → ``keyframes`` (which trains the text encoder on) and ``video``;
``recogniser`` stands alone. ``pocket`` runs all of them. A later recipe takes what it needs from the weights that the
earlier ones wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional

from ..models.pocket.dataset import StoryLatents, encode_stories
from ..models.pocket.recogniser import load_recogniser
from ..models.studio import Studio, load_studio
from ..models.vae import VideoVAE
from ..story.errors import InputError
from ..story.files import atomic_path
from . import export
from .clip import ClipRecipe
from .keyframes import STAGES, KeyframeRecipe
from .loop import LoopConfig, Recipe, train
from .recogniser import RecogniserRecipe, held_out_accuracy
from .text import ReadingRecipe
from .vae import VaeRecipe, fast_stills, reconstruction_psnr
from .video import VideoRecipe, encode_clips

SEED = 0
STORIES, SHOTS, CLIPS_PER_LAYOUT = 1600, 9, 260

CONFIGS = {
    "vae_pictures": LoopConfig(3300, lr=3e-3, muon_lr=0.02, warmup=50, ema=0.99, weight_decay=0.0, save_every=100),
    "vae_clips": LoopConfig(900, lr=1e-3, muon_lr=0.006, warmup=30, ema=0.99, weight_decay=0.0, save_every=50),
    "vae_decoder": LoopConfig(800, lr=1e-3, muon_lr=0.006, warmup=20, ema=0.98, weight_decay=0.0, save_every=50),
    "clip": LoopConfig(steps=1200, lr=2e-3, warmup=50, ema=0.99, save_every=200),
    "text": LoopConfig(400, lr=3e-3, muon_lr=0.01, warmup=20, ema=0.98, save_every=200),
    "recogniser": LoopConfig(steps=1000, lr=2e-3, warmup=50, ema=0.99, save_every=200),
    "keyframes": LoopConfig(sum(s.steps for s in STAGES), lr=1e-3, muon_lr=0.01, final_lr=0.03),
    "video": LoopConfig(4000, lr=1e-3, muon_lr=0.01, warmup=50, ema=0.995, final_lr=0.03),
}


def run(
    recipe: str,
    out: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    steps: int | None = None,
    warm: bool = False,
) -> None:
    """Train one recipe (or ``pocket``: all) and write its weight file.

    Args:
        recipe: a name of `RECIPES`.
        out: folder for checkpoints, logs and loss curves; default ``runs/<recipe>``.
        resume: go on from the checkpoints in `out`; otherwise they must not exist.
        device: ``auto`` lets accelerate choose, ``cpu`` stays on the CPU.
        steps: train only this many steps per model (for trials: nothing is exported).
        warm: start `keyframes` and `video` from the shipped weights instead of from nothing.

    Raises:
        InputError: unknown recipe, or checkpoints in the way without `resume`.
    """
    if recipe not in RECIPES:
        raise InputError("RECIPE", f"must be one of {', '.join(RECIPES)}", recipe, "choose one of them")
    folder = out or Path("runs") / recipe
    if not resume and any(folder.glob("*.safetensors")):
        raise InputError("--out", "must hold no checkpoints of another run", str(folder), "add --resume or clear it")
    torch.manual_seed(SEED)
    for name in MODELS if recipe == "pocket" else (recipe,):
        MODELS[name](folder, _Run(folder, device == "cpu", steps, warm))


class _Run:
    """Settings shared by the recipes of one call."""

    def __init__(self, folder: Path, cpu: bool, steps: int | None, warm: bool) -> None:
        self.folder, self.cpu, self.steps, self.warm = folder, cpu, steps, warm

    @property
    def trial(self) -> bool:
        """Whether this is a short trial that exports nothing."""
        return self.steps is not None

    def train(self, recipe: Recipe) -> dict[str, torch.Tensor]:
        """Train and return the averaged weights."""
        config = CONFIGS[recipe.name]
        if self.steps is not None:
            config = replace(config, steps=min(self.steps, config.steps), warmup=min(5, config.warmup), log_every=5)
        train(recipe, config, self.folder, cpu=self.cpu)
        return export.checkpoint_weights(self.folder / f"{recipe.name}.safetensors")


def _kept(folder: Path, weights: dict[str, torch.Tensor]) -> Path:
    """Weights as a file for the next stage to start from."""
    path = folder / "vae_start.safetensors"
    with atomic_path(path) as temporary:
        save_file(weights, temporary)
    return path


def _vae(folder: Path, run: _Run) -> None:
    fast_stills()
    weights = run.train(VaeRecipe("pictures", pictures=8))
    start = _kept(folder, weights)
    weights = run.train(VaeRecipe("clips", pictures=2, bank=2400, start=start))
    start = _kept(folder, weights)
    weights = run.train(VaeRecipe("decoder", pictures=2, bank=2400, seed=1, start=start))
    if run.trial:
        return
    model = VaeRecipe("decoder", start=start).build()
    model.load_state_dict(weights)
    data = encode_stories(model.eval(), 64, SHOTS)  # the pictures' statistics make the latents unit scale
    figures = {"psnr": reconstruction_psnr(model)}
    export.export_vae(weights, data.mean.tolist(), data.std.tolist(), SEED, figures)


def _clip(folder: Path, run: _Run) -> None:
    recipe = ClipRecipe(SEED)
    weights = run.train(recipe)
    if not run.trial:
        export.export_clip(weights, SEED, {"retrieval": recipe.held_out(weights)})


def _recogniser(folder: Path, run: _Run) -> None:
    recipe = RecogniserRecipe(SEED)
    weights = run.train(recipe)
    if run.trial:
        return
    path = export.export_recogniser(weights, recipe.width, SEED, {})
    accuracy = held_out_accuracy(load_recogniser(path))
    export.export_recogniser(weights, recipe.width, SEED, {"accuracy": accuracy})


def story_latents(studio: Studio, folder: Path) -> StoryLatents:
    """The keyframe recipe's data: stories through the shipped VAE, kept in `folder`."""
    vae = studio.video_vae
    return encode_stories(vae.model, STORIES, SHOTS, cache=folder / "stories.safetensors", codec=vae)


def _text(folder: Path, run: _Run) -> None:
    weights = run.train(ReadingRecipe(SEED))
    if not run.trial:
        # the keyframe model trains its own copy on; the video model keeps this one
        for name in ("t5", "t5_video"):
            export.export_t5(export.part(weights, "t5."), SEED, {"steps": CONFIGS["text"].steps}, name)


def _keyframes(folder: Path, run: _Run) -> None:
    studio = load_studio("pocket")
    parts = {"t5.": studio.keyframe_text.model.state_dict()}
    if run.warm:
        parts["flux."] = studio.keyframe.state_dict()
    start = export.joined(parts)
    recipe = KeyframeRecipe(story_latents(studio, folder), studio.clip.pooled, seed=SEED, start=start)
    weights = run.train(recipe)
    if not run.trial:
        export.export_keyframe(export.part(weights, "flux."), SEED, {"steps": CONFIGS["keyframes"].steps})
        export.export_t5(export.part(weights, "t5."), SEED, {"steps": CONFIGS["keyframes"].steps})


def _video(folder: Path, run: _Run) -> None:
    studio = load_studio("pocket")
    vae: VideoVAE = studio.video_vae
    clips = encode_clips(vae, CLIPS_PER_LAYOUT, cache=folder / "clips.safetensors")
    # Wan reads a caption's padding too, so training and studio pad alike
    length = studio.defaults.video.text_length
    assert length is not None

    def encode_text(texts):
        cond = studio.video_text.encode(list(texts))
        missing = length - cond.tokens.shape[1]
        return functional.pad(cond.tokens, (0, 0, 0, missing)), functional.pad(cond.mask, (0, missing))

    start = studio.video.state_dict() if run.warm else None
    weights = run.train(VideoRecipe(clips, encode_text, SEED, start=start))
    if not run.trial:
        export.export_video(weights, SEED, {"steps": CONFIGS["video"].steps})


MODELS: dict[str, Callable[[Path, _Run], None]] = {
    "vae": _vae,
    "clip": _clip,
    "text": _text,
    "recogniser": _recogniser,
    "keyframes": _keyframes,
    "video": _video,
}
RECIPES = (*MODELS, "pocket")

__all__ = ["CONFIGS", "MODELS", "RECIPES", "run", "story_latents"]
