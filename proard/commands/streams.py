"""Standard output and error that fail without stopping the work: a full disk, a terminal or a reader that is gone."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def enduring_streams() -> Iterator[Callable[[], None]]:
    """Let what cannot be printed be lost, from the first failure on; streams that are closed lead nowhere.

    Yields:
        A check for the end, which raises an `OSError` where output was lost that somebody still waits for.
    """
    with suppress(OSError):  # else a file that is opened later takes a closed stream's number, and what C code prints
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
    before = sys.stdout, sys.stderr
    output, error = (_Enduring(open(os.devnull, "w") if stream is None else stream) for stream in before)  # noqa: SIM115
    sys.stdout, sys.stderr = output, error

    def check() -> None:
        output.flush()
        if output.failure is not None and not isinstance(output.failure, BrokenPipeError):
            raise OSError(output.failure.errno, os.strerror(output.failure.errno or 0), "standard output")

    try:
        yield check
    finally:
        output.flush()
        error.flush()
        sys.stdout, sys.stderr = before


class _Enduring:
    """A text stream that writes what it can.

    Attributes:
        failure: the first.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a class's name, where the terminal has only ASCII

    def write(self, text: str) -> int:
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(self._stream.flush)

    def _attempt(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except OSError as error:
            self.failure = self.failure or error
            with suppress(OSError):  # what is still in its buffer goes nowhere, too
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
