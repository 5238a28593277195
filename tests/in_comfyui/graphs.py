"""Saved graphs without a browser: what a queue gets from one, and where its nodes stand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from in_comfyui.server import ROOT
from in_comfyui.shipped.titles import TITLES

__all__ = ["blueprint", "inner_nodes", "overlaps", "queueable", "shipped", "to_prompt", "unknown_widgets"]

Graph = dict[str, Any]

NOTES = ("MarkdownNote", "Note")
TITLE = 30
"""Height of a node's title, which stands above its position."""

BYPASSED, MUTED = 4, 2
OUTSIDE = -10
"""What a subgraph's links from its own inputs name as their origin."""

_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"}


def shipped(name: str) -> Graph:
    """The shipped workflow that the builder calls `name`."""
    return dict(json.loads((ROOT / "workflows" / f"{TITLES[name]}.json").read_text("utf-8")))


def blueprint(name: str) -> Graph:
    """subgraphs/`name`.json."""
    return dict(json.loads((ROOT / "subgraphs" / f"{name}.json").read_text("utf-8")))


def queueable(graph: Graph) -> Iterator[dict[str, Any]]:
    """Nodes that run: no notes, nothing bypassed or muted."""
    for node in graph["nodes"]:
        if node["type"] not in NOTES and node["mode"] not in (BYPASSED, MUTED):
            yield node


def inner_nodes(graph: Graph) -> list[dict[str, Any]]:
    """Nodes of the subgraphs that a graph defines, each once."""
    return [node for part in _subgraphs(graph).values() for node in part["nodes"]]


def to_prompt(graph: Graph) -> dict[str, Any]:
    """The API format of a graph, as the frontend's own `graphToPrompt` makes it."""
    prompt: dict[str, Any] = {}
    _queue(graph, "", {}, _subgraphs(graph), prompt)
    return prompt


def _queue(scope: Graph, prefix: str, given: Graph, subgraphs: Mapping[str, Graph], prompt: dict[str, Any]) -> None:
    """Add the nodes of a graph, or of a subgraph's node whose inputs are `given`."""
    nodes = {node["id"]: node for node in scope["nodes"]}
    links = _origins(scope)

    def source(number: int) -> Any:
        origin, slot = links[number]
        if origin == OUTSIDE:
            return given.get(scope["inputs"][slot]["name"])
        node = nodes[origin]
        if node["mode"] == BYPASSED:  # what comes in of that type goes out
            kind = node["outputs"][slot]["type"]
            through = next((i["link"] for i in node["inputs"] if i["type"] == kind and i["link"]), None)
            return None if through is None else source(through)
        if node["type"] in subgraphs:
            part = subgraphs[node["type"]]
            inner, slot = _origins(part)[part["outputs"][slot]["linkIds"][0]]
            return [f"{prefix}{origin}:{inner}", slot]
        return [f"{prefix}{origin}", slot]

    for node in queueable(scope):
        linked = {i["name"]: source(i["link"]) for i in node["inputs"] if i.get("link") is not None}
        inputs = {**(node.get("widgets_values_named") or {}), **{k: v for k, v in linked.items() if v is not None}}
        if node["type"] in subgraphs:
            _queue(subgraphs[node["type"]], f"{prefix}{node['id']}:", inputs, subgraphs, prompt)
        else:
            prompt[f"{prefix}{node['id']}"] = {"class_type": node["type"], "inputs": inputs}


def _origins(scope: Graph) -> dict[int, tuple[int, int]]:
    """Node and output that every link comes from; subgraphs name a link's parts, in the same order."""
    links = (link.values() if isinstance(link, dict) else link for link in scope["links"])
    return {number: (origin, slot) for number, origin, slot, *_ in links}


def _subgraphs(graph: Graph) -> dict[str, Graph]:
    return {part["id"]: part for part in (graph.get("definitions") or {}).get("subgraphs", [])}


def unknown_widgets(graph: Graph, info: Mapping[str, Any]) -> list[str]:
    """Widgets of the graph that the server's nodes (`/object_info`) do not have in that order.

    Old frontends read `widgets_values` by position, so a changed order gives values to the wrong widgets.
    """
    faults = []
    subgraphs = _subgraphs(graph)
    for node in [*queueable(graph), *inner_nodes(graph)]:
        if node["type"] in subgraphs:
            continue
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


def overlaps(graph: Graph, framed: bool = True) -> list[str]:
    """Nodes and groups that stand on each other, and where groups frame them all, nodes that stand in none."""
    boxes = {f"{n['type']} {n['id']}": (n["pos"][0], n["pos"][1] - TITLE, *n["size"]) for n in graph["nodes"]}
    boxes = {name: (x, y, w, h + TITLE) for name, (x, y, w, h) in boxes.items()}
    groups = {f"group {g['title']}": tuple(g["bounding"]) for g in graph["groups"]}
    faults = [f"{a} / {b}" for part in (boxes, groups) for a, b in combinations(part, 2) if _meet(part[a], part[b])]
    if not framed:
        return faults
    faults += [name for name, box in boxes.items() if sum(_inside(box, frame) for frame in groups.values()) != 1]
    return faults


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


def _inside(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[0] + a[2] <= b[0] + b[2] and a[1] + a[3] <= b[1] + b[3]
