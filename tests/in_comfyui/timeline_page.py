"""The timeline widget in a page: what tests do with it by hand, and what it wrote."""

from __future__ import annotations

import json
from typing import Any

from in_comfyui.browser import Frontend

from anchorshot.comfyui.timeline import plan, read_edit

__all__ = ["NODE", "THREE", "Timeline"]

NODE = "AnchorshotKeyframeTimeline"
THREE = '{"keyframes": [{"requested": 0}, {"requested": 2}, {"requested": 3}]}'  # frames 0, 33, 50 of 79 at 16 fps


class Timeline:
    """The one timeline node of a fresh graph, and its widget."""

    def __init__(self, frontend: Frontend, text: str = THREE, **fields: Any) -> None:
        self.frontend, self.page = frontend, frontend.page
        frontend.errors.clear()
        frontend.clear()
        frontend.js(
            """
            const node = LiteGraph.createNode(given.type);
            node.pos = [340, 130];
            app.graph.add(node);
            for (const [name, value] of Object.entries(given.values))
              node.widgets.find((widget) => widget.name === name).value = value;
            app.canvas.setDirty(true, true);
            """,
            {"type": NODE, "values": {**fields, "timeline": text}},
        )
        self.root = self.page.locator(".anchorshot-timeline:visible")
        self.root.wait_for()
        self.keys = self.root.locator(".ast-key")
        self.borders = self.root.locator(".ast-border")
        self.end = self.root.locator(".ast-end")
        frontend.settle()
        self.frontend.js("app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState()")
        self.undo_steps = self.steps()

    def widget(self, name: str) -> Any:
        """A field's value as the node holds it."""
        body = "return app.graph.nodes.find((n) => n.type === given[0]).widgets.find((w) => w.name === given[1]).value"
        return self.frontend.js(body, [NODE, name])

    def steps(self) -> int:
        """How many changes can be undone."""
        return int(
            self.frontend.js("return app.extensionManager.workflow.activeWorkflow.changeTracker.undoQueue.length")
        )

    def changed(self) -> None:
        """Checks that there is one more undo step since the last look."""
        self.frontend.settle()
        assert self.steps() - self.undo_steps == 1
        self.undo_steps += 1

    def written(self) -> dict[str, Any]:
        """What the widget wrote, in one undo step since the last look; checks that Python plans the same."""
        self.changed()
        text = self.widget("timeline")
        data = json.loads(text)
        planned = plan(read_edit(text), self.widget("fps"), self.widget("seconds")).to_dict()
        assert {name: value for name, value in data.items() if name != "durations"} == planned
        assert not self.frontend.errors
        return dict(data)

    def asked(self) -> list[float]:
        """Requested frames of the keyframes."""
        data = json.loads(self.widget("timeline"))
        return [round(key["requested"] * data["fps"], 3) for key in data["keyframes"]]

    def pixels(self, frames: float) -> float:
        """How far `frames` are on the axis."""
        first, second = (self.keys.nth(k).bounding_box() for k in (0, 1))
        shown = [int(self.keys.nth(k).get_attribute("data-frame") or "nan") for k in (0, 1)]
        assert first and second
        return frames * (second["x"] - first["x"]) / (shown[1] - shown[0])

    def drag(self, handle: Any, frames: float, release: bool = True) -> None:
        """Drag a handle by that many frames, with the mouse, in several moves."""
        box = handle.bounding_box()
        assert box
        # The middle of the line: a keyframe's element is as wide as what it shows.
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        by = self.pixels(frames)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for share in (0.3, 0.7, 1):
            self.page.mouse.move(x + by * share, y)
        if release:
            self.page.mouse.up()
