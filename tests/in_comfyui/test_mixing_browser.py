"""Workflows that were saved before a node's field existed compute what they did; new nodes have today's defaults.

In headless Chromium, with the real frontend on the real server.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from in_comfyui.browser import Frontend, missing, opened
from in_comfyui.server import ComfyServer

from anchorshot.nodes import mixing

LACKING = missing()
if LACKING:
    warnings.warn(f"mixing browser tests SKIPPED: {LACKING}", stacklevel=1)
pytestmark = pytest.mark.skipif(LACKING is not None, reason=LACKING or "")

DIPW = ("AnchorshotDIPWGuider", "AnchorshotDIPWModelPatch")


@pytest.fixture(scope="module")
def frontend(server: ComfyServer) -> Iterator[Frontend]:
    with opened(server) as page:
        yield page


def fields(frontend: Frontend, kind: str, kept: int | None) -> dict[str, Any]:
    """Fields of a node as it is when new (None), or in a workflow that was saved with its first `kept` fields."""
    frontend.clear()
    found: dict[str, Any] = frontend.js(
        """
        const node = LiteGraph.createNode(given.kind)
        app.graph.add(node)
        const saved = app.graph.serialize()
        if (given.kept !== null) {
          saved.nodes[0].widgets_values = saved.nodes[0].widgets_values.slice(0, given.kept)
          saved.nodes[0].inputs = saved.nodes[0].inputs.slice(0, -1)
        }
        await app.loadGraphData(saved)
        const again = app.graph.serialize()
        await app.loadGraphData(again)
        return Object.fromEntries(app.graph.nodes[0].widgets.map((widget) => [widget.name, widget.value]))
        """,
        {"kind": kind, "kept": kept},
    )
    return found


def defaults(kind: str) -> dict[str, Any]:
    node = next(node for node in (mixing.DIPWGuider, mixing.DIPWModelPatch, mixing.SAR) if node.__name__ in kind)
    return {i.id: i.default for i in node.GET_SCHEMA().inputs if hasattr(i, "default")}


@pytest.mark.parametrize("kind", DIPW)
def test_dipw_keeps_the_clock_that_it_was_saved_with(frontend: Frontend, kind: str) -> None:
    new = fields(frontend, kind, None)
    assert (new["progress_shift"], new["progress_clock"]) == (mixing.PROGRESS_SHIFT, "noise")
    names = list(new)
    assert names[-2:] == ["progress_shift", "progress_clock"] and new == {k: defaults(kind)[k] for k in names}
    # Saved with a shift of its own (here the default), and before there was one.
    before = fields(frontend, kind, len(names) - 1)
    assert before == new | {"progress_clock": "steps"}
    assert fields(frontend, kind, len(names) - 2) == new | {"progress_clock": "steps", "progress_shift": 1}


def test_sar_keeps_its_bounds(frontend: Frontend) -> None:
    new = fields(frontend, "AnchorshotSAR", None)
    assert new["bounded"] is False and list(new)[:4] == ["previous_action", "action", "gamma", "encoding"]
    assert fields(frontend, "AnchorshotSAR", 4) == new | {"bounded": True}
    assert not frontend.errors
