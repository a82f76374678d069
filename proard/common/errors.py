"""The exceptions that the command line reports in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """The input is wrong. The message is one line: what, where, and what would be right (exit code 2)."""


class Stopped(Exception):
    """Work ended early for a reason that its message says in one line; what was done so far is kept.

    Attributes:
        exit_code: of the command line.
        alone: whether this process of a job stopped by itself, so that it has to say why; of a class: always.
    """

    alone = False

    def __init__(self, message: str, exit_code: int = 1, alone: bool = False) -> None:
        super().__init__(message)
        self.exit_code, self.alone = exit_code, alone or self.alone


@contextmanager
def located(where: str) -> Iterator[None]:
    """What is wrong inside the block is said with the place that it comes from, such as a key of the configuration."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def nearest(name: str, valid: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the closest valid name, else the list of all of them."""
    names = [str(candidate) for candidate in valid]
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(names)}" if names else ""


def first_line(error: object) -> str:
    """The first line of what an exception says, which may go on for pages; the name of its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reason(error: object) -> str:
    """What an exception says, in one line; the name of its type where it says nothing."""
    if isinstance(error, KeyError) and error.args:
        return f"'{error.args[0]}' is missing"
    return " ".join(str(error).split()) or type(error).__name__


def out_of_memory(error: object) -> str:
    """What PyTorch says where a device has no memory left: how much was wanted, and of how much, without its advice."""
    return f"out of memory ({'. '.join(first_line(error).split('. ')[:2]).rstrip('.')})"
