"""proard: train one weight-sharing network once, then cut a robust student out of it for any budget.

The public names are imported on first use, so that ``import proard`` and ``proard --help`` stay fast. The
modules behind the functions have other names (``proard.training``, not ``proard.train``): importing a submodule would
otherwise replace the function of the same name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "baseline": "proard.alone",
    "build_supernet": "proard.supernet",
    "evaluate": "proard.evaluation",
    "extract": "proard.extraction",
    "load_student": "proard.export",
    "profile": "proard.latency",
    "train": "proard.training",
}
__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from proard.alone import baseline as baseline
    from proard.evaluation import evaluate as evaluate
    from proard.export import load_student as load_student
    from proard.extraction import extract as extract
    from proard.latency import profile as profile
    from proard.supernet import build_supernet as build_supernet
    from proard.training import train as train


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'proard' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
