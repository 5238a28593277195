"""The pack inside a running ComfyUI, under a folder name of its own: what the server lists, refuses and runs."""

from __future__ import annotations

import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import av
from in_comfyui.prompts import errors_of, film, node, refused, text_of
from in_comfyui.server import PACK, ROOT, ComfyServer

from anchorshot.nodes import NODES


def test_the_pack_is_imported_and_lists_its_nodes(server: ComfyServer) -> None:
    line = re.search(r"^.*?([\d.]+) seconds(.*): .*" + re.escape(PACK) + "$", server.log, re.MULTILINE)
    assert line is not None, server.log[-3000:]
    print(line[0])
    assert "IMPORT FAILED" not in line[2] and float(line[1]) <= 0.3  # ComfyUI's own report
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


def test_nothing_is_written_into_the_pack(server: ComfyServer) -> None:
    """What runs leave behind lies in ComfyUI's folders."""
    written = [p for p in Path(server.base).rglob("*.mp4")]
    assert written and all(ROOT not in p.resolve().parents for p in written)
