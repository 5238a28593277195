"""One moment by which all of an answer must be there: waits, retries and a second question share it."""

from __future__ import annotations

import time

from ..core.errors import InputError

__all__ = ["Deadline"]


class Deadline:
    """`seconds` from now on.

    Args:
        seconds: how long, more than 0.
        who: what is waited for, for the error.
        fix: what to do where it takes longer.
    """

    def __init__(
        self, seconds: float, who: str, fix: str = "allow more time (timeout), or ask for fewer shots"
    ) -> None:
        self.seconds, self.who, self.fix = seconds, who, fix
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, 0 when it is over."""
        return max(0.0, self._end - time.monotonic())

    def extend(self, seconds: float) -> None:
        """Put it off: what these seconds were spent on does not count."""
        self._end += seconds

    def check(self) -> None:
        """Raise InputError when it is over."""
        if not self.left:
            raise self.error()

    def error(self, seen: str = "no whole answer yet") -> InputError:
        """The error for what is too late."""
        return InputError(self.who, f"must answer within {self.seconds:g} s", seen, self.fix)
