"""What the shipped workflows share: public model files and their loaders, stories, prompts, times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
from in_comfyui.server import ROOT
from in_comfyui.sketch import Output, Placed, Sketch
from PIL import Image

from anchorshot.media.video import open_writer


class ModelFile(NamedTuple):
    """A public model file.

    Attributes:
        folder: ComfyUI's folder for it.
        base: where it is taken from; as ComfyUI's own templates, where they have it.
        remote: its name there, where that says too little.
        also: another folder that needs it, too.
    """

    folder: str
    base: str
    remote: str | None = None
    also: str | None = None

    @property
    def folders(self) -> list[str]:
        return [self.folder, *([] if self.also is None else [self.also])]

    def url(self, name: str) -> str:
        """Where the file that is called `name` here comes from."""
        return f"{self.base}/{self.remote or name}"


HUB = "https://huggingface.co"
WAN = f"{HUB}/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
MOCHI = f"{HUB}/Comfy-Org/mochi_preview_repackaged/resolve/main/split_files"
FILES = {
    "flux1-dev.safetensors": ModelFile("diffusion_models", f"{HUB}/Comfy-Org/flux1-dev/resolve/main"),
    "clip_l.safetensors": ModelFile("text_encoders", f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main"),
    "t5xxl_fp16.safetensors": ModelFile("text_encoders", f"{HUB}/comfyanonymous/flux_text_encoders/resolve/main"),
    "ae.safetensors": ModelFile("vae", f"{HUB}/Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae"),
    "wan2.2_ti2v_5B_fp16.safetensors": ModelFile("diffusion_models", f"{WAN}/diffusion_models"),
    "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": ModelFile("diffusion_models", f"{WAN}/diffusion_models"),
    "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": ModelFile("diffusion_models", f"{WAN}/diffusion_models"),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": ModelFile(
        "text_encoders", f"{HUB}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files/text_encoders"
    ),
    "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors": ModelFile("loras", f"{WAN}/loras"),
    "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors": ModelFile("loras", f"{WAN}/loras"),
    "wan2.2_vae.safetensors": ModelFile("vae", f"{WAN}/vae"),
    "wan_2.1_vae.safetensors": ModelFile("vae", f"{WAN}/vae"),
    "qwen_image_edit_2511_fp8mixed.safetensors": ModelFile(
        "diffusion_models", f"{HUB}/Comfy-Org/Qwen-Image-Edit_ComfyUI/resolve/main/split_files/diffusion_models"
    ),
    "qwen_2.5_vl_7b_fp8_scaled.safetensors": ModelFile(
        "text_encoders", f"{HUB}/Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files/text_encoders"
    ),
    "qwen_image_vae.safetensors": ModelFile("vae", f"{HUB}/Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files/vae"),
    "flux2_dev_fp8mixed.safetensors": ModelFile(
        "diffusion_models", f"{HUB}/Comfy-Org/flux2-dev/resolve/main/split_files/diffusion_models"
    ),
    "mistral_3_small_flux2_bf16.safetensors": ModelFile(
        "text_encoders", f"{HUB}/Comfy-Org/flux2-dev/resolve/main/split_files/text_encoders"
    ),
    "flux2-vae.safetensors": ModelFile("vae", f"{HUB}/Comfy-Org/flux2-dev/resolve/main/split_files/vae"),
    "mochi_preview_bf16.safetensors": ModelFile("diffusion_models", f"{MOCHI}/diffusion_models"),
    "mochi_vae.safetensors": ModelFile("vae", f"{MOCHI}/vae"),
    "clip-vit-large-patch14.safetensors": ModelFile(
        "clip_vision", f"{HUB}/openai/clip-vit-large-patch14/resolve/main", "model.safetensors", "text_encoders"
    ),
}
"""Public model files by name."""

EXAMPLE = "example.png"
"""A picture that every ComfyUI has in its input folder."""
EXAMPLE_VIDEO = "example.mp4"
"""Stands for a video of the user's."""
NEGATIVE = (
    "overexposed, static, blurred details, subtitles, painting, still picture, grey overall, worst quality, low "
    "quality, JPEG artefacts, ugly, incomplete, extra fingers, badly drawn hands, badly drawn face, deformed, "
    "disfigured, fused fingers, motionless picture, cluttered background, three legs, walking backwards"
)
STORY = (ROOT / "stories" / "two_friends.yaml").read_text("utf-8").split("\n", 1)[1]
"""The film that the command line makes from the same file."""
JUMPS = """title: Mira jumps
fps: 8
size: [160, 80]
characters:
  Mira: a yellow square with a crown
places:
  dunes: the desert
shots:
  - id: s01
    place: dunes
    action: <Mira> jumps on the left.
    camera: {scale: medium shot, movement: static}
    seconds: 2.375
    keyframes: [{at: 0}, {at: 0.7}, {at: 1.5}]
"""
FILM = """title: The lighthouse
fps: 24
size: [1280, 704]
characters:
  Ada: a woman of thirty with short red hair and a long yellow raincoat
  Tom: an old fisherman with a white beard and a blue knitted sweater
places:
  shore: a rocky shore at dusk, a white lighthouse on a cliff
  kitchen: a small warm kitchen in the lighthouse, an oil lamp on the table
shots:
  - id: s01
    place: shore
    scene: <Ada> stands on the rocks and looks at the sea.
    action: <Ada> turns and walks towards the lighthouse.
    camera: {scale: wide shot, movement: static}
    seconds: 2.5

  - id: s02
    place: kitchen
    scene: <Tom> sits at the table beside the lamp.
    action: <Tom> looks up and smiles.
    camera: {scale: medium shot, movement: static}
    seconds: 2.0

  - id: s03
    place: kitchen
    scene: <Ada> opens the door, <Tom> sits at the table.
    action: <Ada> comes in out of the wind.
    camera: {scale: medium shot, movement: pan right}
    seconds: 2.5
    keyframes: [{at: 0}, {at: 2.4}]

  - id: s04
    place: shore
    scene: <Ada> and <Tom> stand under the lighthouse.
    action: <Tom> points at the sea.
    camera: {scale: wide shot, movement: static}
    seconds: 2.5
    transition: blend
"""
TIMES = '{"keyframes": [{"requested": 0}, {"requested": 0.7}, {"requested": 1.5}]}'
ENDS = '{"keyframes": [{"requested": 0}, {"requested": 2.5}, {"requested": 5}]}'
ENDS_24 = '{"keyframes": [{"requested": 0}, {"requested": 2.5}, {"requested": 4.9167}]}'


def models(*names: str, folder: str | None = None) -> list[dict[str, str]]:
    """The files of a loader, for the frontend's list of missing models; `folder` where it is not the first."""
    found = [(name, FILES[name]) for name in names]
    return [{"name": n, "url": f.url(n), "directory": folder or f.folder} for n, f in found]


def files(*names: str) -> str:
    """The table of a note: which file goes into which folder of ComfyUI."""
    rows = [
        f"| `{name}` | `models/{folder}` | [get]({FILES[name].url(name)}) |"
        for name in names
        for folder in FILES[name].folders
    ]
    return "\n".join(["| file | folder | from |", "| --- | --- | --- |", *rows])


def load_unet(sketch: Sketch, name: str, title: str) -> Placed:
    return sketch.add("UNETLoader", title, size=(320, 0), models=models(name), unet_name=name, weight_dtype="default")


def load_vae(sketch: Sketch, name: str, title: str) -> Placed:
    return sketch.add("VAELoader", title, size=(320, 0), models=models(name), vae_name=name)


def load_clip(sketch: Sketch, name: str, kind: str, title: str) -> Placed:
    return sketch.add("CLIPLoader", title, size=(320, 0), models=models(name), clip_name=name, type=kind)


def pocket_memory(sketch: Sketch, studio: Placed) -> Placed:
    """The latest keyframes as memory of the pocket studio's keyframe model."""
    return sketch.add(
        "AnchorshotGoldenMemContext",
        size=(360, 640),
        vae=studio["vae"],
        retrieval="recency",
        groups=3,
        images=3,
        first_tier=0,
        clip=studio["clip"],
    )


def pocket_keyframes(
    sketch: Sketch,
    studio: Placed,
    story: Placed,
    text: Placed,
    empty: Placed,
    context: Placed | None = None,
    size: tuple[int, int] = (380, 720),
) -> Placed:
    """The keyframes of a storyboard by the pocket studio."""
    return sketch.add(
        "AnchorshotInterleavedKeyframeSampler",
        size=size,
        model=studio["keyframe_model"],
        positive=text[0],
        latent=empty[0],
        vae=studio["vae"],
        **({} if context is None else {"context": context["context"]}),
        storyboard=story["storyboard"],
    )


def pocket_clips(
    sketch: Sketch, studio: Placed, story: Placed, spoken: Placed, timelines: Output, keyframes: Output
) -> Placed:
    """Videos through keyframes by the pocket studio."""
    return sketch.add(
        "AnchorshotMultiChunkVideoSampler",
        size=(400, 0),
        model=studio["video_model"],
        positive=spoken[0],
        vae=studio["video_vae"],
        timeline=timelines,
        seed=story["seeds"],
        cfg=1.0,
        keyframes=keyframes,
    )


def place_files(base: Path) -> None:
    """Put empty files by the names of all model files where a server with that base directory looks.

    And a picture and a video. They stand in lists, so graphs show without red frames and pass validation; no model can
    be loaded from them.
    """
    for name, file in FILES.items():
        for folder in file.folders:
            path = base / "models" / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    Image.new("RGB", (1280, 720), "#7a94a8").save(base / "input" / EXAMPLE)
    with open_writer(base / "input" / EXAMPLE_VIDEO, Fraction(8)) as writer:
        for grey in range(9):
            writer.write(torch.full((3, 48, 96), 0.1 * grey))
