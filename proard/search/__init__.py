"""Choosing architectures: labels, a predictor of them, NSGA-II, and a front that is measured.

`search` and `SearchResult` are imported on first use: they need scikit-learn and pymoo, and extraction does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from proard.search.selection import Label, choose, preference

if TYPE_CHECKING:
    from proard.search.command import SearchResult as SearchResult
    from proard.search.command import search as search

__all__ = ["Label", "SearchResult", "choose", "preference", "search"]


def __getattr__(name: str) -> Any:
    if name in ("SearchResult", "search"):
        from proard.search import command

        return getattr(command, name)
    raise AttributeError(f"module 'proard.search' has no attribute {name!r}")
