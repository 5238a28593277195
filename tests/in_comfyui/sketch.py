"""Graphs described in Python, drawn and saved by ComfyUI's real frontend: how the shipped workflows are made.

    sketch = Sketch()
    with sketch.group("1 · Story"):
        story = sketch.add("AnchorshotStoryboard", story="...")
        sketch.column()
        sketch.add("CLIPTextEncode", text=story["prompts"], clip=...)
    workflow = draw(frontend, sketch)

Groups stand beside each other in rows, columns beside each other in a group, and nodes below each other in a column, at
the sizes that the frontend gives them: so nothing overlaps, and links run from left to right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from in_comfyui.browser import Frontend

__all__ = ["BLUE", "GREEN", "GREY", "PURPLE", "Output", "Placed", "Sketch", "draw", "draw_blueprint"]

GREEN, BLUE, PURPLE, GREY = "#8AA88A", "#3f789e", "#a07fb5", "#9a9a9a"
"""Frames of groups: readable titles on the dark and on the light theme."""


@dataclass(frozen=True)
class Output:
    """An output of a node, by name or number."""

    node: int
    slot: str | int


@dataclass(frozen=True)
class Placed:
    """A node of the sketch; `node["name"]` is one of its outputs."""

    number: int

    def __getitem__(self, slot: str | int) -> Output:
        return Output(self.number, slot)


@dataclass
class Sketch:
    """Nodes in columns in groups; for a blueprint also its own inputs and outputs.

    What it holds is plain data, as the page gets it. `subgraphs` are sketches with one group and inputs and outputs, by
    name; `add` takes that name as a node's type, as often as wanted.
    """

    nodes: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    subgraphs: dict[str, Sketch] = field(default_factory=dict)
    inputs: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    outputs: dict[str, tuple[int, str | int]] = field(default_factory=dict)
    description: str = ""

    @contextmanager
    def group(self, title: str, color: str = BLUE, *, below: bool = False) -> Iterator[None]:
        """Nodes added in the body are framed together; `below` starts a new row of groups."""
        self.groups.append({"title": title, "color": color, "columns": [[]], "below": below})
        yield

    def column(self) -> None:
        """What follows stands to the right, in the same group."""
        self.groups[-1]["columns"].append([])

    def add(
        self,
        kind: str,
        title: str | None = None,
        *,
        size: tuple[int, int] | None = None,
        models: list[dict[str, str]] | None = None,
        bypassed: bool = False,
        **inputs: Any,
    ) -> Placed:
        """A node of type `kind`; `inputs` are widget values, or outputs of other nodes.

        Args:
            title: shown in place of the type's own.
            size: least (width, height); the frontend's own size counts where it is larger.
            models: files that the node loads, as the frontend's list of missing models wants them.
            bypassed: what comes in goes out as it is.
        """
        number = len(self.nodes)
        values, links = {}, {}
        for name, value in inputs.items():
            if isinstance(value, Output):
                links[name] = [value.node, value.slot]
            else:
                values[name] = value
        self.nodes.append(
            {
                "kind": kind,
                "title": title,
                "size": size,
                "values": values,
                "links": links,
                "models": models,
                "mode": 4 if bypassed else 0,
            }
        )
        self.groups[-1]["columns"][-1].append(number)
        return Placed(number)

    def takes(self, name: str, *targets: tuple[Placed, str]) -> None:
        """A blueprint's input, and the (node, input)s that it leads to; widgets show on the blueprint's node."""
        self.inputs[name] = [(node.number, slot) for node, slot in targets]

    def gives(self, name: str, source: Output) -> None:
        """A blueprint's output, and where it comes from."""
        self.outputs[name] = (source.node, source.slot)

    def note(self, text: str, title: str = "Read me", width: int = 460) -> Placed:
        """Markdown for people, as high as its text."""
        return self.add("MarkdownNote", title, size=(width, 300), **{"": text})


_MAKE = """
const make = (graph, wanted) => {
  const node = LiteGraph.createNode(wanted.kind);
  if (!node) throw new Error(`no such node: ${wanted.kind}`);
  graph.add(node);
  if (wanted.title) node.title = wanted.title;
  for (const [name, value] of Object.entries(wanted.values)) {
    const widget = name ? node.widgets?.find((each) => each.name === name) : node.widgets?.[0];
    if (!widget) throw new Error(`${wanted.kind} has no widget ${name}`);
    widget.value = value;
    widget.callback?.(value, app.canvas, node);
  }
  if (wanted.models) node.properties.models = wanted.models;
  if (wanted.kind === 'MarkdownNote') { node.color = '#432'; node.bgcolor = '#653'; }
  node.mode = wanted.mode;
  return node;
};
const inputOf = (node, name) => {
  const slot = node.inputs.findIndex((each) => each.name === name);
  if (slot < 0) throw new Error(`${node.type} has no input ${name}: ${node.inputs.map((each) => each.name)}`);
  return slot;
};
const outputOf = (node, name) => {
  const slot = typeof name === 'number' ? name : node.outputs.findIndex((each) => each.name === name);
  if (!node.outputs[slot]) throw new Error(`${node.type} has no output ${name}`);
  return slot;
};
const build = async (nodes, types = {}) => {
  const made = nodes.map((wanted) => make(app.graph, { ...wanted, kind: types[wanted.kind] ?? wanted.kind }));
  for (const [number, wanted] of nodes.entries())
    for (const [name, [source, output]] of Object.entries(wanted.links)) {
      const from = made[source];
      if (!from.connect(outputOf(from, output), made[number], inputOf(made[number], name)))
        throw new Error(`${from.type} → ${wanted.kind}.${name} is refused`);
      await new Promise(requestAnimationFrame);  // growing inputs settle after a link
    }
  for (const [number, node] of made.entries()) {
    const least = node.computeSize(), size = nodes[number].size ?? [0, 0];
    node.setSize([Math.max(least[0], size[0]), Math.max(least[1], size[1])]);
  }
  await frames(30);
  for (const node of made) {  // a note is as high as its text
    const last = node.widgets?.[0]?.element?.querySelector?.('.tiptap > :last-child');
    if (last) node.setSize([node.size[0], last.offsetTop + last.offsetHeight + 60]);
  }
  return made;
};
const frames = async (count) => {
  for (let i = 0; i < count; i++) {
    app.canvas.setDirty(true, true);
    await new Promise(requestAnimationFrame);
  }
};
"""
"""Makes, links and sizes nodes: `build`."""

_PLACE = """
const [gap, between, padding, head, title] = [60, 70, 40, 110, 30];
const slack = 90;  // nodes that Vue draws are higher, and some grow when they have run
const place = (made, columns, left, top) => {
  let x = left, bottom = top;
  for (const column of columns) {
    let y = top, width = 0;
    for (const number of column) {
      const node = made[number];
      node.pos = [x, y + title];
      y += title + node.size[1] + gap;
      width = Math.max(width, node.size[0]);
    }
    bottom = Math.max(bottom, y - gap);
    x += width + between;
  }
  return [x - between - left, bottom - top + slack];
};
"""
"""Gives nodes their places, column by column; returns how much room they take."""

_FOLD = """
const fold = async (inner, title) => {
  const made = await build(inner.nodes);
  place(made, inner.groups[0].columns, 0, 0);
  const { subgraph, node } = app.graph.convertToSubgraph(new Set(made));
  while (subgraph.inputs.length) subgraph.removeInput(subgraph.inputs[0]);  // the frontend's own choice
  const at = (number) => subgraph.getNodeById(made[number].id);
  for (const [name, targets] of Object.entries(inner.inputs)) {
    const slots = targets.map(([number, input]) => [at(number).inputs[inputOf(at(number), input)], at(number)]);
    const outer = subgraph.addInput(name, String(slots[0][0].type));
    for (const [slot, target] of slots)
      if (!outer.connect(slot, target)) throw new Error(`${name} → ${target.type}.${slot.name} is refused`);
  }
  for (const [name, [number, output]] of Object.entries(inner.outputs)) {
    const source = at(number), slot = source.outputs[outputOf(source, output)];
    subgraph.addOutput(name, String(slot.type)).connect(slot, source);
  }
  await frames(5);
  subgraph.name = title;
  node.pos = [0, 0];
  node.title = title;
  node.setSize([Math.max(380, node.computeSize()[0]), node.computeSize()[1]]);
  return { subgraph, node };
};
"""
"""Folds nodes into one whose inputs and outputs are those that the sketch exposes: `fold`."""

_GROUPS = """
const types = {}, patterns = [];
for (const [name, inner] of Object.entries(given.subgraphs)) {
  const { subgraph, node } = await fold(inner, name);
  types[name] = subgraph.id;
  patterns.push(node);
}
const made = await build(given.nodes, types);
for (const node of patterns) app.graph.remove(node);  // a subgraph without a node would be forgotten
let left = 0, top = 0, lowest = 0;
for (const group of given.groups) {
  if (group.below) [left, top] = [0, lowest + between];
  const [width, height] = place(made, group.columns, left + padding, top + head);
  const frame = new LiteGraph.LGraphGroup(group.title);
  frame.color = group.color;
  frame.font_size = 64;  // legible when the whole graph is in sight
  frame.pos = [left, top];
  frame.size = [width + 2 * padding, height + head + padding];
  app.graph.add(frame);
  left += frame.size[0] + between;
  lowest = Math.max(lowest, top + frame.size[1]);
}
await frames(3);
if (!patterns.length) return app.graph.serialize();
// Nodes of one subgraph get widgets of their own once they have ids, that is, when they are loaded.
const drawn = app.graph.serialize();
const folded = drawn.nodes.filter((node) => Object.values(types).includes(node.type));
for (const [number, { values }] of given.nodes.filter((wanted) => wanted.kind in types).entries()) {
  const node = folded[number], names = Object.keys(node.widgets_values_named);
  node.widgets_values_named = { ...node.widgets_values_named, ...values };
  node.widgets_values = names.map((name) => node.widgets_values_named[name]);
}
await app.loadGraphData(drawn);
await frames(5);
return app.graph.serialize();
"""


def draw(frontend: Frontend, sketch: Sketch) -> dict[str, Any]:
    """Build the graph in the page, node by node, and return it as the frontend saves it.

    Raises:
        playwright's Error: a type, widget, input or output that does not exist, or a link that is refused.
    """
    frontend.clear()
    given = {"nodes": sketch.nodes, "groups": sketch.groups}
    inner = {name: _page(part) for name, part in sketch.subgraphs.items()}
    drawn: dict[str, Any] = frontend.js(_MAKE + _PLACE + _FOLD + _GROUPS, {**given, "subgraphs": inner})
    return _of_any_sitting(drawn, "/".join(sketch.subgraphs))


def _page(part: Sketch) -> dict[str, Any]:
    return {"nodes": part.nodes, "groups": part.groups, "inputs": part.inputs, "outputs": part.outputs}


_MAY_BE_NULL = {"link", "links", "widgets_values", "widgets_values_named"}
"""Where the format of saved graphs itself says null."""


def _without_nothing(part: Any) -> Any:
    """Without the fields that say nothing: newer frontends refuse a null where they want a number or a text."""
    if isinstance(part, list):
        return [_without_nothing(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {
        name: value if name in _MAY_BE_NULL else _without_nothing(value)
        for name, value in part.items()
        if value is not None or name in _MAY_BE_NULL
    }


_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _of_any_sitting(drawn: dict[str, Any], title: str = "") -> dict[str, Any]:
    """Without what tells of one sitting only: where the canvas stood, which frontend drew it, random ids.

    Ids that subgraphs need become others that stay, so that what is drawn anew is the same file.
    """
    drawn = _without_nothing(drawn)
    drawn["extra"] = {}
    drawn.pop("id", None)
    drawn.pop("revision", None)
    text = json.dumps(drawn)
    for number, drawn_id in enumerate(dict.fromkeys(_UUID.findall(text))):
        text = text.replace(drawn_id, str(uuid5(NAMESPACE_URL, f"anchorshot/{title}/{number}")))
    return dict(json.loads(text))


def draw_blueprint(frontend: Frontend, sketch: Sketch, title: str) -> dict[str, Any]:
    """The sketch's only group as one node of the frontend's node library, under `title`; its group names the category.

    Raises:
        playwright's Error: as `draw`.
    """
    frontend.clear()
    (group,) = sketch.groups
    script = _MAKE + _PLACE + _FOLD + "await fold(given, given.title); return app.graph.serialize();"
    drawn: dict[str, Any] = frontend.js(script, {**_page(sketch), "title": title})
    (folded,) = drawn["definitions"]["subgraphs"]
    folded |= {"name": title, "category": group["title"], "description": sketch.description}
    return _of_any_sitting(drawn, title)
