"""Rows of a benchmark and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Row", "print_table", "row"]

Row = dict[str, Any]


def row(what: str, ours: float, reference: float) -> Row:
    """One comparison: `what` names the quantity, its unit and the reference; `ratio` is ours / reference."""
    return {"what": what, "ours": ours, "reference": reference, "ratio": ours / reference}


def print_table(rows: Sequence[Mapping[str, Any]], title: str = "", console: Console | None = None) -> None:
    """Print rows of `run` as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", show_lines=False)
    table.add_column("what", overflow="fold")
    for name in ("ours", "reference", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(str(row["what"]), *(_number(row[name]) for name in ("ours", "reference")), f"{row['ratio']:.3f}")
    (console or Console()).print(table)


def _number(value: float) -> str:
    """Four significant digits, without an exponent for the sizes that occur here."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = 4 if abs(value) < 1 else max(0, 4 - len(str(int(abs(value)))))
        return f"{value:,.{digits}f}"
    return f"{value:.3g}"
