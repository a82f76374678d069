"""Training losses: one paper, one file. ``objective(student, teacher, images, labels)`` returns the loss."""

from proard.objectives.adaad import AdaAD, AdaIAD
from proard.objectives.ard import ARD
from proard.objectives.base import Objective, Outcome, objectives
from proard.objectives.ce import CrossEntropy
from proard.objectives.crafting import Batch, Crafting, check_attack, craftings
from proard.objectives.hat import HAT
from proard.objectives.iad import IAD
from proard.objectives.igdm import IGDM
from proard.objectives.kd import KD
from proard.objectives.kdiga import KDIGA
from proard.objectives.mart import MART
from proard.objectives.rslad import RSLAD
from proard.objectives.sat import AdversarialTraining
from proard.objectives.trades import TRADES

CE, SAT = CrossEntropy, AdversarialTraining

__all__ = [
    "ARD",
    "CE",
    "HAT",
    "IAD",
    "IGDM",
    "KD",
    "KDIGA",
    "MART",
    "RSLAD",
    "SAT",
    "TRADES",
    "AdaAD",
    "AdaIAD",
    "AdversarialTraining",
    "Batch",
    "Crafting",
    "CrossEntropy",
    "Objective",
    "Outcome",
    "check_attack",
    "craftings",
    "objectives",
]
