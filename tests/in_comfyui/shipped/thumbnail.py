"""Pictures of the shipped workflows, as ComfyUI's list of templates shows them.

Frames of what they make, where the models come along; else a card that says what goes in and what comes out, for
nothing that they make can be shown honestly without their models. And the whole graph, for people who draw workflows
anew.
"""

from __future__ import annotations

import html
import io
from pathlib import Path

import av
from in_comfyui.browser import Frontend
from PIL import Image

__all__ = ["CARDS", "of_card", "of_film", "of_graph"]

CARDS = {
    "flux_wan_film": ("Storyboard", "Keyframes that remember|FLUX.1-dev", "Video|Wan 2.2 5B", "Film"),
    "qwen_image_edit_references": ("Earlier frames", "Memory|GoldenMem", "Next shot|Qwen-Image-Edit 2511"),
    "flux2_references": ("Earlier frames", "Memory|GoldenMem", "Next shot|FLUX.2-dev"),
    "wan22_5b_keyframes": ("Pictures", "Times on a timeline", "Video|Wan 2.2 5B"),
    "wan22_14b_keyframes": ("Pictures", "Times on a timeline", "Video|Wan 2.2 14B, two experts"),
    "wan22_5b_story": ("Texts", "Segments, each out of the one before|Wan 2.2 5B", "Film"),
    "mochi_story": ("Texts", "Segments, each out of the one before|Mochi 1", "Film"),
    "qwen_edit_pairs_wan": (
        "Storyboard",
        "Start and end of every shot|Qwen-Image-Edit 2511",
        "Video from start to end|Wan 2.2 14B",
        "Film",
    ),
    "wan22_5b_keyframe_sr": ("Large pictures", "Small video through them|Wan 2.2 5B", "Large video|the same pictures"),
    "upscale_any_video": ("Your video", "Windows, never across a cut", "Larger, with sound|Wan 2.2 5B"),
}
"""What a workflow with public models does, step by step: what it is, and after the bar with which model."""

WIDTH = 1280
"""Pixels; the height follows from the graph."""

MARGIN = 16
"""Pixels of canvas around the graph's groups."""

_FIT = """
app.extensionManager.focusMode = true;
app.canvas.show_info = false;
const boxes = app.graph.groups.map((group) => [...group.pos, ...group.size]);
const left = Math.min(...boxes.map((b) => b[0])), top = Math.min(...boxes.map((b) => b[1]));
const width = Math.max(...boxes.map((b) => b[0] + b[2])) - left;
const height = Math.max(...boxes.map((b) => b[1] + b[3])) - top;
const scale = Math.min((given.width - 2 * given.margin) / width, (given.height - 2 * given.margin) / height);
app.canvas.ds.scale = scale;
app.canvas.ds.offset = [given.margin / scale - left, given.margin / scale - top];
app.canvas.setDirty(true, true);
for (let i = 0; i < 10; i++) await new Promise(requestAnimationFrame);
return [width * scale, height * scale];
"""


def of_graph(frontend: Frontend) -> Image.Image:
    """The whole graph as the frontend draws it, `WIDTH` wide."""
    size = frontend.page.viewport_size
    assert size is not None
    frontend.page.add_style_tag(content=_BARE)
    width, height = frontend.js(_FIT, {**size, "margin": MARGIN})
    frontend.page.wait_for_timeout(1500)  # texts above the canvas follow it with a delay
    box = {"x": 0, "y": 0, "width": width + 2 * MARGIN, "height": height + 2 * MARGIN}
    shown = Image.open(io.BytesIO(frontend.page.screenshot(clip=box))).convert("RGB")
    return shown.resize((WIDTH, round(WIDTH * shown.height / shown.width)), Image.Resampling.LANCZOS)


_BARE = "body > :not(#vue-app), .p-toast, .graph-canvas-panel .minimap, .minimap-main-container { display: none }"


def of_film(frontend: Frontend, columns: int = 2, rows: int = 3) -> Image.Image:
    """Run the graph and lay out frames of the video that it saves, evenly spaced."""
    server = frontend.server
    history = server.run(frontend.js("return (await app.graphToPrompt()).output"), timeout=900)
    saved = [entry for output in history["outputs"].values() for entry in output.get("images", [])]
    (film,) = (entry for entry in saved if entry["filename"].endswith(".mp4"))
    with av.open(str(Path(server.base, "output", film["subfolder"], film["filename"]))) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    count = columns * rows
    chosen = [frames[(2 * i + 1) * len(frames) // (2 * count)] for i in range(count)]
    width = 320
    height = width * chosen[0].height // chosen[0].width
    sheet = Image.new("RGB", (columns * (width + 4) - 4, rows * (height + 4) - 4))
    for i, frame in enumerate(chosen):
        picture = frame.resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(picture, (i % columns * (width + 4), i // columns * (height + 4)))
    return sheet


_CARD = """<!doctype html><style>
  body { margin: 0; width: 960px; height: 540px; background: #17202a; color: #fff; font: 30px/1.2 sans-serif;
         display: flex; flex-direction: column; justify-content: center; gap: 10px; }
  div { margin: 0 90px; padding: 16px 28px; border-radius: 14px; background: #2a3a4a; text-align: center; }
  div:last-of-type { background: #2f6f4f; }
  b { display: block; font-weight: 600; font-size: 38px; }
  i { display: block; font-style: normal; color: #b8cbe0; }
  div:last-of-type i { color: #cfeedd; }
  p { margin: 0; text-align: center; color: #7fa0c0; font-size: 26px; line-height: 0.9; }
</style>"""


def of_card(frontend: Frontend, steps: tuple[str, ...]) -> Image.Image:
    """The steps of a workflow, legible as small as the list of templates shows them."""
    boxes = []
    for step in steps:
        what, _, model = step.partition("|")
        boxes.append(f"<div><b>{html.escape(what)}</b>{f'<i>{html.escape(model)}</i>' if model else ''}</div>")
    browser = frontend.page.context.browser
    assert browser is not None
    page = browser.new_page(viewport={"width": 960, "height": 540})
    try:
        page.set_content(_CARD + "<p>▼</p>".join(boxes))
        return Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    finally:
        page.close()
