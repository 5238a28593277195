"""The shipped film as a newcomer meets it: from the list of templates to the finished video, by mouse.

In headless Chromium, with the real frontend on the real server.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from in_comfyui.browser import Frontend, missing, opened
from in_comfyui.graphs import shipped, to_prompt
from in_comfyui.server import PACK, ComfyServer
from in_comfyui.shipped import WORKFLOWS
from in_comfyui.shipped.titles import TITLES
from in_comfyui.timeline_page import NODE

from anchorshot.comfyui.timeline import plan, read_edit

LACKING = missing()
if LACKING:
    warnings.warn(f"template browser tests SKIPPED: {LACKING}", stacklevel=1)
pytestmark = pytest.mark.skipif(LACKING is not None, reason=LACKING or "")


@pytest.fixture(scope="module")
def frontend(server: ComfyServer) -> Iterator[Frontend]:
    with opened(server, width=2400, height=1500) as page:
        yield page


def open_template(frontend: Frontend, name: str) -> None:
    """Click through the frontend's list of templates."""
    page = frontend.page
    frontend.errors.clear()
    frontend.clear()
    page.get_by_role("button", name="Templates").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text(PACK, exact=True).click()
    page.wait_for_function(_PICTURES, arg=len(WORKFLOWS))
    frontend.shot("templates")
    dialog.get_by_text(TITLES[name], exact=True).click()
    page.wait_for_function("(count) => window.comfyAPI.app.app.graph.nodes.length === count", arg=len(nodes(name)))
    dialog.wait_for(state="hidden")
    frontend.settle()


_PICTURES = """(count) => [...document.querySelectorAll('[role=dialog] img')]
  .filter((each) => each.naturalWidth > 0).length === count"""


def come_near(frontend: Frontend, kind: str) -> None:
    """Show the node of a type at full size: a whole graph may be opened so small that widgets are not drawn."""
    frontend.js(
        f"app.canvas.ds.scale = 1; app.canvas.centerOnNode(app.graph.nodes.find((each) => each.type === '{kind}'));"
        " app.canvas.setDirty(true, true)"
    )
    frontend.settle()


def nodes(name: str) -> list[dict[str, Any]]:
    return list(shipped(name)["nodes"])


def lost(frontend: Frontend) -> list[str]:
    """Types of the graph that the frontend does not know, whether or not it says so."""
    frontend.settle()
    unknown: list[str] = frontend.js(
        "return app.graph.nodes.map((node) => node.type).filter((type) => !LiteGraph.registered_node_types[type])"
    )
    said = frontend.page.get_by_text(re.compile("missing node|node types were not found", re.IGNORECASE))
    return unknown + [text for text in said.all_inner_texts() if text]


def press_run(frontend: Frontend) -> None:
    """Press the Run button and wait until the saved video can be watched in its node."""
    frontend.page.get_by_role("button", name="Run", exact=True).first.click()
    frontend.page.wait_for_function("document.querySelector('video')?.readyState >= 2")
    frontend.settle()


def video(frontend: Frontend) -> tuple[int, int, float]:
    """Width, height and seconds of the video that the page shows."""
    player = frontend.page.locator("video")
    assert player.count() == 1 and player.is_visible()
    width, height, seconds = player.evaluate("(each) => [each.videoWidth, each.videoHeight, each.duration]")
    return width, height, round(seconds, 2)


def read(timeline: str) -> dict[str, Any]:
    """What Python plans from the widget's text."""
    return plan(read_edit(timeline), 8, 2.375).to_dict()


def test_a_newcomer_makes_the_pocket_film(frontend: Frontend) -> None:
    """Templates, one click, Run: the film plays in the page, keyframes and contact sheet are seen."""
    open_template(frontend, "pocket_film")
    assert lost(frontend) == [] and frontend.page.get_by_role("dialog").count() == 0
    frontend.shot("template")
    press_run(frontend)
    assert video(frontend) == (160, 80, 13.0)
    # They load beside the video, and may come after it.
    pictures = """([type, count]) =>
        window.comfyAPI.app.app.graph.nodes.find((node) => node.type === type).imgs?.length === count"""
    frontend.page.wait_for_function(pictures, arg=["AnchorshotInterleavedKeyframeSampler", 8])
    frontend.page.wait_for_function(pictures, arg=["AnchorshotContactSheet", 1])
    assert frontend.errors == []
    frontend.shot("result")


def test_a_dragged_timeline_is_saved_and_filmed(frontend: Frontend) -> None:
    """Drag a keyframe, Ctrl+S, open the workflow in a new browser, Run: the film has the keyframe where it was put."""
    open_template(frontend, "pocket_timeline")
    assert lost(frontend) == []
    page = frontend.page
    before = frontend.js(_TIMELINE)
    come_near(frontend, NODE)
    key = page.locator(".anchorshot-timeline:visible .ast-key").nth(1)
    box = key.bounding_box()
    assert box
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y)
    page.mouse.move(x + 45, y)
    page.mouse.up()
    frontend.settle()
    dragged = frontend.js(_TIMELINE)
    was, frames = ([key["frame"] for key in read(text)["keyframes"]] for text in (before, dragged))
    assert frames[0] == was[0] == 0 and frames[1] > was[1] and frames[2] == was[2]
    page.keyboard.press("Control+s")
    page.get_by_role("dialog").get_by_role("textbox").fill("dragged")
    page.keyboard.press("Enter")
    saved = "app.extensionManager.workflow.activeWorkflow"
    page.wait_for_function(f"(({{app}}) => {saved}.path.endsWith('dragged.json') && !{saved}.isModified)(comfyAPI.app)")
    assert (frontend.server.base / "user" / "default" / "workflows" / "dragged.json").is_file()
    browser = page.context.browser
    assert browser is not None
    later = Frontend(browser.new_page(viewport={"width": 2400, "height": 1500}), frontend.server)
    later.page.get_by_role("button", name="Workflows").first.click()
    later.page.get_by_text("dragged", exact=True).click()
    later.page.wait_for_function("(count) => window.comfyAPI.app.app.graph.nodes.length === count", arg=15)
    later.page.keyboard.press("w")  # the list of workflows away
    assert later.js(_TIMELINE) == dragged
    come_near(later, "SaveVideo")
    press_run(later)
    assert video(later) == (160, 80, 2.38)
    come_near(later, NODE)
    shown = later.page.locator(".anchorshot-timeline:visible .ast-key")
    assert [int(each.get_attribute("data-frame") or -1) for each in shown.all()] == frames
    later.page.wait_for_function("document.querySelectorAll('.ast-pictured').length === 3")
    told = later.js("return app.nodeOutputs[app.graph.nodes.find((n) => n.type === given).id].timeline[0]", NODE)
    assert [each["frame"] for each in json.loads(told)["keyframes"]] == frames
    assert later.errors == []
    later.shot("timeline")
    later.page.context.close()


_TIMELINE = f"""return app.graph.nodes.find((node) => node.type === '{NODE}').widgets
  .find((widget) => widget.name === 'timeline').value"""


def test_a_story_grows_by_a_segment(frontend: Frontend) -> None:
    """Run; copy the last segment as the note says, write another action, Run: a segment more, and the others stay."""
    open_template(frontend, "pocket_story")
    assert lost(frontend) == []
    assert _runs(frontend.js("return (await app.graphToPrompt()).output")) == _runs(to_prompt(shipped("pocket_story")))
    press_run(frontend)
    assert video(frontend) == (160, 80, 6.38)
    frontend.shot("story")
    before = frontend.js(_ACTIONS)
    frontend.js("app.canvas.selectNode(app.graph.nodes.find((node) => node.title === 'Segment 3'))")
    frontend.page.keyboard.press("Control+c")
    frontend.page.keyboard.press("Control+Shift+v")
    frontend.page.wait_for_function("comfyAPI.app.app.graph.nodes.filter((n) => n.title === 'Segment 3').length === 2")
    frontend.js(_CONNECT, "a yellow star with a crown waves on the left.")
    assert frontend.js(_ACTIONS) == [*before, "a yellow star with a crown waves on the left."]
    shown = frontend.page.locator("video").evaluate("(each) => each.src")
    frontend.page.get_by_role("button", name="Run", exact=True).first.click()
    changed = "(was) => { const v = document.querySelector('video'); return v && v.src !== was && v.readyState >= 2; }"
    frontend.page.wait_for_function(changed, arg=shown)
    assert video(frontend) == (160, 80, 8.5)
    curves = "return app.graph.nodes.filter((node) => node.type === 'PreviewImage' && node.imgs?.length).length"
    assert frontend.js(curves) == 3 and frontend.errors == []
    frontend.shot("story_grown")


def _runs(prompt: dict[str, Any]) -> dict[str, Any]:
    """Types and inputs, without what the frontend alone looks at."""
    ours = {"control_after_generate"}
    return {
        key: (node["class_type"], {name: value for name, value in node["inputs"].items() if name not in ours})
        for key, node in prompt.items()
    }


_ACTIONS = """return app.graph.nodes.filter((node) => node.title.startsWith('Segment'))
  .map((node) => node.widgets.find((widget) => widget.name === 'action').value)"""

_CONNECT = """
const [before, added] = app.graph.nodes.filter((node) => node.title === 'Segment 3');
const film = app.graph.nodes.find((node) => node.type === 'AnchorshotFilm');
const input = (node, name) => node.inputs.findIndex((each) => each.name === name);
const output = (node, name) => node.outputs.findIndex((each) => each.name === name);
before.connect(output(before, 'latent'), added, input(added, 'previous'));
before.connect(output(before, 'action'), added, input(added, 'previous_action'));
added.connect(output(added, 'images'), film, input(film, 'clips.clip_3'));
added.widgets.find((widget) => widget.name === 'action').value = given;
await new Promise(requestAnimationFrame);
"""


def test_a_template_shows_its_pictures_before_a_run(frontend: Frontend) -> None:
    """They reach the timeline through a batch and a node that scales them."""
    open_template(frontend, "wan22_14b_keyframes")
    come_near(frontend, NODE)
    frontend.page.wait_for_function("document.querySelectorAll('.ast-pictured').length === 3")
    frontend.shot("pictures_behind_a_scale")


def test_a_missing_node_is_noticed(frontend: Frontend) -> None:
    """Last, for the frontend complains: what the tests above look for is found where a node is missing."""
    node = {"id": 1, "type": "AnchorshotNoSuchNode", "pos": [300, 300], "size": [200, 100], "flags": {}, "order": 0,
            "mode": 0, "inputs": [], "outputs": [], "properties": {}}  # fmt: skip
    frontend.js("await app.loadGraphData(given)", {"nodes": [node], "links": [], "groups": [], "version": 0.4})
    frontend.page.get_by_text("Missing node").first.wait_for()
    assert {"AnchorshotNoSuchNode", "Missing node: AnchorshotNoSuchNode"} <= set(lost(frontend))
    frontend.shot("missing")
