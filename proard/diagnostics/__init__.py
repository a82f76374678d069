"""When does robustness transfer? The measures of KDIGA (Shao et al., arXiv 2110.12072) for any student and teacher."""

from proard.diagnostics.bounds import ROBUST_LOSS, TransferBound, transfer_bound, worst_loss
from proard.diagnostics.curve import accuracy_curve
from proard.diagnostics.diagnosis import PASSES, diagnose
from proard.diagnostics.expansion import (
    Expansion,
    GradientAlignment,
    expand,
    gradient_alignment,
    local_linearity,
    loss_and_gradient,
)
from proard.diagnostics.results import Diagnostics, NetworkDiagnostics, Summary, TransferDiagnostics

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
