"""Tests against a real ComfyUI: found at $COMFYUI_PATH or ~/comfy/ComfyUI, on the CPU; skipped loudly without one."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from in_comfyui.server import ComfyServer
    from torch import Tensor

    from anchorshot.story.storyboard import Storyboard

COMFYUI = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
FOUND = (COMFYUI / "comfy_extras" / "nodes_wan.py").is_file()

if FOUND:
    # First on the path: the pack's own root may be there too (``python -m pytest`` adds it), and its `nodes` would
    # shadow ComfyUI's.
    sys.path.insert(0, str(COMFYUI))
    os.environ.setdefault("COMFYUI_DISABLE_TELEMETRY", "1")
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.disable_xformers = True
else:
    collect_ignore_glob = ["test_*.py"]
    warnings.warn(f"ComfyUI tests SKIPPED: no checkout at {COMFYUI}; set COMFYUI_PATH to one", stacklevel=1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """One server for all tests, as a person has one: what a test leaves behind must not disturb the next.

    Empty files by the names of the public models lie in its folders, so that only their content is missing.
    """
    from in_comfyui.odd_graphs import VALUES
    from in_comfyui.server import PACK, ROOT, running
    from in_comfyui.shipped.parts import place_files

    packs = {PACK: ROOT, "odd-values": VALUES}
    with running(tmp_path_factory.mktemp("comfyui"), packs, timeout=900) as comfy:
        place_files(comfy.base)
        yield comfy


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """ComfyUI's folders for nodes that run in the test itself: nothing is written to the checkout."""
    import folder_paths

    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        getattr(folder_paths, f"set_{name}_directory")(str(tmp_path / name))
    return tmp_path


@pytest.fixture(scope="session")
def board() -> Storyboard:
    """Two shots, three keyframes."""
    from in_comfyui.node_inputs import STORY

    from anchorshot.story.storyboard import parse_storyboard

    return parse_storyboard(STORY)


@pytest.fixture(scope="session")
def studio() -> dict[str, Any]:
    """The Pocket Studio's outputs by their ids: real weights."""
    from anchorshot.nodes.pocket import PocketStudio

    ids = [output.id for output in PocketStudio.define_schema().outputs]
    return dict(zip(ids, PocketStudio.execute().args, strict=True))


@pytest.fixture(scope="session")
def pictures() -> Tensor:
    """IMAGE [6, 80, 160, 3] of the pocket world."""
    from anchorshot.pocket.bank import picture_bank, to_tensor

    return to_tensor(picture_bank(6, "test")).movedim(1, -1)
