"""The timeline widget as people use it: the real frontend, in headless Chromium, on the real server.

What the widget writes is compared with what Python plans from it, so a picture that shows one thing and a node that
does another cannot pass.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator

import pytest
from in_comfyui.browser import Frontend, missing, opened
from in_comfyui.server import ComfyServer
from in_comfyui.timeline_page import NODE, THREE, Timeline
from PIL import Image

from anchorshot.comfyui.timeline import plan, read_edit
from anchorshot.core.errors import InputError

LACKING = missing()
if LACKING:
    warnings.warn(f"timeline browser tests SKIPPED: {LACKING}", stacklevel=1)
pytestmark = pytest.mark.skipif(LACKING is not None, reason=LACKING or "")


@pytest.fixture(scope="module")
def frontend(server: ComfyServer) -> Iterator[Frontend]:
    with opened(server) as page:
        yield page


@pytest.fixture(params=["canvas", "vue"], ids=["classic nodes", "nodes 2.0"])
def timeline(frontend: Frontend, request: pytest.FixtureRequest) -> Timeline:
    """Three keyframes, in both ways that the frontend draws nodes."""
    frontend.setting("Comfy.VueNodes.Enabled", request.param == "vue")
    return Timeline(frontend)


@pytest.fixture
def classic(frontend: Frontend) -> Frontend:
    frontend.setting("Comfy.VueNodes.Enabled", False)
    return frontend


def test_an_untouched_widget_writes_nothing(classic: Frontend) -> None:
    """An empty text leaves the keyframes to a storyboard, so looking at the node must not fill it."""
    timeline = Timeline(classic, "")
    assert timeline.widget("timeline") == ""
    assert timeline.keys.count() == 1
    timeline.keys.first.focus()
    classic.settle()
    assert timeline.widget("timeline") == "" and timeline.steps() == timeline.undo_steps


def test_dragging_a_keyframe_snaps_as_python_plans(timeline: Timeline) -> None:
    timeline.drag(timeline.keys.nth(1), 9, release=False)
    assert timeline.widget("timeline") == THREE  # nothing is written before the button is let go
    timeline.frontend.shot("dragging")
    timeline.page.mouse.up()
    keys = timeline.written()["keyframes"]
    asked = timeline.asked()
    assert asked[0] == 0 and 40 <= asked[1] <= 42 and asked[2] == 48
    assert keys[1]["frame"] == 41  # chunk 1 starts at a frame ≡ 1 (mod 4)
    described = timeline.keys.nth(1).get_attribute("aria-valuetext") or ""
    assert re.fullmatch(rf"asked 2\.\d+ s, frame {asked[1]:.0f}; lands on frame 41, 2\.56\d s", described)


def test_ripple_moves_what_follows_and_the_end(timeline: Timeline) -> None:
    ripple = timeline.root.get_by_role("button", name="Ripple")
    ripple.click()
    assert ripple.get_attribute("aria-pressed") == "true"
    timeline.changed()  # the switch is part of the workflow
    timeline.drag(timeline.keys.nth(1), 8)
    timeline.written()
    asked = timeline.asked()
    moved = asked[1] - 32
    assert 7 <= moved <= 9 and asked[2] == 48 + moved
    assert 0 <= timeline.widget("seconds") - (80 + moved) / 16 < 1e-3  # the field keeps milliseconds


def test_shot_borders_and_the_end_set_durations(timeline: Timeline) -> None:
    timeline.keys.nth(1).focus()
    timeline.root.get_by_role("button", name="New shot").click()
    assert timeline.written()["durations"] == [2, 3]
    timeline.drag(timeline.borders.first, -8)
    first, second = timeline.written()["durations"]
    assert 1.4 <= first <= 1.6 and first + second == 5
    assert timeline.asked()[1] == first * 16  # the keyframe that opens the shot came along
    timeline.drag(timeline.end, 4)
    longer = timeline.written()["durations"]
    assert longer[0] == first and second + 0.15 <= longer[1] <= second + 0.35
    assert timeline.widget("seconds") == pytest.approx(sum(longer), abs=1e-3)
    timeline.frontend.shot("shots")


def test_the_end_of_one_shot_sets_the_seconds_field(timeline: Timeline) -> None:
    timeline.drag(timeline.end, -500)
    assert "durations" not in timeline.written()
    assert timeline.widget("seconds") == 3.063  # 49 frames, one after the last keyframe, in milliseconds upwards


def test_keyframes_are_added_and_removed(timeline: Timeline) -> None:
    box = timeline.root.locator(".ast-lane").bounding_box()
    first = timeline.keys.first.bounding_box()
    assert box and first
    timeline.page.mouse.dblclick(first["x"] + timeline.pixels(16), box["y"] + 8)
    assert len(timeline.written()["keyframes"]) == 4
    assert timeline.keys.nth(1).evaluate("element => element === document.activeElement")
    timeline.page.keyboard.press("Delete")
    assert len(timeline.written()["keyframes"]) == 3
    assert timeline.asked() == [0, 32, 48]
    assert timeline.frontend.js("return app.graph.nodes.length") == 1  # Delete took the keyframe, not the node


def test_the_keyboard_does_everything(timeline: Timeline) -> None:
    press = timeline.page.keyboard.press
    timeline.root.get_by_role("button", name="Ripple").focus()
    press("Tab")
    press("Tab")
    assert timeline.page.evaluate("document.activeElement.ariaLabel") == "Keyframe 2 of 3"
    press("ArrowRight")
    timeline.written()
    press("Shift+ArrowRight")
    timeline.written()
    assert timeline.asked() == [0, 37, 48]
    press("ArrowLeft")
    timeline.written()
    press("Home")
    timeline.written()
    assert timeline.asked() == [0, 1, 48]
    press("End")
    timeline.written()
    assert timeline.asked() == [0, 47, 48]
    press("Enter")
    timeline.page.keyboard.type("30f")
    press("Enter")
    timeline.written()
    assert timeline.asked() == [0, 30, 48]
    assert timeline.page.evaluate("document.activeElement.ariaLabel") == "Keyframe 2 of 3"
    press("Tab")
    press("Tab")
    assert timeline.page.evaluate("document.activeElement.ariaLabel") == "Length of the video"
    press("ArrowRight")
    timeline.written()
    assert timeline.widget("seconds") == 5.063  # 81 frames


def test_a_held_key_is_one_step_to_undo(timeline: Timeline) -> None:
    timeline.keys.nth(1).focus()
    for _ in range(6):
        timeline.page.keyboard.down("ArrowRight")
    timeline.page.keyboard.up("ArrowRight")
    timeline.written()
    assert timeline.asked() == [0, 38, 48]


def test_escape_gives_up_a_drag(timeline: Timeline) -> None:
    timeline.drag(timeline.keys.nth(1), 9, release=False)
    timeline.page.keyboard.press("Escape")
    timeline.page.mouse.up()
    timeline.frontend.settle()
    assert timeline.widget("timeline") == THREE and timeline.steps() == timeline.undo_steps


def test_a_bad_time_is_refused_where_it_is_typed(timeline: Timeline) -> None:
    timeline.keys.nth(1).focus()
    for typed, complaint in [("9", "Between 0.063 and 2.938 s"), ("soon", "Write seconds")]:
        timeline.page.keyboard.press("Enter")
        timeline.page.keyboard.type(typed)
        timeline.page.keyboard.press("Enter")
        assert complaint in (timeline.root.locator(".ast-outcome").text_content() or "")
        assert timeline.root.locator(".ast-input").get_attribute("aria-invalid") == "true"
        timeline.page.keyboard.press("Escape")
    assert timeline.widget("timeline") == THREE


def test_undo_and_redo(timeline: Timeline) -> None:
    """Undo makes the node anew; the widget shows the old text again, and the keyboard stays where it was."""
    frame = "document.querySelector('.anchorshot-timeline [aria-label^=\"Keyframe 2\"]')?.dataset.frame"
    focused = "document.activeElement.ariaLabel === 'Keyframe 2 of 3'"
    timeline.keys.nth(1).focus()
    timeline.page.keyboard.press("Shift+ArrowRight")
    changed = timeline.widget("timeline")
    timeline.page.keyboard.press("Control+z")
    timeline.page.wait_for_function(_VALUE_IS, arg=[NODE, THREE])
    timeline.page.wait_for_function(f"{frame} === '33' && {focused}")
    timeline.page.keyboard.press("Control+y")
    timeline.page.wait_for_function(_VALUE_IS, arg=[NODE, changed])
    timeline.page.wait_for_function(f"{frame} === '37' && {focused}")
    timeline.undo_steps = timeline.steps()
    timeline.page.keyboard.press("ArrowRight")
    timeline.written()
    assert timeline.asked() == [0, 37, 48]


_VALUE_IS = """([type, text]) => window.comfyAPI.app.app.graph.nodes.find((node) => node.type === type)
    ?.widgets.find((widget) => widget.name === 'timeline').value === text"""


def test_a_workflow_keeps_it_and_the_api_gets_it(timeline: Timeline) -> None:
    timeline.root.get_by_role("button", name="Ripple").click()
    timeline.drag(timeline.keys.nth(2), 6)
    timeline.frontend.settle()
    text = timeline.widget("timeline")
    saved = timeline.frontend.js("return await app.graphToPrompt()")
    inputs = next(node["inputs"] for node in saved["output"].values() if node["class_type"] == NODE)
    assert inputs["timeline"] == text
    timeline.frontend.open()
    timeline.frontend.js("await app.loadGraphData(given)", saved["workflow"])
    timeline.root.wait_for()
    timeline.frontend.settle()
    assert timeline.widget("timeline") == text
    assert timeline.widget("seconds") == inputs["seconds"]
    frames = [int(timeline.keys.nth(k).get_attribute("data-frame") or -1) for k in range(3)]
    assert frames == [key["frame"] for key in json.loads(text)["keyframes"]]
    assert timeline.root.get_by_role("button", name="Ripple").get_attribute("aria-pressed") == "true"
    # The server plans the same frames from the same text.
    reader = {"class_type": "PreviewAny", "inputs": {"source": ["1", 4]}}
    entry = timeline.frontend.server.run({"1": {"class_type": NODE, "inputs": inputs}, "2": reader})
    planned = json.loads(entry["outputs"]["1"]["timeline"][0])
    assert [key["frame"] for key in planned["keyframes"]] == frames


def test_the_text_follows_the_fields(timeline: Timeline) -> None:
    """Frame rate and length are the node's own fields; what the socket's JSON says must not lag behind them."""
    timeline.frontend.js(
        """
        const node = app.graph.nodes[0], field = node.widgets.find((widget) => widget.name === 'fps');
        field.value = 24; field.callback(24, app.canvas, node);
        """
    )
    timeline.frontend.settle()
    text = timeline.widget("timeline")
    assert json.loads(text) == plan(read_edit(text), 24, 5).to_dict()
    assert "24 fps" in (timeline.root.locator(".ast-total").text_content() or "")


def test_a_text_that_cannot_be_is_shown_and_mended(classic: Frontend) -> None:
    timeline = Timeline(classic, '{"keyframes": [0, 2, 9]}')
    alert = timeline.root.get_by_role("alert")
    assert "beyond the shot's last frame" in (alert.text_content() or "")
    assert timeline.widget("timeline") == '{"keyframes": [0, 2, 9]}'  # shown, not touched
    classic.shot("broken")
    timeline.root.get_by_role("button", name="Fix").click()
    assert [key["frame"] for key in timeline.written()["keyframes"]] == [0, 33]
    timeline = Timeline(classic, "{")
    timeline.root.get_by_role("button", name="Start over").click()
    classic.settle()
    assert timeline.widget("timeline") == "" and timeline.keys.count() == 1


def test_pictures_behind_the_keyframes_input_are_shown(timeline: Timeline) -> None:
    names = ["red.png", "green.png", "blue.png"]
    for name, colour in zip(names, ["#c33", "#3a3", "#36c"], strict=True):
        Image.new("RGB", (160, 80), colour).save(timeline.frontend.server.base / "input" / name)
    timeline.frontend.js(
        """
        const timeline = app.graph.nodes[0];
        const load = (name, y) => {
          const node = LiteGraph.createNode('LoadImage');
          app.graph.add(node); node.pos = [20, y]; node.size = [200, 120];
          const field = node.widgets.find((widget) => widget.name === 'image');
          field.options.values = [...(field.options.values ?? []), name];
          field.value = name; field.callback?.(name);
          return node;
        };
        const join = (first, second) => {
          const node = LiteGraph.createNode('ImageBatch');
          app.graph.add(node); node.pos = [230, 700];
          first.connect(0, node, 0); second.connect(0, node, 1);
          return node;
        };
        const [red, green, blue] = given.map((name, k) => load(name, 60 + 200 * k));
        join(join(red, green), blue).connect(0, timeline, 'keyframes');
        """,
        names,
    )
    timeline.page.wait_for_function("document.querySelectorAll('.ast-pictured').length === 3")
    sources = [timeline.keys.nth(k).locator("img").get_attribute("src") or "" for k in range(3)]
    assert [re.findall(r"filename=(\w+\.png)", source) for source in sources] == [[name] for name in names]
    timeline.frontend.settle()
    timeline.frontend.shot("pictures")


def test_a_storyboard_gives_rate_length_and_keyframes(classic: Frontend) -> None:
    """What only a run can tell is not shown before it, nor written into the workflow."""
    timeline = Timeline(classic, "")
    classic.js(
        """
        const timeline = app.graph.nodes[0];
        const board = LiteGraph.createNode('AnchorshotStoryboard'), reader = LiteGraph.createNode('PreviewAny');
        app.graph.add(board); app.graph.add(reader);
        board.pos = [20, 480]; reader.pos = [940, 130];
        board.connect(0, timeline, 'storyboard');
        timeline.connect(4, reader, 0);
        """
    )
    total = timeline.root.locator(".ast-total")
    timeline.page.wait_for_function("document.querySelector('.ast-total').textContent.includes('after a run')")
    classic.js("await app.queuePrompt(0)")
    timeline.page.wait_for_function("document.querySelectorAll('.ast-key').length > 1")
    planned = classic.js("return JSON.parse(app.nodeOutputs[app.graph.nodes[0].id].timeline[0])")
    assert f"{planned['frames']} frames" in (total.text_content() or "")
    frames = [int(key.get_attribute("data-frame") or -1) for key in timeline.keys.all()]
    assert frames == [key["frame"] for key in planned["keyframes"]]
    assert timeline.widget("timeline") == ""
    timeline.end.focus()
    timeline.page.keyboard.press("Shift+ArrowRight")
    classic.settle()
    edit = read_edit(timeline.widget("timeline"))
    assert edit.durations == [planned["requested"] + 4 / planned["fps"]]
    assert timeline.widget("seconds") == 5  # not the field that counts here


def test_it_lives_in_a_subgraph(timeline: Timeline) -> None:
    timeline.frontend.js(
        """
        const { node } = app.graph.convertToSubgraph(new Set([app.graph.nodes[0]]));
        app.canvas.setGraph(node.subgraph);
        """
    )
    timeline.root.wait_for()
    timeline.keys.nth(1).focus()
    timeline.page.keyboard.press("Shift+ArrowRight")
    timeline.frontend.settle()
    prompt = timeline.frontend.js("return (await app.graphToPrompt()).output")
    timeline.frontend.js("app.canvas.setGraph(app.rootGraph)")
    inputs = next(node["inputs"] for node in prompt.values() if node["class_type"] == NODE)
    assert [time * 16 for time in read_edit(inputs["timeline"]).times or []] == [0, 36, 48]
    assert not timeline.frontend.errors


def test_a_copied_node_has_its_own_timeline(classic: Frontend) -> None:
    timeline = Timeline(classic)
    classic.js(
        """
        app.canvas.selectItems([app.graph.nodes[0]]);
        app.canvas.copyToClipboard(); app.canvas.pasteFromClipboard();
        app.graph.nodes[1].pos = [340, 560];
        """
    )
    timeline.page.wait_for_function("document.querySelectorAll('.anchorshot-timeline').length === 2")
    timeline.root.nth(1).locator(".ast-key").nth(1).focus()
    timeline.page.keyboard.press("Shift+ArrowRight")
    classic.settle()
    texts = classic.js("return app.graph.nodes.map((n) => n.widgets.find((w) => w.name === 'timeline').value)")
    assert texts[0] == THREE
    assert [time * 16 for time in read_edit(texts[1]).times or []] == [0, 36, 48]


_LUMINANCE = """
(element) => {
  const parse = (text) => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const ratio = (a, b) => { const [x, y] = [light(parse(a)), light(parse(b))].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05); };
  const style = (selector) => getComputedStyle(element.querySelector(selector));
  const back = getComputedStyle(element).backgroundColor;
  return {
    text: ratio(getComputedStyle(element).color, back),
    total: ratio(style('.ast-total').color, back),
    tick: ratio(style('.ast-tick').color, back),
    bands: ratio(style('.ast-band').color, style('.ast-band:nth-child(2)').backgroundColor),
    selected: ratio(style('.ast-selected .ast-number').color, style('.ast-selected .ast-diamond').backgroundColor),
    accent: ratio(style('.ast-selected').color, back),
    opens: ratio(style('.ast-opens').color, back),
  };
}
"""


@pytest.mark.parametrize("palette", ["dark", "light"])
def test_it_can_be_read_in_both_themes(classic: Frontend, palette: str) -> None:
    """WCAG AA: 4.5 for text, 3 for the marks."""
    classic.setting("Comfy.ColorPalette", palette)
    try:
        timeline = Timeline(classic, '{"keyframes": [0, 2, 3], "durations": [2, 3]}')
        timeline.keys.nth(2).focus()
        classic.settle()
        classic.shot(f"theme_{palette}")
        contrast = timeline.root.evaluate(_LUMINANCE)
        marks = {name: contrast.pop(name) for name in ("accent", "opens")}
        assert min(contrast.values()) >= 4.5, contrast
        assert min(marks.values()) >= 3, marks
    finally:
        classic.setting("Comfy.ColorPalette", "dark")


def test_a_linked_text_locks_the_widget(classic: Frontend) -> None:
    timeline = Timeline(classic)
    classic.js(
        """
        const source = LiteGraph.createNode('PrimitiveStringMultiline');
        app.graph.add(source);
        source.connect(0, app.graph.nodes.find((node) => node.type === given), 'timeline');
        """,
        NODE,
    )
    timeline.page.wait_for_function("document.querySelector('.anchorshot-timeline').inert")


_BAD = [
    "[1e308]",
    "[1e9]",
    "[400000]",
    "[-1, 2]",
    '{"fps": 1e9, "keyframes": [0]}',
    json.dumps({"durations": [0.01] * 2000}),
    json.dumps({"durations": [0.3 + (k * 7919 % 1009) / 10007 for k in range(500)]}),
    json.dumps([0.01 * k for k in range(500)]),
    "[" * 200 + "]" * 200,
    '{"keyframes": {"length": 1000000000}}',
]


def test_a_shared_workflow_does_not_freeze_the_page(classic: Frontend) -> None:
    """Texts that cannot be drawn as they stand are answered at once: with a complaint, or with a picture."""
    timeline = Timeline(classic)
    for text in _BAD:
        taken = classic.js(
            """
            const start = performance.now();
            app.graph.nodes[0].widgets.find((widget) => widget.name === 'timeline').value = given;
            await new Promise(requestAnimationFrame);
            return performance.now() - start;
            """,
            text,
        )
        assert taken < 1000, (text[:60], taken)
        complaint = timeline.root.locator(".ast-complaint").text_content() or ""
        try:
            plan(read_edit(text), timeline.widget("fps"), timeline.widget("seconds"))
        except InputError as error:
            assert error.field in complaint, (text[:60], complaint)
        assert timeline.root.locator("*").count() < 5000
    timeline.root.get_by_role("button", name="Start over").click()
    classic.settle()
    assert timeline.widget("timeline") == "" and timeline.keys.count() == 1 and not classic.errors


def test_a_malformed_last_run_is_said_and_mended(classic: Frontend) -> None:
    timeline = Timeline(classic, "[0, 1]")
    classic.js(
        """
        const timeline = app.graph.nodes[0], board = LiteGraph.createNode('AnchorshotStoryboard');
        app.graph.add(board);
        board.connect(0, timeline, 'storyboard');
        app.nodeOutputs[timeline.id] = { timeline: ['{"fps": 8, "requested": 2}'] };
        """
    )
    alert = timeline.root.get_by_role("alert")
    timeline.page.wait_for_function("document.querySelector('.ast-complaint').textContent.includes('planned')")
    timeline.root.get_by_role("button", name="Fix").click()
    alert.wait_for(state="hidden")
    assert [time for time in read_edit(timeline.widget("timeline")).times or []] == [0, 1] and not classic.errors


def test_dragging_starts_where_the_keyframe_is_seen(classic: Frontend) -> None:
    timeline = Timeline(classic, "[0, 0.625, 1.5]", fps=8, seconds=2.375)
    assert timeline.keys.nth(2).get_attribute("data-frame") == "14"  # asked for on frame 12
    timeline.drag(timeline.keys.nth(2), 3)
    assert timeline.asked()[2] in (16, 17, 18)
    assert timeline.keys.nth(2).get_attribute("data-frame") == "18"


def test_pictures_are_counted_before_a_run(classic: Frontend) -> None:
    """Through batches and nodes that change each picture; what only a run can tell is not guessed."""
    timeline = Timeline(classic)
    for name in ("one.png", "two.png"):
        Image.new("RGB", (160, 80), "#3a3").save(classic.server.base / "input" / name)
    classic.js(
        """
        const timeline = app.graph.nodes[0];
        const add = (type) => { const node = LiteGraph.createNode(type); app.graph.add(node); return node; };
        const load = (name) => {
          const node = add('LoadImage'), field = node.widgets.find((widget) => widget.name === 'image');
          field.options.values = [...(field.options.values ?? []), name];
          field.value = name; field.callback?.(name);
          return node;
        };
        const batch = add('ImageBatch'), scale = add('ImageScale'), crop = add('ImageCrop');
        given.forEach((name, k) => load(name).connect(0, batch, k));
        batch.connect(0, scale, 0);
        scale.connect(0, crop, 0);
        crop.connect(0, timeline, 'keyframes');
        """,
        ["one.png", "two.png"],
    )
    timeline.page.wait_for_function("document.querySelectorAll('.ast-pictured').length === 2")
    badge = timeline.root.locator(".ast-badge")
    assert badge.text_content() == "2 pictures for 3 keyframes" and badge.is_visible()
    classic.shot("miscount")
    timeline.keys.nth(2).focus()
    timeline.page.keyboard.press("Delete")
    badge.wait_for(state="hidden")


def test_a_refused_node_says_why(timeline: Timeline) -> None:
    """In the node, also if it was only found out when the graph ran; saved workflows do not change by it."""
    frontend, page = timeline.frontend, timeline.page
    frontend.js(
        """
        const add = (type) => { const node = LiteGraph.createNode(type); app.graph.add(node); return node; };
        const [board, reader] = [add('AnchorshotStoryboard'), add('PreviewAny')];
        board.pos = [340, 520]; reader.pos = [900, 520];
        board.connect(1, reader, 0);
        board.widgets.find((widget) => widget.name === 'story').value = given;
        """,
        "shots:\n  - id: s01\n    action: hello\n    secnds: 3\n",
    )
    frontend.settle()
    values = "return app.graph.serialize().nodes.map((node) => node.widgets_values)"
    before = frontend.js(values)
    run = "try { await app.queuePrompt(0) } catch {}"
    frontend.js(run)
    complaint = page.locator(".anchorshot-complaint")
    complaint.wait_for()
    assert (complaint.text_content() or "").startswith("line 4, shots[0].secnds: is not a known field")
    assert frontend.js(values) == before
    frontend.shot("refused")
    # What runs well is no longer complained of; what fails while it runs is.
    frontend.js(
        """
        const [timeline, board] = app.graph.nodes, image = LiteGraph.createNode('EmptyImage');
        board.widgets.find((widget) => widget.name === 'story').value = 'A dog runs.';
        app.graph.add(image);
        image.connect(0, timeline, 'keyframes');
        const reader = LiteGraph.createNode('PreviewAny');
        app.graph.add(reader);
        timeline.connect(4, reader, 0);
        """
    )
    frontend.js(run)
    page.wait_for_function(
        "document.querySelector('.anchorshot-complaint')?.textContent.startsWith('keyframes: must be')"
    )
    assert complaint.count() == 1 and not frontend.errors


def test_a_picture_is_dropped_on_a_keyframe(timeline: Timeline) -> None:
    """It is uploaded as ComfyUI uploads, and shown by the Load Image node that the keyframe's picture comes from."""
    frontend, page = timeline.frontend, timeline.page
    Image.new("RGB", (160, 80), "#c33").save(frontend.server.base / "input" / "first.png")
    drop = """
        const axis = document.querySelector('.anchorshot-timeline .ast-axis');
        const data = new DataTransfer(), canvas = new OffscreenCanvas(32, 16);
        canvas.getContext('2d').fillRect(0, 0, 32, 16);
        const bytes = given.type === 'text/plain' ? 'no' : await canvas.convertToBlob({ type: given.type });
        data.items.add(new File([bytes], given.name, { type: given.type }));
        const more = { dataTransfer: data, bubbles: true, cancelable: true, clientX: given.x, clientY: given.y };
        const seen = [];
        document.addEventListener('drop', () => seen.push(1), { once: true });
        const taken = ['dragover', 'drop'].map((type) => !axis.dispatchEvent(new DragEvent(type, more)));
        return [...taken, seen.length === 0];
    """
    box = timeline.keys.nth(1).bounding_box()
    assert box
    place = {"x": box["x"] + 8, "y": box["y"] + 20}
    outcome = timeline.root.locator(".ast-outcome")
    assert frontend.js(drop, {"name": "new.png", "type": "image/png", **place}) == [True, True, True]
    assert "Load Image" in (outcome.text_content() or "")
    frontend.js(
        """
        const timeline = app.graph.nodes[0];
        const add = (type) => { const node = LiteGraph.createNode(type); app.graph.add(node); return node; };
        const batch = add('BatchImagesNode') , scale = add('ImageScale');
        const loads = [0, 1, 2].map((k) => {
          const node = add('LoadImage'), field = node.widgets.find((widget) => widget.name === 'image');
          node.pos = [40 * k, 560];
          field.options.values = [...(field.options.values ?? []), 'first.png'];
          field.value = 'first.png'; field.callback?.('first.png');
          return node;
        });
        loads.forEach((node, k) => node.connect(0, batch, batch.inputs.findIndex((i) => i.name.endsWith('image' + k))));
        batch.connect(0, scale, 0);
        scale.connect(0, timeline, 'keyframes');
        """
    )
    frontend.settle()
    files = """return app.graph.nodes.filter((n) => n.type === 'LoadImage')
        .map((n) => n.widgets.find((w) => w.name === 'image').value)"""
    frontend.js(drop, {"name": "notes.txt", "type": "text/plain", **place})
    assert "PNG" in (outcome.text_content() or "")
    assert frontend.js(files) == ["first.png"] * 3
    frontend.js(drop, {"name": "new.png", "type": "image/png", **place})
    page.wait_for_function("document.querySelector('.ast-unseen[role=status]').textContent.includes('new picture')")
    assert frontend.js(files) == ["first.png", "new.png", "first.png"]
    assert Image.open(frontend.server.base / "input" / "new.png").size == (32, 16)
    frontend.settle()
    frontend.shot("dropped")
    assert not frontend.errors
