"""The losses that attacks maximise and objectives minimise; each in one place, with explicit reduction.

Everything here is computed in float32 (or float64 where the logits are), whatever the autocast.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    """The same in float32, whatever the autocast; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy per image: logits (N, K) and labels (N,) to (N,).

    Args:
        logits: of any floating type.
        labels: class indices.
        label_smoothing: in [0, 1]: the share of the target spread evenly over all classes.
    """
    return functional.cross_entropy(at_least_float32(logits), labels, reduction="none", label_smoothing=label_smoothing)


def kl_divergence(target_logits: torch.Tensor, logits: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """KL(softmax(target / t) || softmax(logits / t)) per image: two (N, K) to (N,).

    The mean of the result is PyTorch's ``batchmean``: summed over classes, averaged over images. Papers' code that used
    ``torch.nn.KLDivLoss()`` averaged over classes too, which divides by K. No factor t^2 is applied.

    Args:
        target_logits: the fixed distribution, such as the teacher's; gradients flow into it unless it is detached.
        logits: the distribution to be changed.
        temperature: positive.
    """
    target, log_probabilities = (
        functional.log_softmax(scores if temperature == 1 else scores / temperature, dim=1)
        for scores in map(at_least_float32, (target_logits, logits))
    )
    return functional.kl_div(log_probabilities, target, reduction="none", log_target=True).sum(1)


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The largest other logit minus the label's: (N, K) and (N,) to (N,); positive where the image is misclassified.

    The loss of Carlini and Wagner (arXiv 1608.04644, f6) with the opposite sign, without a confidence bound.
    """
    logits = at_least_float32(logits)
    true = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], float("-inf")).amax(1)
    return others - true
