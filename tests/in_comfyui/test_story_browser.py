"""The Storyboard node in the frontend: tall when new, as saved from a graph; its text is checked while it is typed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from in_comfyui.browser import Frontend, missing, opened
from in_comfyui.server import ComfyServer

if TYPE_CHECKING:
    from playwright.sync_api import Locator

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


def new_storyboard(frontend: Frontend, vue: bool) -> Locator:
    """A graph of one new Storyboard, drawn as classic or Vue node; its field of text."""
    frontend.setting("Comfy.VueNodes.Enabled", vue)
    frontend.clear()
    frontend.js(
        """
        const node = LiteGraph.createNode('AnchorshotStoryboard');
        node.pos = [340, 80];
        app.graph.add(node);
        """
    )
    text = frontend.page.locator("textarea:visible").first
    text.wait_for()
    frontend.settle()
    return text


@pytest.mark.parametrize("vue", [False, True], ids=["classic nodes", "nodes 2.0"])
def test_a_text_is_checked_on_a_pause_of_typing(frontend: Frontend, vue: bool) -> None:
    page, text = frontend.page, new_storyboard(frontend, vue)
    size = frontend.js("return [...app.graph.nodes[0].size]")
    text.fill("shots:\n  - id: s01\n    action: hello\n    secnds: 3\n")
    complaint = page.locator(".anchorshot-complaint:visible")
    complaint.wait_for()
    assert (complaint.text_content() or "").startswith("line 4, shots[0].secnds: is not a known field")
    assert text.evaluate("element => element === document.activeElement")
    assert frontend.js("return [...app.graph.nodes[0].size]") == size  # the text makes room: nothing jumps
    frontend.shot(f"typing_{'vue' if vue else 'classic'}")
    text.press_sequentially("    seed: 1\n")  # still wrong
    page.wait_for_timeout(1500)
    assert complaint.count() == 1
    text.fill("shots:\n  - id: s01\n    action: hello\n    seconds: 3\n")
    complaint.wait_for(state="detached")
    assert text.evaluate("element => element === document.activeElement")
    assert frontend.js("return [...app.graph.nodes[0].size]") == size
    assert not frontend.errors


@pytest.mark.parametrize("vue", [False, True], ids=["classic nodes", "nodes 2.0"])
def test_what_a_run_had_to_say_is_seen_in_the_node(frontend: Frontend, vue: bool) -> None:
    """The server's message of an executed Storyboard; a later complaint about the text takes its place."""
    page, text = frontend.page, new_storyboard(frontend, vue)
    frontend.js(
        "app.graph.nodes[0].onExecuted({ text: ['Kim in s01\\nwords this text encoder was not taught: robot'] })"
    )
    said = page.locator(".anchorshot-complaint[role=status]:visible")
    said.wait_for()
    assert (said.text_content() or "").split("\n") == ["Kim in s01", "words this text encoder was not taught: robot"]
    frontend.shot(f"run_said_{'vue' if vue else 'classic'}")
    text.fill("shots:\n  - id: s01\n    action: hello\n    secnds: 3\n")
    page.locator(".anchorshot-complaint[role=alert]:visible").wait_for()
    assert not frontend.errors
