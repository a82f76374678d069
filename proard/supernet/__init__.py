"""Elastic networks: architectures, search spaces, and the supernet that students are cut out of."""

from proard.supernet.architecture import Architecture, Decision
from proard.supernet.calibration import calibrate, require_calibrated
from proard.supernet.cost_bins import CostBins
from proard.supernet.families import families
from proard.supernet.family import Family
from proard.supernet.space import SearchSpace
from proard.supernet.supernet import Supernet, build_supernet

__all__ = [
    "Architecture",
    "CostBins",
    "Decision",
    "Family",
    "SearchSpace",
    "Supernet",
    "build_supernet",
    "calibrate",
    "families",
    "require_calibrated",
]
