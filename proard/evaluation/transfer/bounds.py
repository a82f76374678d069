"""What a teacher's robustness says about its student: the bound behind KDIGA (Shao et al., arXiv 2110.12072).

With L the cross-entropy at an image x, g its gradient there, and r(d) the remainder ``L(x + d) - L(x) - d . g``, of
student S and teacher T::

    L_S(x + d) - L_T(x + d) = [L_S(x) - L_T(x)] + d . (g_S - g_T) + r_S(d) - r_T(d)

so by the triangle inequality and Hoelder's, for every ``||d|| <= eps``::

    |L_S(x + d) - L_T(x + d)| <= |L_S(x) - L_T(x)| + eps ||g_S - g_T||_dual + LLM_S(x) + LLM_T(x)

with the dual norm l1 for linf, l2 for l2 and linf for l1. A student that matches its teacher's loss and input gradient
at x, while both are locally linear, has nearly the teacher's loss in the whole ball: that is the paper's argument, and
what does not match is kept here as terms. A cross-entropy below log 2 gives the true class a probability above 1/2, so
the prediction is right: the student is robust at x where the teacher's worst loss plus the bound is below log 2.

**This is no certificate.** The local linearity and the teacher's worst loss are found by gradient ascent, which may
fall short of the true maxima.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from proard.attacks import ThreatModel
from proard.attacks.attack import Model
from proard.attacks.losses import cross_entropy
from proard.evaluation.transfer.expansion import Ascent, Expansion, largest

if TYPE_CHECKING:
    from typing_extensions import Unpack

ROBUST_LOSS = math.log(2)
"""A smaller cross-entropy means that the true class has a probability above 1/2: the prediction is right."""


@dataclass(frozen=True)
class TransferBound:
    """The terms of the bound, per image (N,), all at least 0.

    Attributes:
        loss_gap: ``|L_S(x) - L_T(x)|``.
        gradient_gap: ``eps ||g_S - g_T||_dual``.
        local_linearity: ``LLM_S(x) + LLM_T(x)``, estimated from below.
    """

    loss_gap: torch.Tensor
    gradient_gap: torch.Tensor
    local_linearity: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """What the losses of student and teacher may differ by, anywhere within the radius; (N,)."""
        return self.loss_gap + self.gradient_gap + self.local_linearity


def transfer_bound(student: Expansion, teacher: Expansion) -> TransferBound:
    """Bound how far the losses of student and teacher lie apart within the radius; not a certificate.

    The student is robust at an image, as far as the estimates are right, where
    ``worst_loss(teacher, ...) + transfer_bound(...).total < ROBUST_LOSS``.

    Args:
        student: of the student's loss around the images.
        teacher: of the teacher's, around the same images and for the same threat model.

    Raises:
        ValueError: different threat models.
    """
    if student.threat != teacher.threat:
        raise ValueError(f"student and teacher have different threat models: {student.threat} and {teacher.threat}")
    threat = student.threat
    return TransferBound(
        loss_gap=(student.loss - teacher.loss).abs(),
        gradient_gap=threat.eps * threat.dual_size(student.gradient - teacher.gradient),
        local_linearity=student.local_linearity + teacher.local_linearity,
    )


def worst_loss(
    network: Model,
    images: torch.Tensor,
    labels: torch.Tensor,
    threat: ThreatModel,
    **ascent: Unpack[Ascent],
) -> torch.Tensor:
    """The largest cross-entropy within the radius that gradient ascent finds, per image (N,); from below.

    See `proard.evaluation.transfer.expand` for the arguments.
    """
    return largest(network, images, lambda logits, _: cross_entropy(logits, labels), threat, **ascent)
