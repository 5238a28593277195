"""Flags of `evaluate` and `bench`, from the options of their suites."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from ..evaluation.options import Owner, flag_options

__all__ = ["add_flags", "suite_names"]

Whole = Callable[[int, int], Callable[[str], int]]


def suite_names(suites: Sequence[Owner]) -> str:
    """For the help: ``keyframes, video or storytelling``."""
    *others, last = (suite.name for suite in suites)
    return f"{', '.join(others)} or {last}" if others else last


def add_flags(command: argparse.ArgumentParser, suites: Sequence[Owner], whole: Whole) -> None:
    """Add the flags of all suites to a command.

    Args:
        command: its parser.
        suites: those it can run.
        whole: makes a reader of whole numbers in a range.
    """
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in flag_options(suites):
        flag = option.flag
        target: argparse._ActionsContainer = command
        if option.heading:
            if option.heading not in groups:
                groups[option.heading] = command.add_argument_group(option.heading)
            target = groups[option.heading]
        if flag.metavar is None:
            target.add_argument(option.name, dest=option.field, action="store_true", help=option.help)
            continue
        read = None if flag.whole is None else whole(*flag.whole)
        target.add_argument(
            option.name,
            dest=option.field,
            metavar=flag.metavar,
            type=read or str,
            help=option.help,
        )
