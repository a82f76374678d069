"""What attacks share: how they call a network without leaving a trace in it, and how they repeat themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from proard.attacks.attack import Attack, Loss, Model
from proard.attacks.losses import at_least_float32


class NoGradient(ValueError):
    """No gradient reaches the images: a part of the model is not differentiable."""


@contextmanager
def buffers_restored(model: Model) -> Iterator[None]:
    """Put back the buffers that forward passes move, such as running statistics, also after an exception."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    saved = [
        (m, name, buffer, buffer.clone()) for m in modules for name, buffer in m._buffers.items() if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in saved:
            buffer.data.copy_(value)  # past autograd's notice: what it saved before the attack holds the same values
            module._buffers[name] = buffer


def detached_in_float32(images: torch.Tensor) -> torch.Tensor:
    """Detached, in float32 (or float64) whatever the autocast: bfloat16 near 1 moves in steps of 1/256."""
    return images.detach().to(torch.promote_types(images.dtype, torch.float32))


@dataclass(frozen=True)
class GuardedAttack(Attack):
    """An attack that says how it finds adversarial images, and is kept from leaving a trace in the network."""

    def perturb(
        self,
        model: Model,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        loss: Loss | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Adversarial images, as of `Attack`.

        Raises:
            ValueError: a loss of the caller's, for an attack that has only its own.
        """
        if loss is not None and not self.trains:
            raise ValueError(
                f"{type(self).__name__} has a loss of its own; an objective needs pgd or another of its kind"
            )
        with buffers_restored(model), torch.no_grad():
            return self.find(model, detached_in_float32(images), labels, loss, self.generator(images, generator))

    @abstractmethod
    def find(
        self, model: Model, images: torch.Tensor, labels: torch.Tensor, loss: Loss | None, generator: torch.Generator
    ) -> torch.Tensor:
        """The same with everything in place.

        Args:
            model: images (N, ...) to logits (N, K); its buffers are put back afterwards.
            images: detached, float32 or float64.
            labels: class indices (N,).
            loss: what the caller wants to raise; None is `own_loss`, always where the attack does not train.
            generator: of the random draws.
        """


def value_and_gradient(
    model: Model, images: torch.Tensor, loss: Loss
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (N, K), loss (N,), and the loss's gradient by the images (N, ...), all detached; as `input_gradient`."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = at_least_float32(model(images))
        values = loss(logits, images)
        # Summed, not averaged: the step does not depend on the batch, and small gradients do not vanish.
        gradient = input_gradient(values.sum(), images)
    return logits.detach(), values.detach(), gradient


def input_gradient(value: torch.Tensor, images: torch.Tensor, retain_graph: bool = False) -> torch.Tensor:
    """The gradient of a number by images.

    Raises:
        NoGradient: it has none, so that no such attack can say anything about the model.
    """
    try:
        (found,) = torch.autograd.grad(value, images, retain_graph=retain_graph)
    except RuntimeError as error:
        if not any(words in str(error) for words in ("not have been used", "does not require grad")):
            raise
        raise NoGradient(
            "the model has no gradient by its images, which this attack needs; square needs none"
        ) from error
    return found


def per_image(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Values (N,) as (N, 1, ...), to be combined with images (N, ...)."""
    return values.view(-1, *[1] * (images.dim() - 1))


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over everything but the first dimension: (N, ...) to (N,)."""
    return values.sum(tuple(range(1, values.dim())))


Perturbed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Perturbed images (n, ...), a score (n,), and whether each one is fooled (n,)."""
Attempt = Callable[[torch.Tensor, torch.Tensor], Perturbed]
"""What is tried on n images and their labels."""


def best_of(attempts: Iterable[Attempt], model: Model, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Attempt after attempt on what is not fooled yet: each image keeps the first that fools it, else the best score.

    Where the images of a batch may depend on each other (batch statistics, an unknown callable), it is attacked whole.
    """
    apart = images_are_apart(model)
    best = images.clone()
    score = torch.full((len(images),), float("-inf"), dtype=images.dtype, device=images.device)
    fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for attempt in attempts:
        chosen = (~fooled).nonzero().squeeze(1) if apart else torch.arange(len(images), device=images.device)
        if len(chosen) == 0 or bool(fooled.all()):
            break
        perturbed, new_score, hit = attempt(images[chosen], labels[chosen])
        take = ~fooled[chosen] & (hit | (new_score > score[chosen]))
        best[chosen[take]] = perturbed[take]
        score[chosen[take]] = new_score[take].to(score.dtype)
        fooled[chosen[take & hit]] = True
    return best


def images_are_apart(model: Model) -> bool:
    """Whether an image's logits surely do not depend on the others in the batch, so that some may be left out."""

    def mixes(module: nn.Module) -> bool:
        return module.training or (isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None)

    return isinstance(model, nn.Module) and not any(map(mixes, model.modules()))
