"""Films of start and end frames on a real server: lists through all nodes, errors that name node and input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest
from in_comfyui import tiny_qwen
from in_comfyui.prompts import errors_of, node, refused
from in_comfyui.server import ComfyServer

STORY = """
fps: 8
size: [96, 64]
mode: pairs
characters: {Mira: a yellow square with a crown}
places: {dunes: the desert}
shots:
  - {id: s01, place: dunes, action: <Mira> waves on the left., frames: 5}
  - {id: s02, place: dunes, action: <Mira> jumps (high)., frames: 9, camera: {scale: close-up}, transition: match}
  - {id: s03, scene: <Mira> stands., frames: 5}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of random pair models."""
    folder = tmp_path_factory.mktemp("pairs")
    tiny_qwen.write_transformer(folder)
    tiny_qwen.write_text_encoder(folder, {"picture_area": 14112})
    return str(folder)


def film(models: str, **pairs: Any) -> dict[str, Any]:
    """Storyboard, memory, pairs, clips, VIDEO."""
    asked = {
        "width": 0, "height": 0, "seed": 0, "steps": 2, "cfg": 2.0, "sampler_name": "euler", "scheduler": "simple",
        "layout": "stacked", "match_cut": False, "reference_timestep": "auto", "rescale": True,
        "storyboard": ["story", 0], "context": ["pack", 0], "model": ["tiny", 0], "clip": ["tiny", 1],
        "vae": ["studio", 4],
    }  # fmt: skip
    return {
        "studio": node("AnchorshotPocketStudio"),
        "tiny": node("TinyPairModels", folder=models),
        "story": node("AnchorshotStoryboard", story=STORY),
        "pack": node(
            "AnchorshotMemoryPack", vae=["studio", 4], rank_by="clip", packing="canvas", pyramid=False,
            aspect="squeeze", level="latent", limit=0, area=1.0, clip_vision=["studio", 6],
            retrieval_clip=["studio", 7],
        ),
        "pairs": node("AnchorshotStartEndPairPredictor", **asked | pairs),
        "timed": node("AnchorshotPairsToTimeline", start=["pairs", 0], end=["pairs", 1], timeline=["story", 3]),
        "text": node("CLIPTextEncode", text=["story", 1], clip=["studio", 3]),
        "clips": node(
            "AnchorshotMultiChunkVideoSampler", model=["studio", 1], positive=["text", 0], vae=["studio", 5],
            timeline=["timed", 0], seed=["story", 4], steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
            method="multi_chunk", keyframes=["timed", 1],
        ),
        "film": node(
            "AnchorshotFilm", fps=8.0, transition="cut", storyboard=["story", 0], **{"clips.clip_0": ["clips", 0]}
        ),
        "save": node("SaveVideo", video=["film", 0], filename_prefix="pairs", format="auto", codec="auto"),
        "show": node("PreviewImage", images=["pairs", 3]),
        "ends": node("PreviewImage", images=["pairs", 1]),
    }  # fmt: skip


def test_a_storyboard_becomes_a_film(server: ComfyServer, models: str) -> None:
    """Three shots: five frames and one more for the last keyframe, nine and one; a match shares a frame."""
    history = server.run(film(models), timeout=900)
    assert history["status"]["status_str"] == "success", errors_of(history)
    outputs = history["outputs"]
    assert len(outputs["pairs"]["images"]) == 6 and len(outputs["ends"]["images"]) == 3
    (saved,) = outputs["save"]["images"]
    with av.open(str(Path(server.base, "output", saved["subfolder"], saved["filename"]))) as video:
        assert sum(1 for _ in video.decode(video=0)) == 6 + 10 - 1 + 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": ["studio", 0]}, ["model", "Qwen-Image"]),
        ({"clip": ["studio", 2]}, ["clip", "Qwen2.5-VL"]),
        ({"context": ["golden", 0]}, ["context", "Memory Pack"]),
        ({"prompts": ["story", 9]}, ["prompts"]),
        ({"width": 40, "height": 64}, ["width", "multiple of 16"]),
    ],
)
def test_errors_name_the_input(server: ComfyServer, models: str, change: dict[str, Any], words: list[str]) -> None:
    prompt = film(models, **change)
    prompt["golden"] = node(
        "AnchorshotGoldenMemContext", vae=["studio", 4], retrieval="recency", groups=3, images=3, first_tier=0,
        query="", captions="",
    )  # fmt: skip
    if "prompts" in change:
        assert "prompts" in refused(server, prompt)
        return
    (error,) = errors_of(server.run(prompt, timeout=600))
    assert all(word in error for word in words), error
