"""The families that ship with proard. Importing a family's file registers it."""

from proard.supernet.families import resnet
from proard.supernet.family import families

__all__ = ["families", "resnet"]
