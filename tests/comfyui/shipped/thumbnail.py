"""Pictures of the shipped workflows, as ComfyUI's list of templates shows them: the graph, or frames of its film."""

from __future__ import annotations

import io
from pathlib import Path

import av
from comfyui.browser import Frontend
from PIL import Image

__all__ = ["of_film", "of_graph"]

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
