"""The Storyboard node in the frontend: tall when new, as saved when it comes from a graph."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
from comfyui.browser import Frontend, missing, opened
from comfyui.server import ComfyServer

LACKING = missing()
if LACKING:
    warnings.warn(f"storyboard browser test SKIPPED: {LACKING}", stacklevel=1)
pytestmark = pytest.mark.skipif(LACKING is not None, reason=LACKING or "")


@pytest.fixture
def frontend(server: ComfyServer) -> Iterator[Frontend]:
    with opened(server) as page:
        yield page


def test_a_new_storyboard_shows_its_text_and_a_saved_one_keeps_its_size(frontend: Frontend) -> None:
    frontend.clear()
    made = frontend.js(
        """
        const node = LiteGraph.createNode('AnchorshotStoryboard');
        app.graph.add(node);
        const fresh = [...node.size];
        node.setSize([500, 700]);
        await app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())));
        return {fresh, loaded: [...app.graph.nodes[0].size]};
        """
    )
    assert made["fresh"][0] >= 400 and made["fresh"][1] >= 500
    assert [round(side) for side in made["loaded"]] == [500, 700]
    frontend.settle()
    frontend.shot("storyboard")
    assert not frontend.errors
