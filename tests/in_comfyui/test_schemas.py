"""What saved workflows and people depend on: schemas that only grow, words in two languages, a light import."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from in_comfyui.server import COMFYUI, ROOT

from anchorshot import comfy_entrypoint
from anchorshot.nodes import NODES

SNAPSHOT = Path(__file__).with_name("snapshots") / "schemas.json"
LANGUAGES = ("en", "zh")


def schema_of(node: Any) -> dict[str, Any]:
    """What a saved workflow depends on: ids, order and types."""
    schema = node.GET_SCHEMA()
    inputs = [[i.id, i.get_io_type(), bool(i.optional)] for i in schema.inputs]
    outputs = [[o.id, o.io_type, bool(o.is_output_list)] for o in schema.outputs]
    return {"inputs": inputs, "outputs": outputs, "takes_lists": schema.is_input_list}


def updated(path: Path, data: dict[str, Any]) -> None:
    """Write `data` if the environment asks for it."""
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


def accepts(now: list[Any], was: list[Any]) -> bool:
    """Whether a socket serves where the one before it did: the same, or one that takes further types, too."""
    return now[::2] == was[::2] and set(was[1].split(",")) <= set(now[1].split(","))


def broken(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What of `old` a workflow saved with it would miss in `new`; what is appended breaks nothing."""
    faults = [f"{name}: the node is gone" for name in old if name not in new]
    for name in old.keys() & new.keys():
        was, now = old[name], new[name]
        if was["takes_lists"] != now["takes_lists"]:
            faults.append(f"{name}: takes lists is {now['takes_lists']}, was {was['takes_lists']}")
        for part in ("inputs", "outputs"):
            kept = now[part][: len(was[part])]
            if len(kept) < len(was[part]) or not all(map(accepts, kept, was[part])):
                faults.append(f"{name}: its first {part} are {kept}, were {was[part]}")
        # A new input must not be missing in workflows that were saved before there was one.
        added = now["inputs"][len(was["inputs"]) :]
        faults += [f"{name}: the new input {i} must be optional" for i, _, optional in added if not optional]
    return faults


def test_schemas_only_grow() -> None:
    """Removed, renamed, reordered or retyped inputs and outputs break saved workflows.

    After adding a node or an input, run once with UPDATE_SNAPSHOTS=1.
    """
    now = {node.GET_SCHEMA().node_id: schema_of(node) for node in NODES}
    old = json.loads(SNAPSHOT.read_text("utf-8")) if SNAPSHOT.exists() else {}
    assert broken(old, now) == []
    updated(SNAPSHOT, now)
    assert now == json.loads(SNAPSHOT.read_text("utf-8")), "new parts are not in the snapshot yet"


def test_the_snapshot_test_sees_faults() -> None:
    old = {"N": {"inputs": [["a", "INT", False], ["b", "INT", False]], "outputs": [["o", "INT", False]],
                 "takes_lists": False}}  # fmt: skip

    def changed(**parts: Any) -> dict[str, Any]:
        return {"N": old["N"] | parts}

    appended = [*old["N"]["inputs"], ["c", "INT", True]]
    assert broken(old, changed(inputs=appended)) == []
    assert broken(old, changed(inputs=[*old["N"]["inputs"], ["c", "INT", False]]))  # required
    assert broken(old, changed(inputs=appended[::-1]))  # reordered
    assert broken(old, changed(inputs=appended[:1]))  # removed
    assert broken(old, changed(inputs=[["a", "FLOAT", False], ["b", "INT", False]]))  # retyped
    assert broken(old, changed(inputs=[["a", "FLOAT,INT", False], ["b", "INT", False]])) == []  # takes more
    assert broken(old, changed(outputs=[["o", "INT", True]]))
    assert broken(old, {"M": old["N"]})  # renamed


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_node_tells_what_it_is(node: Any) -> None:
    """Ids, categories, search words; every tooltip names its default, numbers have bounds."""
    schema = node.GET_SCHEMA()
    assert schema.node_id.startswith("Anchorshot") and schema.category.split("/")[0] == "Anchorshot"
    assert len(schema.description) > 40 and len(schema.search_aliases) >= 3 and schema.display_name
    for part in [*schema.inputs, *schema.outputs]:
        assert part.tooltip and part.tooltip.endswith("."), part.id
    for part in schema.inputs:
        kind = part.get_io_type().split(",")[0]
        assert "efault" in part.tooltip or kind not in {"INT", "FLOAT", "COMBO", "STRING", "BOOLEAN"}, part.id
        if part.get_io_type() in {"INT", "FLOAT"}:
            assert part.min is not None and part.max is not None and part.default is not None, part.id
            assert part.min <= part.default <= part.max


def test_node_files_are_readable_by_scanners() -> None:
    """ComfyUI Manager reads the syntax tree: classes derive from io.ComfyNode directly, node ids are literals."""
    found = {}
    for path in sorted((ROOT / "nodes").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "io.ComfyNode" for base in node.bases):
                ids = [k.value for call in ast.walk(node) if isinstance(call, ast.Call) for k in call.keywords
                       if k.arg == "node_id"]  # fmt: skip
                assert len(ids) == 1 and isinstance(ids[0], ast.Constant), node.name
                found[node.name] = ids[0].value
    assert sorted(found.values()) == sorted(node.GET_SCHEMA().node_id for node in NODES)


def test_entrypoint_gives_all_nodes() -> None:
    extension = asyncio.run(comfy_entrypoint())
    assert asyncio.run(extension.get_node_list()) == NODES


def test_nodes_need_nothing_that_comfyui_lacks() -> None:
    """All node code, also what is imported when a node runs, does without the libraries of the headless side.

    And at ComfyUI's start no torch operation runs, and nothing is imported that only a running node needs.
    """
    paths = [*(ROOT / "nodes").glob("*.py"), *(ROOT / "comfyui").glob("*.py")]
    modules = sorted(f"{path.parent.name}.{path.stem}" for path in paths if path.stem != "__init__")
    code = f"""
import sys, importlib
sys.path.insert(0, {str(COMFYUI)!r})
import comfy.cli_args
comfy.cli_args.args.cpu = True
for name in ("diffusers", "open_clip", "accelerate", "peft", "rich", "matplotlib"):
    sys.modules[name] = None  # importing it fails
import anchorshot
assert "torch" not in vars(anchorshot) and not [m for m in sys.modules if m.startswith("anchorshot.")]
import torch, comfy_api.latest, comfy.samplers
from torch.utils._python_dispatch import TorchDispatchMode
class Work(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        raise AssertionError("torch works at import: " + str(operation))
with Work():
    import anchorshot.nodes
    for node in anchorshot.nodes.NODES:
        node.GET_SCHEMA()
heavy = [m for m in sys.modules if m.startswith(("anchorshot.models", "anchorshot.sampling", "anchorshot.story.story"))]
assert not heavy, heavy
for name in {modules!r}:
    importlib.import_module("anchorshot." + name)
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=COMFYUI)
    assert done.stdout.strip().endswith("fine"), done.stderr[-2000:]


def locale(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def definition(node: Any) -> dict[str, Any]:
    """A node's entry in locales/en/nodeDefs.json."""
    schema = node.GET_SCHEMA()
    inputs = {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs}
    outputs = {str(k): {"name": o.display_name, "tooltip": o.tooltip} for k, o in enumerate(schema.outputs)}
    return {"display_name": schema.display_name, "description": schema.description} | (
        {"inputs": inputs, "outputs": outputs} if inputs else {"outputs": outputs}
    )


def test_english_locale_is_what_the_nodes_say() -> None:
    """After changing a text, run once with UPDATE_SNAPSHOTS=1."""
    texts = {node.GET_SCHEMA().node_id: definition(node) for node in NODES}
    updated(ROOT / "locales" / "en" / "nodeDefs.json", texts)
    assert locale("en") == texts


def test_chinese_locale_is_complete() -> None:
    english, chinese = locale("en"), locale("zh")
    assert chinese.keys() == english.keys()
    for name, entry in english.items():
        for part in ("inputs", "outputs"):
            assert chinese[name].get(part, {}).keys() == entry.get(part, {}).keys(), name
            for key, texts in chinese[name].get(part, {}).items():
                assert texts["name"] and any("\u4e00" <= c <= "\u9fff" for c in texts["tooltip"]), (name, key)
        assert any("\u4e00" <= c <= "\u9fff" for c in chinese[name]["description"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_has_a_help_page(language: str) -> None:
    """And the page speaks of every input and output by its name."""
    for node in NODES:
        schema = node.GET_SCHEMA()
        page = (ROOT / "web" / "docs" / schema.node_id / f"{language}.md").read_text("utf-8")
        names = [i.id for i in schema.inputs] + [o.display_name for o in schema.outputs]
        assert not [name for name in names if f"`{name}`" not in page], schema.node_id
        # The frontend takes addresses from the folder of all pages, and cuts lines of code at its panel's edge.
        pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page)
        assert all((ROOT / "web" / "docs" / picture).is_file() for picture in pictures), schema.node_id
        code = "".join(re.findall(r"```\w*\n(.*?)```", page, re.DOTALL))
        assert max(map(len, code.splitlines()), default=0) <= 28, schema.node_id


def test_a_node_needs_its_schema_and_one_call(studio: dict[str, Any]) -> None:
    """A node of this file's own, on the pack's sockets, checks and memory; nothing else had to be touched."""
    import torch
    from comfy_api.latest import io

    from anchorshot.comfyui.checks import checked
    from anchorshot.comfyui.frame_encoders import ComfyEncoders
    from anchorshot.memory.frame_memory import FrameMemory, MemoryFrame
    from anchorshot.memory.golden_mem import GoldenMem
    from anchorshot.nodes.sockets import Context

    class NewestFrame(io.ComfyNode):
        """The frame that a memory puts first."""

        @classmethod
        def define_schema(cls) -> io.Schema:
            return io.Schema(
                node_id="TestNewestFrame",
                category="Anchorshot/test",
                inputs=[Context.Input("context"), io.Int.Input("rank", default=0, min=0, max=9)],
                outputs=[io.Image.Output("image")],
            )

        @classmethod
        @checked()
        def execute(cls, context: FrameMemory[ComfyEncoders], rank: int = 0) -> io.NodeOutput:
            return io.NodeOutput(context.recall()[rank].frame.image.movedim(1, -1))

    images = torch.rand(2, 80, 160, 3)
    frames = tuple(MemoryFrame(image.movedim(-1, 0)[None]) for image in images)
    memory = FrameMemory(ComfyEncoders(studio["vae"]), GoldenMem(), "recency", frames=frames)
    assert torch.equal(NewestFrame.execute(memory).args[0], images[1:])
    assert torch.equal(NewestFrame.execute(memory, rank=1).args[0], images[:1])
    with pytest.raises(ValueError, match="rank: must be a whole number of at least 0 and at most 9"):
        NewestFrame.execute(memory, rank=10)
    assert broken({}, {"TestNewestFrame": schema_of(NewestFrame)}) == [] and NewestFrame not in NODES
