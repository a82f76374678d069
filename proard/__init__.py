"""proard: train one weight-sharing network once, then cut a robust student out of it for any budget.

The public names are imported on first use, so that ``import proard`` and ``proard --help`` stay fast. The
modules behind the functions have other names (``proard.training``, not ``proard.train``): importing a submodule would
otherwise replace the function of the same name.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from proard.common.version import __version__ as __version__

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime from 1.32 on would report to its makers

_HOMES = {
    "baseline": "proard.commands.baseline",
    "build_supernet": "proard.supernet",
    "evaluate": "proard.commands.evaluate",
    "extract": "proard.commands.extract",
    "load_student": "proard.export.student_directory",
    "profile": "proard.commands.profile",
    "train": "proard.commands.train",
    "zoo": "proard.commands.zoo",
}
__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from proard.commands.baseline import baseline as baseline
    from proard.commands.evaluate import evaluate as evaluate
    from proard.commands.extract import extract as extract
    from proard.commands.profile import profile as profile
    from proard.commands.train import train as train
    from proard.commands.zoo import zoo as zoo
    from proard.export.student_directory import load_student as load_student
    from proard.supernet import build_supernet as build_supernet


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'proard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
