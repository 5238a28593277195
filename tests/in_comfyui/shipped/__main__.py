"""Draws the shipped workflows and blueprints into the pack's folders: `make workflows`, or some of them by name.

PYTHONPATH=tests python -m in_comfyui.shipped [NAME ...]

With $ANCHORSHOT_SHOTS a picture of every graph is saved in that folder, too.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from in_comfyui.browser import Frontend, missing, opened
from in_comfyui.server import ROOT, running
from in_comfyui.shipped import BLUEPRINTS, FILMED, WORKFLOWS
from in_comfyui.shipped.parts import place_files
from in_comfyui.shipped.thumbnail import CARDS, of_card, of_film, of_graph
from in_comfyui.shipped.titles import TITLES
from in_comfyui.sketch import draw, draw_blueprint


def main(names: list[str]) -> None:
    """Draw what is named, or everything.

    Raises:
        SystemExit: no browser, or no such workflow.
    """
    lacking = missing()
    if lacking:
        raise SystemExit(f"The workflows are drawn by ComfyUI's frontend in a browser: {lacking}")
    unknown = sorted(set(names) - WORKFLOWS.keys() - BLUEPRINTS.keys())
    if unknown:
        raise SystemExit(f"{', '.join(unknown)}: must be among {', '.join([*WORKFLOWS, *BLUEPRINTS])}")
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), {"anchorshot": ROOT}, timeout=600) as server:
        place_files(Path(folder))
        with opened(server, width=5000, height=2600) as frontend:
            for name in names or [*WORKFLOWS, *BLUEPRINTS]:
                print(name, flush=True)
                if name in BLUEPRINTS:
                    _write(ROOT / "subgraphs" / f"{name}.json", draw_blueprint(frontend, BLUEPRINTS[name](), name))
                else:
                    _workflow(frontend, name)


def _workflow(frontend: Frontend, name: str) -> None:
    drawn = draw(frontend, WORKFLOWS[name]())
    _write(ROOT / "workflows" / f"{TITLES[name]}.json", drawn)
    shots = os.environ.get("ANCHORSHOT_SHOTS")
    if shots:
        of_graph(frontend).save(Path(shots, f"workflow_{name}.png"))
    picture = of_film(frontend) if name in FILMED else of_card(frontend, CARDS[name])
    picture.save(ROOT / "workflows" / f"{TITLES[name]}.jpg", quality=88, optimize=True)


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
