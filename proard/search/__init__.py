"""Choosing an architecture for a budget."""

from proard.search.selection import Label, choose, preference

__all__ = ["Label", "choose", "preference"]
