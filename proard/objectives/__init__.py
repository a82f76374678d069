"""Training losses: one paper, one file. ``objective(student, teacher, images, labels)`` returns the loss."""

from proard.objectives.base import Batch, Objective, Outcome, objectives
from proard.objectives.ce import CrossEntropy
from proard.objectives.rslad import RSLAD
from proard.objectives.sat import AdversarialTraining
from proard.objectives.trades import TRADES

__all__ = ["RSLAD", "TRADES", "AdversarialTraining", "Batch", "CrossEntropy", "Objective", "Outcome", "objectives"]
