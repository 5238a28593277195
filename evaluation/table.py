"""The table of a suite on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .suite import Column, Columns, Suite

__all__ = ["NAME", "beside", "figure", "result_table"]

NAME: dict[str, Column] = {"variant": lambda row: str(row["variant"])}
"""The first column."""


def result_table(suite: Suite[Any], result: Mapping[str, Any]) -> Group:
    """One line per row: the columns that matter, each in its unit, in 80 characters. The JSON has all of them."""
    subject = suite.subject
    if result.get("set", "pocket") not in ("pocket", "held_out"):
        subject = f"{suite.subject.split()[-1]} of {result['set']}"
    title = f"{result['suite']} · {result['studio']} · {result['stories']} {subject}, seed {result['seed']}"
    tables = [_table(columns, result["rows"]) for columns in suite.tables(result)]
    note = suite.note(result)
    return Group(Text(title, style="bold"), *tables, *([Text(note, style="dim")] if note else []))


def _table(columns: Columns, rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name, justify="left" if name == "variant" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(show(row) for show in columns.values()))
    return table


def figure(name: str, digits: int = 3, scale: float = 1.0) -> Column:
    """A column of numbers, each times `scale`; a dash where there is none."""

    def show(row: Mapping[str, Any]) -> str:
        value = row[name]
        return "–" if value is None else f"{value * scale:,.{digits}f}"

    return show


def beside(name: str, reference: str, digits: int) -> Column:
    """Two columns of numbers in one."""
    return lambda row: f"{figure(name, digits)(row)} / {figure(reference, digits)(row)}"
