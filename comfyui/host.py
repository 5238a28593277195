"""What nodes ask of a running ComfyUI: progress with previews, interruption, its folders, and errors about memory."""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import latent_preview
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor

from ..core.errors import InputError

__all__ = [
    "Progress", "input_folder", "input_path", "memory_errors", "picture_reader", "relative_paths", "stop_if_asked",
    "tell", "temporary_folder",
]  # fmt: skip

logger = logging.getLogger(__name__)

_SHEET = 1024
"""Longest side of the finished pictures that are shown, in pixels."""

Pick = Callable[[Any], Any]


class Progress:
    """One progress bar over several sampling runs, with ComfyUI's own previews.

    Args:
        model: the MODEL that samples; its latent format makes the previews.
        total: sampler steps of all runs together.
        pick: takes the latent to show out of a run's x0; None shows what ComfyUI would.
        done: steps that earlier calls of the same node have made.
    """

    def __init__(self, model: Any, total: int, pick: Pick | None = None, done: int = 0) -> None:
        self._bar = comfy.utils.ProgressBar(max(1, total))
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._pick = pick
        self._done = done

    def callback(self) -> Callable[[int, Any, Any, int], None]:
        """The sampler callback of the next run, which starts where the last one ended."""
        start = self._done

        def report(step: int, x0: Any, x: Any, steps: int) -> None:
            preview = None
            if self._previewer is not None and x0 is not None:
                shown = x0.unbind()[0] if getattr(x0, "is_nested", False) else x0
                shown = shown if self._pick is None else self._pick(shown)
                preview = self._previewer.decode_latent_to_preview_image("JPEG", shown)
            self._done = start + step + 1
            self._bar.update_absolute(self._done, None, preview)

        return report

    def show(self, images: Tensor) -> None:
        """Put finished pictures, IMAGE `[K, H, W, 3]`, in the place of the last preview, which would stay."""
        if self._previewer is None:
            return
        count = len(images)
        columns = math.ceil(math.sqrt(count))
        sheet = images.new_zeros(math.ceil(count / columns) * columns, *images.shape[1:])
        sheet[:count] = images
        rows = sheet.unflatten(0, (-1, columns)).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        picture = Image.fromarray((rows * 255).round().byte().cpu().numpy())
        self._bar.update_absolute(self._done, None, ("JPEG", picture, _SHEET))


def tell(text: str, warn: bool = False) -> None:
    """Say something to people on the node that runs, and as a warning also in the log."""
    context = get_executing_context()
    # Not imported: without a server (tests, scripts) there is nobody to tell.
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)
    if warn:
        logger.warning("%s", text)


def stop_if_asked() -> None:
    """Raise ComfyUI's interruption if the user has pressed Cancel; call between pieces of work that do not sample."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def picture_reader(prompt: Any, node_id: Any, output: int) -> str:
    """A node that cannot do without the picture of an output, as people know it; empty if there is none.

    Args:
        prompt: the graph that runs, as the server got it.
        node_id: whose output.
        output: its number.
    """
    nodes = importlib.import_module("nodes")  # ComfyUI's own; late, because it imports every core node
    for other, entry in (prompt or {}).items():
        schema = nodes.NODE_CLASS_MAPPINGS.get(entry.get("class_type"))
        for name, value in entry.get("inputs", {}).items():
            if schema is None or not isinstance(value, list) or value != [node_id, output]:
                continue
            kind, *_ = schema.INPUT_TYPES().get("required", {}).get(name.partition(".")[0]) or ("",)
            if isinstance(kind, str) and ("IMAGE" in kind.split(",") or kind.startswith("COMFY_AUTOGROW")):
                title = nodes.NODE_DISPLAY_NAME_MAPPINGS.get(entry["class_type"], entry["class_type"])
                return f"{title} (node {other})"
    return ""


@contextlib.contextmanager
def memory_errors(field: str, work: str, fix: str) -> Iterator[None]:
    """Turn running out of memory in the body into one sentence, and free what models hold.

    Args:
        field: what ran out of memory, e.g. ``Interleaved Keyframe Sampler``.
        work: what was being done, with its size.
        fix: what to change.

    Raises:
        InputError: when the body runs out of memory; every other error passes.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # torch's CPU allocator raises a plain RuntimeError
        full = isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)
        if not full and not comfy.model_management.is_oom(error):
            raise
        # ComfyUI does this for errors that it recognises, and ours is another class.
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        raise InputError(field, "needs more memory than the device has", work, fix) from error


def input_folder() -> Path:
    """ComfyUI's input folder, with links followed."""
    return Path(folder_paths.get_input_directory()).resolve()


def input_path(name: str, field: str) -> Path:
    """A file of ComfyUI's input folder by its relative path; links are followed.

    Raises:
        InputError: it leads out of that folder, by its words or by a link.
    """
    fix = "copy the file there and give its name, with / between folders"
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    # By the words first: on Windows the very look at a name such as //host/share makes the system call that host.
    outside = windows.drive or windows.root or posix.is_absolute() or ".." in windows.parts or name.startswith("~")
    if outside or "\\" in name or not name or len(name) > 1000:
        raise InputError(field, "must lie in ComfyUI's input folder", name, fix)
    root = input_folder()
    try:
        path = (root / name).resolve()
        inside = path.is_relative_to(root)
    except (OSError, RuntimeError, ValueError) as error:  # too long a name, a zero byte, a ring of links
        raise InputError(field, "is not a usable path", name, "give a path inside the input folder") from error
    if not inside:
        raise InputError(field, "must lie in ComfyUI's input folder", name, fix)
    return path


@contextlib.contextmanager
def relative_paths(*folders: str | Path) -> Iterator[None]:
    """Errors of the body show paths relative to ComfyUI's input folder and `folders`: a server's own are its secret.

    Raises:
        InputError: the body's, so changed.
    """
    try:
        yield
    except InputError as error:
        roots = [str(input_folder()), folder_paths.get_input_directory(), *map(str, folders)]

        def cut(part: Any) -> Any:
            for root in roots if isinstance(part, str) else ():
                part = part.replace(root.rstrip("/\\") + os.sep, "")
            return part

        raise InputError(*map(cut, error.args)) from None


def temporary_folder() -> Path:
    """ComfyUI's folder for files that live as long as the server."""
    path = Path(folder_paths.get_temp_directory())
    path.mkdir(parents=True, exist_ok=True)
    return path
