"""The `anchorshot` command: `direct`, `film`, `tell`, `evaluate`, `bench` and `train`.

Exit codes: 0 done, 2 bad input (exactly one line on stderr, before any work), 130 interrupted, 143 terminated, 1
anything else, such as a full disk. Nothing heavy is imported before a command has its arguments, so `--help` and a typo
answer at once; this module imports nothing at all, so that Ctrl-C is answered from the very start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: those after the program's name; None takes the process's own, which then ends with the command.
    """
    try:
        from .commands import run

        return run(arguments)
    except KeyboardInterrupt:  # before signals were seen to, or after
        if sys.stderr is not None:
            print("anchorshot: interrupted", file=sys.stderr)
        return 130
