"""The folder of a suite's report, looked at before hours of work end in it. Nothing heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.documents import read_json
from ..core.errors import InputError
from ..core.files import check_folder

__all__ = ["check_report_folder", "report_names"]

_MAX_BYTES = 64 << 20


def report_names(suite: str) -> tuple[str, ...]:
    """What a suite writes in its folder: figures, figures so far, plots, pictures, and a folder of single films."""
    return f"{suite}.json", f"{suite}_partial.json", f"{suite}.png", f"{suite}_frames.png", f"{suite}_parts"


def check_report_folder(folder: Path, suite: str) -> None:
    """Refuse a folder that cannot be written to, or that has files by our names which are not ours; it is not made yet.

    Raises:
        InputError: see `check_folder`; or what stands there is no report of `suite`.
    """
    check_folder(folder, "out")
    *files, parts = report_names(suite)
    for name in files:
        if (folder / name).is_dir():
            raise InputError("out", f"must have a file as its {name}", f"a folder: {folder / name}", "move it away")
    if os.path.lexists(folder / parts) and not (folder / parts).is_dir():
        raise InputError("out", f"must have a folder as its {parts}", f"a file: {folder / parts}", "move it away")
    there = [folder / name for name in files if os.path.lexists(folder / name)]
    reports = [path for path in there if path.suffix == ".json"]
    for path in reports:
        if not _is_report(path, suite):
            raise _foreign(path)
    if there and not reports:
        raise _foreign(there[0])


def _is_report(path: Path, suite: str) -> bool:
    try:
        report = read_json(path, path.name, limit=_MAX_BYTES)
    except InputError:
        return False
    return isinstance(report, dict) and report.get("suite") == suite


def _foreign(path: Path) -> InputError:
    return InputError("out", "holds a file that no evaluation of ours left there", str(path), "choose another folder")
