"""The families that ship with proard. Importing a family's file registers it."""

from proard.supernet.families import mobilenet_spaces, resnet_spaces, timm, vit
from proard.supernet.family import families

__all__ = ["families", "mobilenet_spaces", "resnet_spaces", "timm", "vit"]
