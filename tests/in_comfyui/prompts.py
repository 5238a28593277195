"""Graphs in the API's format, and what the server says about them."""

from __future__ import annotations

from typing import Any

import pytest
from in_comfyui.server import ComfyServer

__all__ = ["STORY", "errors_of", "film", "node", "refused", "text_of"]

STORY = """
fps: 8
size: [160, 80]
characters: {Mira: a yellow square with a crown}
places: {dunes: the desert}
shots:
  - {id: s01, place: dunes, action: <Mira> waves on the left., frames: 5}
  - {id: s02, place: dunes, action: <Mira> jumps on the right., frames: 5, camera: {scale: close-up}}
"""


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def film() -> dict[str, Any]:
    """A whole film: storyboard, keyframes that remember, clips, VIDEO; lists run every shot through one node each."""
    return {
        "studio": node("AnchorshotPocketStudio"),
        "story": node("AnchorshotStoryboard", story=STORY, clip=["studio", 2]),
        "text": node("CLIPTextEncode", text=["story", 1], clip=["studio", 2]),
        "context": node(
            "AnchorshotGoldenMemContext", vae=["studio", 4], retrieval="clip", groups=3, images=3, first_tier=0,
            query="", captions="", clip=["studio", 2], clip_vision=["studio", 6], retrieval_clip=["studio", 7],
        ),
        "empty": node("EmptySD3LatentImage", width=["story", 6], height=["story", 7], batch_size=1),
        "keyframes": node(
            "AnchorshotInterleavedKeyframeSampler", model=["studio", 0], positive=["text", 0], latent=["empty", 0],
            vae=["studio", 4], seed=0, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple", attention="causal",
            context_noise=0.1, window=1, context=["context", 0], storyboard=["story", 0],
        ),
        "video_text": node("CLIPTextEncode", text=["story", 1], clip=["studio", 3]),
        "clips": node(
            "AnchorshotMultiChunkVideoSampler", model=["studio", 1], positive=["video_text", 0], vae=["studio", 5],
            timeline=["story", 3], seed=["story", 4], steps=2, cfg=1.0, sampler_name="euler", scheduler="simple",
            method="multi_chunk", keyframes=["keyframes", 0],
        ),
        "film": node(
            "AnchorshotFilm", fps=16.0, transition="cut", storyboard=["story", 0], **{"clips.clip_0": ["clips", 0]}
        ),
        "sheet": node("AnchorshotContactSheet", storyboard=["story", 0], **{"keyframes.shot_0": ["keyframes", 0]}),
        "save": node("SaveVideo", video=["film", 0], filename_prefix="film", format="auto", codec="auto"),
        "show": node("PreviewImage", images=["sheet", 0]),
    }  # fmt: skip


def errors_of(history: dict[str, Any]) -> list[str]:
    """What the server told about nodes that failed."""
    messages = history["status"]["messages"]
    return [data["exception_message"].strip() for kind, data in messages if kind == "execution_error"]


def refused(server: ComfyServer, prompt: dict[str, Any]) -> str:
    """The server's words on a prompt that it does not queue."""
    with pytest.raises(RuntimeError, match="HTTP 400") as caught:
        server.post("/prompt", {"prompt": prompt})
    return str(caught.value)


def text_of(name: str, output: int = 5) -> dict[str, Any]:
    """An output node that shows a text."""
    return node("PreviewAny", source=[name, output])
