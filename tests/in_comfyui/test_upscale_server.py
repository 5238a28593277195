"""Keyframe SR on a real server: a file from Load Video to Save Video, and errors that name node and input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest
from in_comfyui.prompts import errors_of, node
from in_comfyui.server import ComfyServer
from in_comfyui.shipped.parts import EXAMPLE_VIDEO

WIDGETS = {
    "mode": "auto", "scale": 2.0, "steps": 2, "strength": 0.3, "seed": 1, "sampler_name": "euler", "window": 6,
    "overlap": 2, "near": 1, "tile": 0, "tile_overlap": 32, "cuts": "none", "keep_colour": True,
}  # fmt: skip


def upscaled(**changed: Any) -> dict[str, Any]:
    """Load Video, Keyframe SR with the pocket's video model, which was not trained for it, Save Video."""
    sockets = {"model": ["studio", 1], "vae": ["studio", 5], "video": ["load", 0]}
    return {
        "studio": node("AnchorshotPocketStudio"),
        "load": node("LoadVideo", file=EXAMPLE_VIDEO),
        "large": node("AnchorshotKeyframeSR", **sockets | WIDGETS | changed),
        "save": node("SaveVideo", video=["large", 0], filename_prefix="large", format="auto", codec="auto"),
        "report": node("PreviewAny", source=["large", 2]),
    }


def test_a_file_becomes_a_larger_one(server: ComfyServer) -> None:
    """In two windows; the grey ramp keeps its brightness, frame by frame."""
    history = server.run(upscaled(), timeout=900)
    assert history["status"]["status_str"] == "success", errors_of(history)
    outputs = history["outputs"]
    assert "9 frames, 96x48 → 192x96, training_free" in outputs["report"]["text"][0]
    (saved,) = outputs["save"]["images"]
    with av.open(str(Path(server.base, "output", saved["subfolder"], saved["filename"]))) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 9 and frames[0].shape == (96, 192, 3)
    assert all(abs(float(frame.mean()) - 25.5 * i) < 3 for i, frame in enumerate(frames))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": ["studio", 0]}, ["model", "Wan"]),
        ({"window": 3}, ["window", "the overlap of 2"]),
        ({"keyframe_times": "9 s", "keyframes": ["frames", 0]}, ["keyframe_times", "9 frames"]),
    ],
)
def test_errors_name_the_input(server: ComfyServer, changed: dict[str, Any], words: list[str]) -> None:
    prompt = upscaled(**changed)
    prompt["frames"] = node("EmptyImage", width=256, height=128, batch_size=1, color=0)
    (error,) = errors_of(server.run(prompt, timeout=600))
    assert all(word in error for word in words), error
