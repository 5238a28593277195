"""A figure of plots, and the kinds of plot that several suites draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from .suite import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "bars", "draw_plots", "grouped_bars"]

# Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")

Result = Mapping[str, Any]


def draw_plots(panels: Sequence[Panel]) -> Figure:
    """Draw the plots of a suite, two in a row."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        fix = "install matplotlib, or run without an output folder"
        raise InputError("out", "plots need matplotlib", "not installed", fix) from error

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(7.5 * columns, 4.4 * rows), layout="constrained")
    for number, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        panel(axes)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def bars(axes: Axes, rows: Sequence[Result], column: str, unit: str, title: str, line: float | None) -> None:
    """Draw one bar a row: a column, and a dotted line to compare with. Rows without a value are left out."""
    kept = [row for row in rows if row[column] is not None]
    for k, row in enumerate(kept):
        axes.bar(k, row[column], 0.6, color=COLOURS[k % len(COLOURS)])
        axes.annotate(f"{row[column]:.2f}", (k, row[column]), textcoords="offset points", xytext=(0, 3), ha="center")
    axes.set_xticks(range(len(kept)), [row["variant"].replace("_", " ") for row in kept])
    if line is not None:
        axes.axhline(line, color="grey", linestyle=":", linewidth=1.2)
    axes.set(ylabel=unit, title=title)
    axes.margins(y=0.15)


def grouped_bars(axes: Axes, rows: Sequence[Result], columns: Sequence[str], title: str, unit: str) -> None:
    """Draw the bars of up to three columns, shares or cosines, side by side for each row."""
    for k, column in enumerate(columns):
        at = [i + 0.26 * k for i in range(len(rows))]
        axes.bar(at, [row[column] or 0 for row in rows], 0.24, color=COLOURS[k], label=column)
    axes.set_xticks([i + 0.26 for i in range(len(rows))], [row["variant"] for row in rows], rotation=20, ha="right")
    axes.set(ylim=(0, 1.02), ylabel=unit, title=title)
    axes.legend()
