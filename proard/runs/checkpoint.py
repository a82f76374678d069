"""The checkpoint of a run: everything needed to go on bit for bit, in one checked file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from proard.common.errors import UserError, first_line
from proard.common.files import check_file, checked_save
from proard.config import Config, parse_config

FORMAT = 2
# Keys that may change between a run and its continuation: they say how it is computed, not what.
# What the images are is compared by `check_same_data`
FREE_IN_DATA = {**dict.fromkeys(("root", "download", "workers", "memory_limit"), True), "extra": {"file"}}
FREE_KEYS = {"checkpoint_minutes", "device", "energy", "evaluation", "search", "threads", "trackers"}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write atomically, with a checksum beside it; a failure leaves the previous checkpoint as it was."""
    checked_save(path, lambda temporary: torch.save({"format": FORMAT, **state}, temporary))


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        UserError: missing, damaged, or of another format.
    """
    if not path.is_file():
        raise UserError(f"checkpoint {path}: not there yet; the run was stopped before its first epoch ended")
    check_file(path)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise UserError(f"checkpoint {path}: cannot be read ({first_line(error)})") from error
    if state.get("format") != FORMAT:
        raise UserError(f"checkpoint {path}: format {state.get('format')}, this version of proard reads {FORMAT}")
    return state


def changed_keys(before: Config, after: Config) -> list[str]:
    """Names of the settings that differ and would change the result, such as ``phases.1.epochs``."""

    def differences(a: Any, b: Any, at: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            keys = list(dict.fromkeys([*a, *b]))
            return [name for key in keys for name in differences(a.get(key), b.get(key), f"{at}.{key}" if at else key)]
        if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
            return [name for i, pair in enumerate(zip(a, b, strict=True)) for name in differences(*pair, f"{at}.{i}")]
        return [] if a == b else [at]

    free: Any = {**dict.fromkeys(FREE_KEYS, True), "data": FREE_IN_DATA}
    old, new = (config.model_dump(mode="json", exclude=free) for config in (before, after))
    return differences(old, new, "")


def check_same_data(
    state: dict[str, Any], fingerprint: str | None, doing: str = "--resume", key: Literal["data", "extra"] = "data"
) -> None:
    """Refuse to go on with other images, be they in the same place.

    Raises:
        UserError: their fingerprints differ.
    """
    if state.get(key) not in (None, fingerprint):  # none: of a version that did not ask
        which = "images" if key == "data" else "images of data.extra"
        raise UserError(
            f"{doing}: the {which} have changed since the run began (their classes, labels or pixels); put the old "
            "ones back (--data-root says where they are), or start a new run"
        )


def check_same_teacher(state: dict[str, Any], source: str, sha256: str | None) -> None:
    """Refuse to continue with a teacher from elsewhere whose file is no longer what it was.

    Raises:
        UserError: the checksums differ.
    """
    before = (state.get("teacher_file") or {}).get("sha256")
    if before != sha256:
        raise UserError(
            f"--resume: teacher {source} has changed since the run began (sha256 {before}, now {sha256}); "
            "put the old file back, or start a new run"
        )


def check_unchanged(
    state: dict[str, Any], config: Config, path: Path, doing: str = "--resume", but: tuple[str, ...] = ()
) -> list[str]:
    """Refuse to go on with another configuration than what was trained.

    Args:
        state: of the checkpoint.
        config: as it is now.
        path: of the checkpoint.
        doing: what is refused, for the message.
        but: sections that may differ for it.

    Returns:
        The keys that differ and may.

    Raises:
        UserError: names the keys that differ.
    """
    before = parse_config(state["config"], f"{path}: config")
    changed = changed_keys(before, config)
    if refused := [key for key in changed if not key.startswith(but)]:
        raise UserError(
            f"{doing} {path.parent}: {', '.join(refused)} differ from the run; leave them, or start a new run"
        )
    return changed
