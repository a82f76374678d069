"""Attacks by name, as ``proard evaluate --attack NAME`` takes them, and as plain values, as results record them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from proard.attacks.attack import Attack, attacks
from proard.attacks.threat import ThreatModel
from proard.common.errors import UserError, nearest

# Name to registered name and options; step sizes and all else are the attack's defaults.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "fgsm": ("fgsm", {}),
    "fgm": ("fgm", {}),
    "pgd20": ("pgd", {"steps": 20}),
    "pgd50x5": ("pgd", {"steps": 50, "restarts": 5}),
    "pgd100": ("pgd", {"steps": 100}),
    "cw": ("cw", {}),
    "mifgsm": ("mifgsm", {}),
    "nfgsm": ("nfgsm", {}),
    "deepfool": ("deepfool", {}),
    "apgd-ce": ("apgd-ce", {}),
    "apgd-dlr": ("apgd-dlr", {}),
    "apgd-t": ("apgd-t", {}),
    "square": ("square", {}),
    "autoattack": ("autoattack", {}),
    "autoattack-plus": ("autoattack", {"version": "plus"}),
    "autoattack-rand": ("autoattack", {"version": "rand"}),
}

# Registered name to the option that a number behind the name sets: pgd20, square1000; pgd20x5 has five restarts.
COUNTED = {
    "pgd": "steps",
    "cw": "steps",
    "mifgsm": "steps",
    "deepfool": "steps",
    "apgd-ce": "steps",
    "apgd-dlr": "steps",
    "apgd-t": "steps",
    "square": "queries",
}


def named_attack(name: str, threat: ThreatModel, where: str = "--attack") -> Attack:
    """The attack of a preset's name, or of a name with a number of steps (and restarts), such as ``pgd20x5``.

    Args:
        name: see `PRESETS` and `COUNTED`.
        threat: norm, radius and bounds.
        where: the place of the name, for error messages.

    Raises:
        UserError: an unknown name, an attack for another norm or bounds, or a missing package.
    """
    at = f"{where} {name}"
    if name in PRESETS:
        method, options = PRESETS[name]
    else:
        match = re.fullmatch(r"([a-z-]+)([1-9]\d*)(?:x([1-9]\d*))?", name)
        if match is None or match[1] not in COUNTED:
            raise UserError(f"{at}: unknown{_suggestion(name)} valid: {_valid_names()}")
        method, options = match[1], {COUNTED[match[1]]: int(match[2])}
        if match[3] is not None:
            options["restarts"] = int(match[3])
    attack = attacks.build(method, options, where=at, threat=threat)
    attack.require_packages()
    return attack


def _suggestion(name: str) -> str:
    """The nearest preset as a question, if one is near; the list of names follows in any case."""
    close = nearest(name.lower(), PRESETS)
    return close if close.endswith("?") else ";"


def _valid_names() -> str:
    plain = [name for name, (method, _) in PRESETS.items() if method not in COUNTED and name != "fgsm"]
    numbered = [name for name in COUNTED if name != "pgd"]
    return (
        f"fgsm, pgdN for N steps (pgd20), pgdNxR for R restarts (pgd20x5), {', '.join(plain)}, and with or without "
        f"such numbers {', '.join(numbered)}"
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
