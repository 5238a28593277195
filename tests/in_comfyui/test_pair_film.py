"""Start and end frames of a storyboard, by the command line's sampler and by the nodes: the same frames.

A studio of tiny random pair models in the pocket studio's place; both sides read the same files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from in_comfyui import tiny_qwen
from in_comfyui.tiny import WEIGHTS
from safetensors.torch import save_file
from torch import Tensor

from anchorshot.comfyui.frame_encoders import ComfyEncoders
from anchorshot.comfyui.pair_inputs import pair_sampling, pair_tasks
from anchorshot.comfyui.pairs import make_pairs
from anchorshot.media.image import read_image, write_image
from anchorshot.memory.frame_memory import FrameMemory, MemoryFrame
from anchorshot.models.studio import load_studio
from anchorshot.pipelines.pair_job import PairJob, pair_story
from anchorshot.pipelines.pair_sampling import PairFrameSampler
from anchorshot.pipelines.stages.pairs import PairPlace
from anchorshot.pocket.native_studio import NativeStudio
from anchorshot.story.stages import FIRST_TAKE, stage_seed
from anchorshot.story.storyboard import Storyboard, load_storyboard, parse_storyboard

STORY = """
title: Pairs
size: [96, 64]
characters: {Mira: a yellow square with a crown, Pip: a blue circle}
places: {dunes: the desert}
shots:
- {place: dunes, scene: "<Mira> (smiling) stands on the left.", frames: 17}
- place: dunes
  action: <Pip> jumps.
  camera: {scale: close-up}
  seconds: 1.5
  keyframes: [{at: 0}, {at: 1.375, image: own.png}]
- {place: dunes, action: <Mira> waves., frames: 9, transition: match}
- {scene: <Mira> and <Pip> dance., frames: 9}
"""
POCKET = """
size: [160, 80]
characters: {Mira: a red square with a bow, Pip: a green circle with a hat}
places: {desert: the desert, beach: the beach}
shots:
- {place: desert, action: <Mira> waves on the left., frames: 17}
- {place: beach, action: <Pip> jumps on the right., frames: 17, camera: {scale: close-up}}
- {place: desert, scene: <Mira> stands on the left., action: <Pip> walks on the right., frames: 9, transition: match}
"""
STUDIO = """
name: tiny-pairs
models_dir: .
dtype: float32
video: {file: video.safetensors}
video_text: {kind: t5, file: t5_video.safetensors}
video_vae: {kind: wan_vae, file: vae.safetensors}
clip: {file: clip.safetensors}
pair:
  file: pair.safetensors
  loras: [{file: both.safetensors, strength: 0.7}]
pair_text:
  file: qwen_vl.safetensors
  loras: [{file: both.safetensors, strength: 0.7}]
defaults:
  pair:
    steps: 4 # a divisor of the levels that core keeps
    shift: 2.0
    guidance: GUIDANCE
    guidance_against: AGAINST
    packing: PACKING
    system_prompt: look at {it}
    prompt: "{text}\\n{frames} frames"
"""


@dataclass
class Folder:
    """A run folder in memory's place."""

    path: Path

    def source(self, name: str) -> Path:
        return self.path / name

    def target(self, name: str) -> Path:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        return self.path / name

    def report(self, done: float, note: str = "") -> None:
        pass

    def say(self, line: str) -> None:
        pass


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, story, and a picture of the user's."""
    folder = tmp_path_factory.mktemp("studio")
    for name in ("video", "t5_video", "vae", "clip"):
        (folder / f"{name}.safetensors").symlink_to(Path(WEIGHTS, f"{name}.safetensors"))
    tiny_qwen.write_transformer(folder)
    tiny_qwen.write_text_encoder(folder, {"picture_area": 14112})
    generator = torch.Generator().manual_seed(5)
    down, up = (0.3 * torch.randn(2, size, generator=generator) for size in (48, 48))
    text = [0.3 * torch.randn(2, tiny_qwen.WIDTH, generator=generator) for _ in range(2)]
    names = (
        "transformer.transformer_blocks.0.attn.to_q",
        "text_encoders.qwen25_7b.transformer.model.layers.0.self_attn.q_proj",
    )
    lora = {}
    for name, (a, b) in zip(names, ((down, up), text), strict=True):
        lora |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b.T.contiguous()}
    save_file(lora, folder / "both.safetensors")
    write_image(folder / "own.png", torch.rand(3, 64, 96, generator=generator))
    (folder / "story.yaml").write_text(STORY, "utf-8")
    return folder


def headless(studio: Path | str, board: Storyboard, out: Path) -> list[tuple[Tensor, Tensor]]:
    """The command line's frames, from its files."""
    story = pair_story(board)
    sampler = PairFrameSampler(PairJob.of(story, list(range(len(story.shots))), load_studio(studio), False))
    for position, shot in enumerate(story.shots):
        place = PairPlace(position, stage_seed(shot, FIRST_TAKE, "pair"), FIRST_TAKE)
        sampler.make(place, position > 0 and shot.transition == "match", Folder(out))
    return [
        (read_image(out / f"keyframes/{shot.id}_00.png"), read_image(out / f"keyframes/{shot.id}_01.png"))
        for shot in story.shots
    ]


def differences(board: Storyboard, studio: NativeStudio, wanted: list[tuple[Tensor, Tensor]]) -> list[float]:
    """Largest error of each frame that the nodes make from the command's earlier frames, which have 8 bits."""
    defaults = studio.defaults.pair
    single: dict[str, Any] = {
        "model": studio.pair, "clip": studio.pair_clip, "vae": studio.image_vae, "seed": 0, "steps": defaults.steps,
        "cfg": defaults.guidance, "sampler_name": "euler", "scheduler": "simple", "layout": defaults.layout,
        "match_cut": False, "reference_timestep": "auto", "rescale": defaults.rescale, "storyboard": board,
        "guidance_against": defaults.guidance_against,
    }  # fmt: skip
    sampling, tasks = pair_sampling(single), pair_tasks({}, single, board.frame_size)
    encoders = ComfyEncoders(studio.image_vae, None, studio.clip_vision, studio.retrieval_clip)
    before: tuple[MemoryFrame, ...] = ()
    errors = []
    for task, pair in zip(tasks, wanted, strict=True):
        memory = FrameMemory(encoders, defaults.pack, defaults.rank_by, frames=before)
        made = make_pairs([task], sampling, board.frame_size, memory)
        errors += [(a - b).abs().max().item() for a, b in zip((made.starts[0], made.ends[0]), pair, strict=True)]
        before += tuple(MemoryFrame(frame[None]) for frame in pair)
    return errors


def studio(files: Path, packing: str, guidance: float, against: str = "text") -> Path:
    """A studio file."""
    yaml = files / "studio.yaml"
    filled = STUDIO.replace("PACKING", packing).replace("GUIDANCE", str(guidance)).replace("AGAINST", against)
    yaml.write_text(filled, "utf-8")
    return yaml


@pytest.mark.parametrize("settings", [("canvas", 2.5), ("references", 1.0), ("canvas", 2.0, "memory")])
def test_the_nodes_make_the_command_line_s_frames(files: Path, tmp_path: Path, settings: Any) -> None:
    yaml = studio(files, *settings)
    board = load_storyboard(files / "story.yaml")
    wanted = headless(yaml, board, tmp_path)
    errors = differences(board, NativeStudio(yaml), wanted)
    assert max(errors) < 0.5 / 255 + 2e-4, errors
    assert torch.equal(wanted[2][0], wanted[1][1]), "a match"


def test_the_pocket_pair_model_is_the_same_in_both(tmp_path: Path) -> None:
    """With its LoRA, its encoder's own vocabulary, and its LoRA's half there."""
    board = parse_storyboard(POCKET)
    errors = differences(board, NativeStudio("pocket"), headless("pocket", board, tmp_path))
    assert max(errors) < 0.5 / 255 + 5e-4, errors


def test_prompts_are_put_as_the_studio_says(files: Path) -> None:
    clip, board = NativeStudio(studio(files, "canvas", 1.0)).pair_clip, load_storyboard(files / "story.yaml")
    single = {"clip": clip, "seed": 0, "match_cut": False, "storyboard": board}
    first, second, *_ = pair_tasks({}, single, board.frame_size)
    looks = "<Mira>, a yellow square with a crown, (smiling) stands on the left."
    assert first.prompt == f"wide shot, static, in the desert. {looks}\n17 frames"
    assert second.end is not None and clip.tokenizer.prompting.system_prompt == "look at {it}"
