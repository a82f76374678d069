"""Attacks by name, as ``proard evaluate --attack NAME`` takes them, and as plain values, as results record them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from proard.attacks.attack import COUNTS, Attack, attacks
from proard.attacks.autoattack import AutoAttack
from proard.attacks.threat import NORMS, ThreatModel
from proard.common.errors import UserError, nearest

# Beside registered names: name to registered name and options; step sizes and all else are the attack's defaults.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "pgd20": ("pgd", {"steps": 20}),
    "pgd50x5": ("pgd", {"steps": 50, "restarts": 5}),
    "pgd100": ("pgd", {"steps": 100}),
    "autoattack-plus": ("autoattack", {"version": "plus"}),
    "autoattack-rand": ("autoattack", {"version": "rand"}),
}
UNION = "union"  # AutoAttack in every norm, which is no attack of one threat model
RADII = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}  # as of CIFAR-10: RobustBench, and Croce and Hein, arXiv 2103.01208


def attack_names() -> list[str]:
    """Registered names and presets, which need no number; of ``pgd``, results name the steps, as in ``pgd20``."""
    return [*(name for name in attacks.names() if name != "pgd"), *PRESETS]


def counted_option(method: str) -> str | None:
    """The option of a registered attack that a number behind its name sets; None where it takes no number."""
    return next((option for option in COUNTS if option in attacks.parameters(method)), None)


def named_attack(name: str, threat: ThreatModel, where: str = "--attack") -> Attack:
    """The attack of a registered or preset name, or of one with a number of steps (and restarts), such as ``pgd20x5``.

    Args:
        name: one of `attack_names`, or a registered one with a number.
        threat: norm, radius and bounds.
        where: the place of the name, for error messages.

    Raises:
        UserError: an unknown name, or an attack for another norm.
    """
    at = f"{where} {name}"
    if name in attack_names():
        method, options = PRESETS.get(name, (name, {}))
    else:
        match = re.fullmatch(r"(.*?\D)([1-9]\d*)(?:x([1-9]\d*))?", name)
        option = counted_option(match[1]) if match is not None and match[1] in attacks.names() else None
        if match is None or option is None:
            raise UserError(f"{at}: unknown{_suggestion(name)} valid: {_valid_names()}")
        method, options = match[1], {option: int(match[2])}
        if match[3] is not None:
            options["restarts"] = int(match[3])
    return attacks.build(method, options, where=at, threat=threat)


def union_attacks(threat: ThreatModel, radii: Mapping[str, float]) -> dict[str, Attack]:
    """AutoAttack in every norm, by names such as ``autoattack-l1``.

    Args:
        threat: its eps is that of its own norm, unless ``radii`` says otherwise; bounds.
        radii: eps by norm; default `RADII`.

    Raises:
        ValueError: an eps that is not positive and finite.
    """
    eps = {**RADII, threat.norm: threat.eps, **radii}
    return {f"autoattack-{norm}": AutoAttack(replace(threat, norm=norm, eps=eps[norm])) for norm in NORMS}


def _suggestion(name: str) -> str:
    """The nearest name as a question, if one is near; the list of names follows in any case."""
    close = nearest(name.lower(), [*attack_names(), UNION])
    return close if close.endswith("?") else ";"


def _valid_names() -> str:
    """All names in words, for the message about a wrong one."""
    numbered = [name for name in attacks.names() if name != "pgd" and counted_option(name)]
    plain = [n for n in attack_names() if not n.startswith("pgd") and n != "fgsm" and n not in numbered]
    return (
        f"fgsm, pgdN for N steps (pgd20), pgdNxR for R restarts (pgd20x5), {', '.join(plain)}, and with or without "
        f"such numbers {', '.join(numbered)}; of evaluate also {UNION}"
    )


def attack_as_dict(attack: Attack) -> dict[str, Any]:
    """Short name, registered name (``method``) and full parameters of an attack, for JSON."""
    parameters = asdict(attack)
    parameters.pop("seed")  # calls pass a generator; its seed is recorded beside the result
    if hasattr(attack, "resolved_step_size"):
        parameters["step_size"] = attack.resolved_step_size
    return {"name": attack.name, "method": attacks.name_of(attack), **parameters}


def attack_from_dict(values: Mapping[str, Any]) -> Attack:
    """The attack that `attack_as_dict` described; without ``method``, as in older records, it is ``pgd``.

    Raises:
        UserError: options that the attack does not have.
        KeyError, TypeError, ValueError: values of another form.
    """
    options = {key: value for key, value in values.items() if key not in ("name", "method", "threat")}
    threat = {**values["threat"], "bounds": tuple(values["threat"]["bounds"])}
    return attacks.build(values.get("method", "pgd"), options, threat=ThreatModel(**threat))
