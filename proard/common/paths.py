"""Paths as people write them: every one that comes from outside goes through here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from proard.common.errors import UserError

ADDRESS = re.compile(r"[A-Za-z][\w+.-]+:/")  # with one slash, since a Path has no two in a row
VARIABLE = re.compile(r"\$(\w+|\{\w+\})")


def path_of(path: str | Path) -> Path:
    """The path as it was meant: with ``~`` at its beginning, ``$NAME`` and ``file://`` resolved; relative if it is.

    Raises:
        UserError: it is empty, has a line break, is an address of something elsewhere, or names an environment variable
            that is not set; there is no home directory, or no such user.
    """
    text = str(path)
    if not text.strip() or any(ord(character) < 32 for character in text):
        raise UserError(f"{text!r} is no path; '.' is the folder in which you are")
    if not os.path.lexists(text):
        if text.startswith("file:/"):
            text = unquote(urlsplit(text).path)
        elif ADDRESS.match(text):
            raise UserError(f"{text}: is no path on this machine, which is wanted here")
        text = os.path.expandvars(text)
        if missing := VARIABLE.search(text):
            raise UserError(f"{text}: no environment variable {missing[1].strip('{}')} is set")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: no home directory is known here for '~'; write the whole path") from None


def user_cache() -> Path | None:
    """The folder ``.cache/proard`` of the user; None where no home directory is known, as in some containers."""
    try:
        return Path.home() / ".cache" / "proard"
    except RuntimeError:
        return None
