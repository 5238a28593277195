"""Output that may go away, and signals that end a run: neither loses what is finished.

A terminal that is closed, a pipe whose reader has gone and a full disk under ``> log`` are no reasons to stop a film
that takes hours; the exit code tells of them at the end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, TextIO

__all__ = ["Failure", "Guarded", "Stop", "guarded_streams", "reason_of", "stoppable"]

_PATIENCE = 2.0
"""Seconds in which the same wish, pressed twice, is one wish."""


class Failure(Exception):
    """The machine failed, not the input: one line for people, and exit code 1."""


class Guarded:
    """A text stream whose failures are remembered in `error` instead of raised; after one, nothing is written."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = stream
        self.error: Exception | None = None if stream is not None else OSError("it is closed")

    def write(self, text: str) -> int:
        """Write `text`; characters that the stream's encoding does not have become escapes."""
        if self.error is None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError as error:
                self._stream.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
            except (OSError, ValueError) as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Hand on what is buffered."""
        if self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._fail(error)

    def isatty(self) -> bool:
        """Whether people look on."""
        return self.error is None and bool(self._stream.isatty())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _fail(self, error: Exception) -> None:
        self.error = error
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # Python flushes what is still buffered when it ends: into nothing, not into another error.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


@contextlib.contextmanager
def guarded_streams() -> Iterator[tuple[Guarded, Guarded]]:
    """Guard `sys.stdout` and `sys.stderr` while the block runs; yields both."""
    _fill_standard_descriptors()
    before = sys.stdout, sys.stderr
    out, err = Guarded(sys.stdout), Guarded(sys.stderr)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield out, err
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _fill_standard_descriptors() -> None:
    """Where 0, 1 or 2 is closed, the next file to be opened would get that number, and what is printed with it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            while (opened := os.open(os.devnull, os.O_RDWR)) < number:
                pass
            if opened > number:
                os.close(opened)


class Stop:
    """The wish to stop: the first signal raises KeyboardInterrupt, others shortly after it are the same wish.

    Args:
        last: the process ends with what is stopped.

    Attributes:
        signal: its number, 0 as long as there was none.
    """

    def __init__(self, last: bool = False) -> None:
        self.signal = 0
        self._at = 0.0
        self._last = last
        self._loading = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if not self.signal:
            self.signal, self._at = number, time.monotonic()
            if self._loading:
                with contextlib.suppress(OSError):
                    os.write(2, f"anchorshot: {self.word}\n".encode())
                os._exit(self.code)
            raise KeyboardInterrupt
        if time.monotonic() - self._at > _PATIENCE:  # it hangs: what is written is whole at any moment
            os._exit(128 + number)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """End the process at a signal while the block loads modules, where that is its last work.

        Nothing has begun that could be left in halves; and libraries in C or Rust turn a KeyboardInterrupt that hits
        them on loading into errors and tracebacks of their own.
        """
        self._loading = self._last
        try:
            yield
        finally:
            self._loading = False

    @property
    def code(self) -> int:
        """The exit code that shells know."""
        return 128 + (self.signal or signal.SIGINT)

    @property
    def word(self) -> str:
        """What happened."""
        return "interrupted" if self.signal in (0, signal.SIGINT) else "terminated"


@contextlib.contextmanager
def stoppable(last: bool) -> Iterator[Stop]:
    """Have Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt once, so that half-written files are removed.

    Args:
        last: the process ends with this block: after a signal, more of them are ignored until then.
    """
    stop, before = Stop(last), {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # What nohup or a shell has switched off stays so; only the main thread may set handlers.
        if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
            with contextlib.suppress(ValueError):
                before[number] = signal.signal(number, stop)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last and stop.signal else handler)


def reason_of(error: BaseException) -> str | None:
    """One line about an error of the machine (a full disk, memory, a folder in the way), None if it is another kind."""
    names = {kind.__name__ for kind in type(error).__mro__}
    text = " ".join(str(error).split())
    if isinstance(error, Failure) or "TasksFailed" in names:
        return text
    if isinstance(error, OSError):
        place = error.filename2 or error.filename
        words = error.strerror or text or type(error).__name__
        return f"{words}: {place}" if place else words
    # Of libraries that may not be loaded: PyAV, safetensors, torch.
    if "FFmpegError" in names or ("SafetensorError" in names and "I/O error" in text):
        return text
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names or "can't allocate memory" in text:
        return f"not enough memory: {text}" if text else "not enough memory"
    return None
