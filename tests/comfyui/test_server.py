"""The pack inside a running ComfyUI, under a folder name of its own: what the server lists, refuses and runs."""

from __future__ import annotations

import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import av
import pytest
from comfyui.server import PACK, ROOT, ComfyServer

from anchorshot.nodes import NODES

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


def test_the_pack_is_imported_and_lists_its_nodes(server: ComfyServer) -> None:
    line = re.search(r"^.*seconds(.*): .*" + re.escape(PACK) + "$", server.log, re.MULTILINE)
    assert line is not None, server.log[-3000:]
    print(line[0])
    assert "IMPORT FAILED" not in line[0]
    info = server.get("/object_info")
    ours = {name: entry for name, entry in info.items() if name.startswith("Anchorshot")}
    assert sorted(ours) == sorted(n.GET_SCHEMA().node_id for n in NODES)
    assert {entry["python_module"] for entry in ours.values()} == {f"custom_nodes.{PACK}"}
    timeline = ours["AnchorshotKeyframeTimeline"]
    assert timeline["input_order"]["required"] == ["fps", "seconds", "timeline"]
    assert timeline["input"]["required"]["timeline"][1]["tooltip"] and timeline["search_aliases"]


def test_help_and_translations_are_served(server: ComfyServer) -> None:
    folder = urllib.parse.quote(PACK)
    for language in ("en", "zh"):
        url = f"{server.url}/extensions/{folder}/docs/AnchorshotFilm/{language}.md"
        with urllib.request.urlopen(url) as page:
            assert "`clips`" in page.read().decode("utf-8")
        assert server.get("/i18n")[language]["nodeDefs"]["AnchorshotFilm"]["inputs"]["fps"]["tooltip"]


def test_a_film_from_a_storyboard(server: ComfyServer) -> None:
    history = server.run(film(), timeout=900)
    assert errors_of(history) == [] and history["status"]["status_str"] == "success"
    outputs = history["outputs"]
    (saved,) = outputs["save"]["images"]
    with av.open(str(server.base / "output" / saved["subfolder"] / saved["filename"])) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        assert (stream.width, stream.height, frames, float(stream.average_rate)) == (160, 80, 10, 8.0)
    assert len(outputs["keyframes"]["images"]) == 2 and len(outputs["show"]["images"]) == 1
    assert outputs["story"]["text"] == ["Untitled: 2 shots, 1.25 s at 8 fps, with Mira"]


def test_unchanged_nodes_are_not_run_again(server: ComfyServer) -> None:
    """Fingerprints: the same graph again runs nothing; another take runs the samplers, not the loaders."""

    def ran(prompt: dict[str, Any]) -> set[str]:
        history = server.run(prompt, timeout=900)
        (cached,) = (data["nodes"] for kind, data in history["status"]["messages"] if kind == "execution_cached")
        return set(prompt) - set(cached)

    assert ran(film()) == set()
    again = film()
    again["keyframes"]["inputs"]["seed"] = 1
    again["keyframes"]["inputs"]["steps"] = 1
    again["clips"]["inputs"]["steps"] = 1
    assert ran(again) == {"keyframes", "clips", "film", "sheet", "save", "show"}


def test_bad_inputs_are_refused_before_the_queue(server: ComfyServer) -> None:
    answer = refused(server, {"story": node("AnchorshotStoryboard", story="shots: []"), "show": text_of("story")})
    assert "shots: must hold at least 1" in answer
    timeline = node("AnchorshotKeyframeTimeline", fps=8.0, seconds=1.0, timeline="[0, ")
    assert "is not valid JSON" in refused(server, {"timeline": timeline, "show": text_of("timeline", 4)})


def text_of(name: str, output: int = 5) -> dict[str, Any]:
    """An output node that shows a text."""
    return node("PreviewAny", source=[name, output])


def test_errors_while_running_are_one_sentence(server: ComfyServer) -> None:
    late = node("AnchorshotKeyframeTimeline", fps=8.0, seconds=1.0, timeline="[0, 5.0]")
    (said,) = errors_of(server.run({"timeline": late, "show": text_of("timeline", 4)}))
    assert said.startswith("keyframes[1].at: must not lie beyond the shot's last frame at 0.875 s") and "\n" not in said
    mixed = {
        "small": node("EmptyImage", width=64, height=64, batch_size=2, color=0),
        "large": node("EmptyImage", width=128, height=64, batch_size=2, color=0),
        "film": node("AnchorshotFilm", fps=8.0, transition="cut",
                     **{"clips.clip_0": ["small", 0], "clips.clip_1": ["large", 0]}),
        "save": node("SaveVideo", video=["film", 0], filename_prefix="x", format="auto", codec="auto"),
    }  # fmt: skip
    (said,) = errors_of(server.run(mixed))
    assert said.startswith('clips: all pictures must have one size (got "64x64, 128x64")') and "\n" not in said


def test_interrupt_leaves_the_server_usable(server: ComfyServer) -> None:
    prompt = film()
    prompt["keyframes"]["inputs"].update(steps=1000, seed=7)
    prompt_id = server.post("/prompt", {"prompt": prompt})["prompt_id"]
    wait_until_running(server, prompt_id)
    server.post("/interrupt", {})
    history = wait_for(server, prompt_id)
    assert any(kind == "execution_interrupted" for kind, _ in history["status"]["messages"])
    assert server.run(film(), timeout=900)["status"]["status_str"] == "success"


def wait_until_running(server: ComfyServer, prompt_id: str) -> None:
    for _ in range(3000):
        if any(entry[1] == prompt_id for entry in server.get("/queue")["queue_running"]):
            return
        time.sleep(0.05)
    raise AssertionError("the prompt never ran")


def wait_for(server: ComfyServer, prompt_id: str) -> dict[str, Any]:
    for _ in range(3000):
        if prompt_id in (history := server.get(f"/history/{prompt_id}")):
            return dict(history[prompt_id])
        time.sleep(0.1)
    raise AssertionError("the prompt never ended")


def test_nothing_is_written_into_the_pack(server: ComfyServer) -> None:
    """What runs leave behind lies in ComfyUI's folders."""
    written = [p for p in Path(server.base).rglob("*.mp4")]
    assert written and all(ROOT not in p.resolve().parents for p in written)
