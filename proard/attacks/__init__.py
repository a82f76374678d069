"""Attacks: threat models, and what finds the worst perturbation within them."""

from proard.attacks.attack import Attack, attacks
from proard.attacks.pgd import PGD, fgsm, maximise
from proard.attacks.threat import ThreatModel

__all__ = ["PGD", "Attack", "ThreatModel", "attacks", "fgsm", "maximise"]
