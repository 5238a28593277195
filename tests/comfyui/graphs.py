"""Saved graphs without a browser: what a queue gets from one, and where its nodes stand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from comfyui.server import ROOT

__all__ = ["blueprint", "overlaps", "queueable", "shipped", "to_prompt", "unknown_widgets"]

Graph = dict[str, Any]

NOTES = ("MarkdownNote", "Note")
TITLE = 30
"""Height of a node's title, which stands above its position."""

BYPASSED, MUTED = 4, 2
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}


def shipped(name: str) -> Graph:
    """workflows/`name`.json."""
    return dict(json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8")))


def blueprint(name: str) -> Graph:
    """subgraphs/`name`.json."""
    return dict(json.loads((ROOT / "subgraphs" / f"{name}.json").read_text("utf-8")))


def queueable(graph: Graph) -> Iterator[dict[str, Any]]:
    """Nodes that run: no notes, nothing bypassed or muted."""
    for node in graph["nodes"]:
        if node["type"] not in NOTES and node["mode"] not in (BYPASSED, MUTED):
            yield node


def to_prompt(graph: Graph) -> dict[str, Any]:
    """The API format of a flat graph, as the frontend's own `graphToPrompt` makes it."""
    links = {link[0]: link for link in graph["links"]}
    nodes = {node["id"]: node for node in graph["nodes"]}

    def source(number: int) -> list[Any]:
        _, origin, slot, *_ = links[number]
        node = nodes[origin]
        if node["mode"] == BYPASSED:  # what comes in of that type goes out
            kind = node["outputs"][slot]["type"]
            return source(next(i["link"] for i in node["inputs"] if i["type"] == kind and i["link"]))
        return [str(origin), slot]

    prompt = {}
    for node in queueable(graph):
        inputs = dict(node.get("widgets_values_named") or {})
        inputs |= {i["name"]: source(i["link"]) for i in node["inputs"] if i.get("link") is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def unknown_widgets(graph: Graph, info: Mapping[str, Any]) -> list[str]:
    """Widgets of the graph that the server's nodes (`/object_info`) do not have in that order.

    Old frontends read `widgets_values` by position, so a changed order gives values to the wrong widgets.
    """
    faults = []
    for node in queueable(graph):
        if node["type"] not in info:
            faults.append(f"{node['type']}: no such node")
            continue
        saved = [name for name in node.get("widgets_values_named") or {}]
        known = list(_widgets(info[node["type"]]))
        own = [name for name in saved if name in known]
        if own != known[: len(own)] or any(name not in known and not _frontends(name, node) for name in saved):
            faults.append(f"{node['type']}: widgets {saved}, the server has {known}")
    return faults


def _widgets(entry: Mapping[str, Any]) -> Iterator[str]:
    for part in ("required", "optional"):
        for name in entry["input_order"].get(part, []):
            kind, *options = entry["input"][part][name]
            given = options[0] if options else {}
            types = {"COMBO"} if isinstance(kind, list) else set(kind.split(","))
            if types & _WIDGETS and not given.get("forceInput"):
                yield name


def _frontends(name: str, node: Mapping[str, Any]) -> bool:
    """Whether the frontend adds that widget by itself: what happens to a seed, an upload button, a dynamic part."""
    return name in {"control_after_generate", "fixed", "upload"} or any(
        name.startswith(f"{other}.") for other in node["widgets_values_named"]
    )


def overlaps(graph: Graph) -> list[str]:
    """Nodes and groups that stand on each other, and nodes that stand in no group."""
    boxes = {f"{n['type']} {n['id']}": (n["pos"][0], n["pos"][1] - TITLE, *n["size"]) for n in graph["nodes"]}
    boxes = {name: (x, y, w, h + TITLE) for name, (x, y, w, h) in boxes.items()}
    groups = {f"group {g['title']}": tuple(g["bounding"]) for g in graph["groups"]}
    faults = [f"{a} / {b}" for part in (boxes, groups) for a, b in combinations(part, 2) if _meet(part[a], part[b])]
    faults += [name for name, box in boxes.items() if sum(_inside(box, frame) for frame in groups.values()) != 1]
    return faults


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _inside(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[0] + a[2] <= b[0] + b[2] and a[1] + a[3] <= b[1] + b[3]
