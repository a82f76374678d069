"""Paths as people write them: every one that comes from outside goes through here."""

from __future__ import annotations

from pathlib import Path

from proard.common.errors import UserError


def path_of(path: str | Path) -> Path:
    """The path, with ``~`` at its beginning as the home directory; relative ones stay relative.

    Raises:
        UserError: there is no home directory, or no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: no home directory is known here for '~'; write the whole path") from None


def user_cache() -> Path | None:
    """The folder ``.cache/proard`` of the user; None where no home directory is known, as in some containers."""
    try:
        return Path.home() / ".cache" / "proard"
    except RuntimeError:
        return None
