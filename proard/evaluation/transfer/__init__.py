"""When does robustness transfer? The measures of KDIGA (Shao et al., arXiv 2110.12072) for any student and teacher."""

from proard.evaluation.transfer.bounds import ROBUST_LOSS, TransferBound, transfer_bound, worst_loss
from proard.evaluation.transfer.curve import accuracy_curve
from proard.evaluation.transfer.diagnosis import PASSES, diagnose
from proard.evaluation.transfer.expansion import (
    Expansion,
    GradientAlignment,
    expand,
    gradient_alignment,
    local_linearity,
    loss_and_gradient,
)
from proard.evaluation.transfer.results import Diagnostics, NetworkDiagnostics, Summary, TransferDiagnostics

__all__ = [
    "PASSES",
    "ROBUST_LOSS",
    "Diagnostics",
    "Expansion",
    "GradientAlignment",
    "NetworkDiagnostics",
    "Summary",
    "TransferBound",
    "TransferDiagnostics",
    "accuracy_curve",
    "diagnose",
    "expand",
    "gradient_alignment",
    "local_linearity",
    "loss_and_gradient",
    "transfer_bound",
    "worst_loss",
]
