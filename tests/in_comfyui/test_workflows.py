"""The shipped workflows and blueprints: the real server takes them, the pocket ones run to a video that plays."""

from __future__ import annotations

import copy
import json
import re
import tomllib
import urllib.request
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import quote

import av
import pytest
from in_comfyui.graphs import blueprint, inner_nodes, overlaps, shipped, to_prompt, unknown_widgets
from in_comfyui.server import PACK, ROOT, ComfyServer
from in_comfyui.shipped import BLUEPRINTS, FILMED, WORKFLOWS
from in_comfyui.shipped.parts import FILES
from in_comfyui.shipped.titles import TITLES
from PIL import Image

LOADERS = {"UNETLoader", "CLIPLoader", "CLIPVisionLoader", "DualCLIPLoader", "VAELoader"}


@pytest.fixture(scope="module")
def info(server: ComfyServer) -> dict[str, Any]:
    return dict(server.get("/object_info"))


def test_what_is_described_is_shipped(server: ComfyServer) -> None:
    """And served as templates with thumbnails, and as blueprints."""
    assert list(TITLES) and set(TITLES) == set(WORKFLOWS)
    assert {path.stem for path in (ROOT / "workflows").glob("*.json")} == set(TITLES.values())
    assert sorted(server.get("/workflow_templates")[PACK]) == sorted(TITLES.values())
    for name, title in TITLES.items():
        address = f"/api/workflow_templates/{PACK}/{quote(title)}"
        with urllib.request.urlopen(f"{server.url}{address}.jpg") as answer:
            picture = Image.open(answer)
            assert picture.format == "JPEG" and picture.width >= 600
        assert server.get(f"{address}.json") == shipped(name)
    ours = {
        entry["name"]: key
        for key, entry in server.get("/global_subgraphs").items()
        if entry["info"]["node_pack"] == f"custom_nodes.{PACK}"
    }
    assert set(ours) == set(BLUEPRINTS)
    assert "definitions" in server.get(f"/global_subgraphs/{ours['Multi-Chunk Video (Wan)']}")["data"]


def test_the_package_carries_them() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["package-data"]
    for folder in ("workflows", "subgraphs", "locales"):
        for path in (ROOT / folder).rglob("*.*"):
            name = path.relative_to(ROOT).as_posix()
            assert any(fnmatch(name, pattern) for pattern in patterns["anchorshot"]), name


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_server_takes_every_workflow(server: ComfyServer, info: dict[str, Any], name: str) -> None:
    """Every type, widget and value is the server's; of the public models only the content of the files is missing."""
    graph = shipped(name)
    assert unknown_widgets(graph, info) == []
    if name in FILMED:
        return  # those run, below
    answer = server.post("/prompt", {"prompt": to_prompt(graph)})  # RuntimeError if a value is refused
    assert answer["node_errors"] == {}
    history = server.wait(answer["prompt_id"])
    (failed,) = (data for kind, data in history["status"]["messages"] if kind == "execution_error")
    assert failed["node_type"] in LOADERS, failed["exception_message"]


def test_a_changed_widget_is_noticed(info: dict[str, Any]) -> None:
    """What `unknown_widgets` finds: another order, another name, a lost node; appending is fine."""
    graph, sampler = shipped("pocket_film"), "AnchorshotInterleavedKeyframeSampler"

    def faults(change: Any) -> list[str]:
        changed = copy.deepcopy(info)
        change(changed[sampler])
        return unknown_widgets(graph, changed)

    def reorder(entry: dict[str, Any]) -> None:
        order = entry["input_order"]["required"]
        a, b = order.index("steps"), order.index("cfg")
        order[a], order[b] = order[b], order[a]

    def rename(entry: dict[str, Any]) -> None:
        order, inputs = entry["input_order"]["required"], entry["input"]["required"]
        order[order.index("steps")] = "count"
        inputs["count"] = inputs.pop("steps")

    def append(entry: dict[str, Any]) -> None:
        entry["input_order"]["optional"].append("later")
        entry["input"]["optional"]["later"] = ["INT", {"default": 0}]

    assert faults(append) == []
    for change in (reorder, rename):
        (fault,) = faults(change)
        assert fault.startswith(sampler)
    lost = {name: entry for name, entry in info.items() if name != sampler}
    assert unknown_widgets(graph, lost) == [f"{sampler}: no such node"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_is_neat_and_says_what_it_needs(name: str) -> None:
    """Nothing overlaps, groups have titles, and the note names every model file with its folder."""
    graph = shipped(name)
    for part in [graph, *(graph.get("definitions") or {}).get("subgraphs", [])]:
        assert overlaps(part, framed=part is graph) == []
    assert len({group["title"] for group in graph["groups"]}) == len(graph["groups"]) > 3
    note = "\n".join(node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote")
    loaded = {
        value
        for node in [*graph["nodes"], *inner_nodes(graph)]
        for value in node.get("widgets_values") or []
        if isinstance(value, str) and value.endswith(".safetensors")
    }
    assert bool(loaded) == (name not in FILMED)
    wanted = {(file, folder) for file in loaded for folder in FILES[file].folders}
    for file, folder in wanted:
        assert f"| `{file}` | `models/{folder}` |" in note, file
    listed = [model for node in graph["nodes"] for model in node["properties"].get("models", [])]
    assert {(model["name"], model["directory"]) for model in listed} == wanted
    for model in listed:
        file = FILES[model["name"]]
        assert model["url"] == f"{file.base}/{file.remote or model['name']}"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_workflow_says_of_times_is_accepted(info: dict[str, Any], folders: Path, name: str) -> None:
    """By the nodes themselves, with the values that they are saved with: timelines, and storyboards."""
    from anchorshot.comfyui.story import read_story
    from anchorshot.nodes.timeline import KeyframeTimeline

    prompt = to_prompt(shipped(name))
    for node in (node for node in prompt.values() if node["class_type"] == "AnchorshotKeyframeTimeline"):
        values = {key: value for key, value in node["inputs"].items() if not isinstance(value, list)}
        assert KeyframeTimeline.validate_inputs(timeline=values["timeline"]) is True
        planned, _, frames, *_ = KeyframeTimeline.execute(**values).args
        asked = json.loads(values["timeline"])["keyframes"]
        assert len(planned.keyframes) == len(asked) and frames == planned.frames
        for key, wish in zip(planned.keyframes, asked, strict=True):
            assert abs(key.requested.seconds - wish["requested"]) <= 0.5 / values["fps"]
        assert all(frame < planned.frames for frame in planned.keyframe_frames)
    for node in (node for node in prompt.values() if node["class_type"] == "AnchorshotStoryboard"):
        board = read_story(node["inputs"]["story"])
        assert all(shot.timeline(board.fps).keyframes for shot in board.shots)


def _empty(value: Any, field: str = "") -> Iterator[str]:
    """Fields that hold null."""
    if value is None:
        yield field
    for key, inner in value.items() if isinstance(value, dict) else []:
        yield from _empty(inner, key)
    for inner in value if isinstance(value, list) else []:
        yield from _empty(inner, field)


@pytest.mark.parametrize("path", sorted(ROOT.glob("workflows/*.json")) + sorted(ROOT.glob("subgraphs/*.json")), ids=str)
def test_no_field_is_null_that_newer_frontends_want_filled(path: Path) -> None:
    """`slot_index: null` makes them call the whole workflow invalid; a connection may be missing."""
    assert set(_empty(json.loads(path.read_text("utf-8")))) <= {"link", "links"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_docs_list_it_with_its_files(name: str) -> None:
    """LoRAs are an extra that only the workflow's note speaks of."""
    page = (ROOT / "docs" / "comfyui.md").read_text("utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| *{TITLES[name]}* |"))
    models = [model for node in shipped(name)["nodes"] for model in node["properties"].get("models", [])]
    needed = {(Path(model["name"]).stem, model["directory"]) for model in models if model["directory"] != "loras"}
    listed = {(file, part.split("`")[1]) for part in row.split("|")[3].split(" · ") if ":" in part
              for file in part.split(":")[1].replace(" ", "").split(",")}  # fmt: skip
    assert listed == needed


def test_overlaps_are_noticed() -> None:
    graph = shipped("pocket_film")
    moved, outside = copy.deepcopy(graph), copy.deepcopy(graph)
    moved["nodes"][1]["pos"] = moved["nodes"][2]["pos"]
    outside["nodes"][1]["pos"] = [-5000, 0]
    assert any(" / " in fault for fault in overlaps(moved))
    assert len(overlaps(outside)) == 1


@pytest.mark.parametrize(
    ("name", "frames", "rate"),
    [
        ("pocket_timeline", 19, 8),
        ("pocket_story", 51, 8),
        ("pocket_pairs_film", 5 * 18, 8),
        ("pocket_film_sr", 19, 8),
        ("extend_video", 17 + 8, 8),
    ],
)
def test_a_pocket_workflow_makes_a_video(server: ComfyServer, name: str, frames: int, rate: int) -> None:
    """Through /prompt, as loaded; the film itself is compared with the command line's in test_film_parity.py."""
    prompt = to_prompt(shipped(name))
    if name in ("pocket_film_sr", "extend_video"):  # their keyframes and clips are made as in the others
        for node in prompt.values():
            node["inputs"] |= {"steps": 2} if "steps" in node["inputs"] else {}
    history = server.run(prompt, timeout=900)
    assert history["status"]["status_str"] == "success", history["status"]
    outputs = history["outputs"].items()
    (saved,) = (made["images"][0] for key, made in outputs if prompt[key]["class_type"] == "SaveVideo")
    with av.open(str(Path(server.base, "output", saved["subfolder"], saved["filename"]))) as video:
        stream = video.streams.video[0]
        assert sum(1 for _ in video.decode(stream)) == frames
        size = (320, 160) if name == "pocket_film_sr" else (160, 80)
        assert (stream.width, stream.height, stream.average_rate) == (*size, rate)
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_blueprints_wrap_a_sampler(info: dict[str, Any], name: str) -> None:
    """One node outside; inside every type is known, every input leads somewhere."""
    graph = blueprint(name)
    (outer,) = graph["nodes"]
    (inner,) = graph["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"] and inner["name"] == name
    assert re.fullmatch("Anchorshot/(keyframes|pairs|video)", inner["category"]) and len(inner["description"]) > 40
    assert unknown_widgets({"nodes": inner["nodes"]}, info) == []
    assert any(re.search("Sampler|Predictor", node["type"]) for node in inner["nodes"])
    assert all(slot["linkIds"] for slot in [*inner["inputs"], *inner["outputs"]])
    assert [slot["name"] for slot in outer["inputs"]] == [slot["name"] for slot in inner["inputs"]]
