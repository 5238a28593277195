"""The table of a suite on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

__all__ = ["result_table"]

Row = Mapping[str, Any]


def result_table(result: Mapping[str, Any]) -> Group:
    """One line per row: the columns that matter, each in its unit, in 80 characters. The JSON has all of them."""
    what = "held-out clips" if result["suite"] == "video" else "held-out stories"
    if result.get("set", "pocket") not in ("pocket", "held_out"):
        what = f"stories of {result['set']}"
    title = f"{result['suite']} · {result['studio']} · {result['stories']} {what}, seed {result['seed']}"
    parts = [_table(columns, result["rows"]) for columns in _COLUMNS[result["suite"]]]
    notes = [Text(_judges(result), style="dim")] if result["suite"] == "storytelling" else []
    return Group(Text(title, style="bold"), *parts, *notes)


def _judges(result: Mapping[str, Any]) -> str:
    """Whose features and distances the columns are."""
    clip = {"studio": "the studio's"}.get(result["clip"], "from a file")
    features = {"recogniser": "the recogniser's features", "clip": "CLIP's image features", "dino": "DINO"}
    jump = {"ssim": "1 − SSIM", "lpips": "LPIPS"}[result["jump_metric"]]
    return f"CLIP: {clip}; consistency: {features[result['features']]}; jump: {jump}"


def _table(columns: Mapping[str, Callable[[Row], str]], rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name == "variant" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(show(row) for show in columns.values()))
    return table


def _figure(name: str, digits: int = 3, scale: float = 1.0) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        value = row[name]
        return "–" if value is None else f"{value * scale:,.{digits}f}"

    return show


def _identity(row: Row) -> str:
    if row["identity"] is None:
        return "–"
    error = row["identity_se"]
    return f"{row['identity']:.3f}" + ("" if error is None else f" ±{error:.2f}")


def _beside(name: str, reference: str, digits: int) -> Callable[[Row], str]:
    return lambda row: f"{_figure(name, digits)(row)} / {_figure(reference, digits)(row)}"


_NAME: dict[str, Callable[[Row], str]] = {"variant": lambda row: str(row["variant"])}
_PAIRS = _NAME | {"pairs": _figure("pairs", 0)}

_KEYFRAMES = (
    _PAIRS
    | {
        "identity": _identity,
        "exact": _figure("identity_exact"),
        "told": _figure("introduced"),
        "kept": _figure("consistency"),
        "place": _figure("place"),
        "layout": _figure("layout"),
    },
    _PAIRS
    | {
        "side": _figure("side"),
        "action": _figure("action"),
        "aligned": _figure("alignment"),
        "recall": _figure("recall"),
    },
    _PAIRS
    | {
        "diversity / true": _beside("diversity", "diversity_truth", 3),
        "tokens": _figure("tokens", 0),
        "GFLOP": _figure("flops", 2, 1e-9),
        "seconds": _figure("seconds", 2),
    },
)

_VIDEO = (
    _NAME
    | {
        "keyframe / VAE, dB": _beside("keyframe_psnr", "vae_psnr", 2),
        "exact": _figure("keyframes_exact"),
        "jump / true": _beside("boundary_jump", "boundary_jump_truth", 2),
        "PSNR, dB": _figure("psnr", 2),
    },
    _NAME
    | {
        "motion": _figure("motion", 4),
        "over true": _figure("motion_ratio", 2),
        "snap, frames": _figure("snap_error", 2),
        "seconds": _figure("seconds", 2),
    },
)

_STORYTELLING = (
    _NAME
    | {
        "CLIP-add": _figure("clip_add"),
        "CLIP-combined": _figure("clip_combined"),
        "consistency": _figure("consistency"),
        "jump": _figure("jump"),
    },
    _NAME
    | {
        "action": _figure("action"),
        "place": _figure("place"),
        "identity": _figure("identity"),
        "time": _figure("time_ratio", 2),
        "memory": _figure("memory_ratio", 2),
    },
)

_COLUMNS = {"keyframes": _KEYFRAMES, "video": _VIDEO, "storytelling": _STORYTELLING}
