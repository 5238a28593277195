"""The table of a suite on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.table import Table

__all__ = ["result_table"]

Row = Mapping[str, Any]


def result_table(result: Mapping[str, Any]) -> Table:
    """One line per row, the columns that matter, each in its unit; the JSON has all of them."""
    columns = _KEYFRAMES if result["suite"] == "keyframes" else _VIDEO
    what = "stories" if result["suite"] == "keyframes" else "clips"
    title = f"{result['suite']} · {result['studio']} · {result['stories']} held-out {what}, seed {result['seed']}"
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name == "variant" else "right", no_wrap=True)
    for row in result["rows"]:
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
    return f"{row['identity']:.3f}" + ("" if error is None else f" ± {error:.3f}")


def _beside(name: str, reference: str, digits: int) -> Callable[[Row], str]:
    return lambda row: f"{_figure(name, digits)(row)} / {_figure(reference, digits)(row)}"


_KEYFRAMES: dict[str, Callable[[Row], str]] = {
    "variant": lambda row: str(row["variant"]),
    "pairs": _figure("pairs", 0),
    "identity": _identity,
    "exact": _figure("identity_exact"),
    "place": _figure("place"),
    "layout": _figure("layout"),
    "aligned": _figure("alignment"),
    "recall": _figure("recall"),
    "diversity / true": _beside("diversity", "diversity_truth", 3),
    "tokens": _figure("tokens", 0),
    "GFLOP": _figure("flops", 2, 1e-9),
    "seconds": _figure("seconds", 2),
}

_VIDEO: dict[str, Callable[[Row], str]] = {
    "variant": lambda row: str(row["variant"]),
    "keyframe / VAE, dB": _beside("keyframe_psnr", "vae_psnr", 2),
    "exact": _figure("keyframes_exact"),
    "jump / true": _beside("boundary_jump", "boundary_jump_truth", 2),
    "PSNR, dB": _figure("psnr", 2),
    "motion": _figure("motion", 4),
    "of true": _figure("motion_ratio", 2),
    "snap": _figure("snap_error", 2),
    "seconds": _figure("seconds", 2),
}
