"""Attacks: threat models, and what finds the worst perturbation within them."""

from proard.attacks.apgd import APGDCE, APGDDLR, APGDTargeted
from proard.attacks.attack import Attack, AttackError, attacks, check_result
from proard.attacks.autoattack import AutoAttack
from proard.attacks.deepfool import DeepFool
from proard.attacks.fab import FAB, FABTargeted
from proard.attacks.fast_gradient import FGM, FGSM, fgsm
from proard.attacks.margin import MarginPGD
from proard.attacks.mifgsm import MIFGSM
from proard.attacks.nfgsm import NFGSM
from proard.attacks.pgd import PGD, maximise
from proard.attacks.presets import attack_as_dict, attack_from_dict, named_attack
from proard.attacks.square import Square
from proard.attacks.threat import ThreatModel

__all__ = [
    "APGDCE",
    "APGDDLR",
    "FAB",
    "FGM",
    "FGSM",
    "MIFGSM",
    "NFGSM",
    "PGD",
    "APGDTargeted",
    "Attack",
    "AttackError",
    "AutoAttack",
    "DeepFool",
    "FABTargeted",
    "MarginPGD",
    "Square",
    "ThreatModel",
    "attack_as_dict",
    "attack_from_dict",
    "attacks",
    "check_result",
    "fgsm",
    "maximise",
    "named_attack",
]
