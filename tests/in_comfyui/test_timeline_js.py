"""The timeline widget's arithmetic against the package's: what the browser writes is what Python plans.

The widget's modules run under Node, one process for all requests. No browser and no ComfyUI is needed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorshot.comfyui import timeline
from anchorshot.core.errors import InputError
from anchorshot.story.timeline import MAX_FRAMES, Timeline

HERE = Path(__file__).parent


plan, read_edit = timeline.plan, timeline.read_edit
RATES = [8, 12.5, 15, 16, 23.976, 24, 25, 29.97, 30, 59.94, 60, 120]


def _node() -> str | None:
    """Node, if it is new enough to take a .js file with `import` as a module."""
    path = shutil.which("node")
    if path is None:
        return None
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    return path if numbers >= (20, 19) else None


NODE = _node()
if NODE is None:
    warnings.warn("timeline widget tests SKIPPED: no Node 20.19 or newer on the path", stacklevel=1)
pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node 20.19 or newer")


class Widget:
    """The widget's logic in a Node process: one request and one answer a line."""

    def __init__(self) -> None:
        command = [str(NODE), str(HERE / "timeline_lines.mjs")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, text: str, fps: float, seconds: float, edits: list[list[Any]] | None = None) -> Any:
        """States after reading `text` and after each edit, or a dict with `error`."""
        assert self.process.stdin and self.process.stdout
        request = {"text": text, "node": {"fps": fps, "seconds": seconds}, "edits": edits or []}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def widget() -> Iterator[Widget]:
    running = Widget()
    yield running
    running.close()


rates = st.one_of(st.sampled_from(RATES), st.floats(1, 120))
frames = st.integers(0, 200)
# Wished-for times near frames, between frames and on the halves where snapping decides.
wishes = st.one_of(frames, st.integers(0, 800).map(lambda quarter: quarter / 4), st.floats(0, 200))


@st.composite
def _texts(draw: st.DrawFn, fps: float) -> str:
    times = [p / fps for p in sorted(draw(st.lists(wishes, max_size=8)))]
    form = draw(st.sampled_from(["list", "socket", "shots", "empty"]))
    if form == "empty":
        return ""
    if form == "list":
        return json.dumps(times)
    data: dict[str, Any] = {"keyframes": [{"requested": t} for t in times]}
    if form == "shots":
        lengths = st.one_of(st.integers(0, 60).map(lambda n: n / fps), st.floats(0, 4))
        data["durations"] = draw(st.lists(lengths, max_size=5))
        if draw(st.booleans()):
            del data["keyframes"]
    return json.dumps(data)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, float, float]:
    fps = draw(rates)
    text = draw(_texts(fps))
    times = [t for t in re.findall(r"[\d.]+(?=[}\]])", text) if t.count(".") < 2]
    lengths = [st.floats(0.01, 30), wishes.map(lambda p: p / fps)]
    if times:  # so that the last keyframe lies about the last frame: before it, on it, half a frame beyond it
        near = st.one_of(st.sampled_from([0, 0.25, 0.5, 0.75, 1]), st.floats(-0.6, 1.2))
        lengths.append(near.map(lambda by: max(0.01, float(times[-1]) + by / fps)))
    return text, fps, draw(st.one_of(*lengths))


def _rounded(value):
    """Times to the microsecond: JSON carries twelve digits of them."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value


@settings(max_examples=300)
@given(request=_requests())
def test_the_browser_plans_what_python_plans(widget: Widget, request: tuple[str, float, float]) -> None:
    text, fps, seconds = request
    answer = widget.ask(text, fps, seconds)
    try:
        planned = plan(read_edit(text), fps, seconds)
    except InputError as error:
        assert answer["error"]["field"] == error.field
        return
    written = json.loads(answer[0]["text"])
    durations = written.pop("durations", None)
    assert written == planned.to_dict()
    assert Timeline.from_json(answer[0]["text"]) == Timeline.from_json(planned.to_json())
    assert (durations is not None) == bool(read_edit(text).durations)


_edit = st.one_of(
    st.tuples(st.just("moveKey"), st.integers(0, 7), st.integers(-20, 260), st.booleans()),
    st.tuples(st.just("moveCut"), st.integers(0, 4), st.integers(-20, 260), st.booleans()),
    st.tuples(st.just("moveEnd"), st.integers(-20, 260)),
    st.tuples(st.just("addKey"), st.integers(-20, 260)),
    st.tuples(st.just("removeKey"), st.integers(0, 7), st.booleans()),
    st.tuples(st.just("toggleCut"), st.integers(0, 7)),
    st.tuples(st.just("placeKey"), st.integers(0, 7), st.floats(0, 30), st.booleans()),
)


@settings(max_examples=400)
@given(request=_requests(), wanted=st.lists(_edit, min_size=1, max_size=12))
def test_every_edit_leaves_what_python_accepts_and_plans_alike(
    widget: Widget, request: tuple[str, float, float], wanted: list[tuple[Any, ...]]
) -> None:
    text, fps, seconds = request
    if "error" in widget.ask(text, fps, seconds):
        return
    # Edits name parts that exist: the mouse cannot reach others.
    edits: list[list[Any]] = []
    state = json.loads(widget.ask(text, fps, seconds)[0]["text"])
    for name, *rest in wanted:
        keys, cuts = len(state["keyframes"]), len(state.get("durations", [0])) - 1
        if name in ("moveKey", "removeKey", "toggleCut", "placeKey"):
            if not keys:
                continue
            rest[0] %= keys
        elif name == "moveCut":
            if not cuts:
                continue
            rest[0] %= cuts
        edits.append([name, *rest])
        answer = widget.ask(text, fps, seconds, edits)
        assert "error" not in answer, (edits, answer)
        last = answer[-1]
        state = json.loads(last["text"])
        length = last["seconds"] if last["source"] == "seconds" else seconds
        planned = plan(read_edit(last["text"]), fps, length)
        told = {k: v for k, v in state.items() if k != "durations"}
        assert _rounded(told) == _rounded(planned.to_dict())
        assert planned.frames <= MAX_FRAMES


def test_bad_text_is_refused_with_the_same_field(widget: Widget) -> None:
    many = json.dumps([0.01] * (timeline.MAX_MARKS + 1))
    large = [f'{{"durations": {many}}}', many, "[0" + " " * timeline.MAX_TEXT + "]"]
    deep, huge = "[" * 9 + "]" * 9, '{"durations": [2, 1e999]}'
    forms = ["{", "3", '"x"', '{"keyframes": 3}', '{"keyframes": [true]}', '{"keyframes": [{}]}', "[null]"]
    for text in [*forms, *large, deep, huge]:
        with pytest.raises(InputError) as caught:
            read_edit(text)
        assert widget.ask(text, 16, 5)["error"]["field"] == caught.value.field, text[:80]
    for text in [
        '{"durations": [-1]}',
        "[1e308]",
        "[-1]",
        json.dumps({"durations": [359000, 2000]}),
        "[400000]",
        "[9]",
    ]:
        with pytest.raises(InputError) as caught:
            plan(read_edit(text), 16, 5)
        assert widget.ask(text, 16, 5)["error"]["field"] == caught.value.field, text


def test_many_odd_durations_are_summed_in_a_moment() -> None:
    """Their exact sum would have thousands of digits."""
    odd = [0.3 + (k * 7919 % 1009) / 10007 for k in range(timeline.MAX_MARKS)]
    start = time.process_time()
    planned = plan(read_edit(json.dumps({"durations": odd})), 23.976, 5)
    assert len(planned.keyframes) == len(odd)
    assert abs(planned.length.seconds - sum(odd)) < 3 / 23.976
    assert time.process_time() - start < 2  # 0.1 s; quadratic digits took minutes


@pytest.mark.parametrize("file", ["timeline.test.mjs", "timeline_fuzz.test.mjs", "templates.test.mjs"])
def test_units_under_node(file: str) -> None:
    done = subprocess.run([str(NODE), "--test", str(HERE / file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_network_and_no_code_from_text() -> None:
    """Nothing is loaded from elsewhere, and no text becomes code or markup."""
    forbidden = r"\beval\b|new Function|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|innerHTML|document\.write|https?:"
    web = HERE.parents[1] / "web"
    files = [*web.glob("js/*.js"), *web.glob("css/*.css")]
    assert len(files) > 8
    for file in files:
        # The name of a namespace looks like an address; nothing is ever loaded from it.
        text = file.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(forbidden, text), file.name
        for source in re.findall(r"from '([^']+)'", text):
            assert source.startswith("./") or source.startswith("../../../scripts/"), (file.name, source)
