"""The arms of the sampler study: what differs from its base arm in each."""

from __future__ import annotations

from typing import Any

PLACES = ("smallest", "low", "middle", "high", "largest")
ONE_STEP = {"name": "nfgsm"}
ROBUSTNESS = {"name": "robustness", "largest": 0.08}  # less of the largest student than the default has
# What differs from the base arm: a step of four students by the sandwich rule, each attacked by itself in 5 steps.
ARMS: dict[str, dict[str, Any]] = {
    "sandwich": {"sampler": {"name": "sandwich", "students": 4}},
    "uniform-2": {"sampler": {"name": "uniform", "students": 2}},
    "uniform-1": {"sampler": {"name": "uniform", "students": 1}},
    "robustness-2": {"sampler": {**ROBUSTNESS, "students": 2}},
    "robustness-1": {"sampler": {**ROBUSTNESS, "students": 1}},
    "robustness-1, no gap": {"sampler": {**ROBUSTNESS, "students": 1, "floor": 1.0}},
    "sandwich, one-step": {"sampler": {"name": "sandwich", "students": 4}, "attack": ONE_STEP},
    "uniform-1, one-step": {"sampler": {"name": "uniform", "students": 1}, "attack": ONE_STEP},
    "robustness-2, one-step": {"sampler": {**ROBUSTNESS, "students": 2}, "attack": ONE_STEP},
    "robustness-1, one-step": {"sampler": {**ROBUSTNESS, "students": 1}, "attack": ONE_STEP},
}
# The last one again, with something more or less.
ADVERSARIAL_ONLY = {"name": "rslad", "adversarial_weight": 1.0}
WITH_LABELS: dict[str, Any] = {"objective": {**ADVERSARIAL_ONLY, "label_weight": 0.5}, "attack": ONE_STEP}
# The last sixth of the epochs, once more from a small learning rate down.
LATE: dict[str, Any] = {"name": "late", "attack": {"steps": 3}, "learning_rate": 0.03, "warmup_epochs": 0}
LABELS_ALONE = {"name": "sat", "label_smoothing": 0.1}
# Random weights, taught by a network that is more robust than the students of the study become.
ELSEWHERE: dict[str, Any] = {"fresh": True, "teacher": {"source": "zoo:cifar10-jpeg/flops-27M"}}
# What recipes for single networks add.
SWITCHES: dict[str, dict[str, Any]] = {
    "adr": {"objective": {**LABELS_ALONE, "averaged_weight": [0.7, 0.95]}, "ema_decay": 0.995},
    "adr, less": {"objective": {**LABELS_ALONE, "averaged_weight": [0.1, 0.5]}, "ema_decay": 0.995},
    "awp": {"weight_perturbation": 0.005},
    "cropshift": {"augmentation": {"crop_padding": 0, "crop_shift": 10}},
    "crop of 1": {"augmentation": {"crop_padding": 1}},
    "swa": {"ema_decay": None, "average_from": 0.75},
}
# What IDBH has beside CropShift.
SWITCHES["crop of 1, idbh"] = {"augmentation": {"crop_padding": 1, "color_shape": True, "erase": 0.5}}
SWITCHES["idbh"] = {"augmentation": {"crop_padding": 0, "crop_shift": 10, "color_shape": True, "erase": 0.5}}
SWITCHES["crop of 1, smoother"] = {
    **SWITCHES["crop of 1"],
    "objective": {**LABELS_ALONE, "label_smoothing": 0.3},  # is it that ADR's targets are softer?
}
SWITCHES |= {
    f"crop of 1, {switch}": {**SWITCHES["crop of 1"], **SWITCHES[switch]} for switch in ("adr, less", "swa", "awp")
}
TWO_STEPS: dict[str, Any] = {"objective": ADVERSARIAL_ONLY, "attack": {"steps": 2}}
MORE: dict[str, dict[str, Any]] = {
    "robustness-1, one-step, averaged": {"ema_decay": 0.99},
    "robustness-1, adversarial only": {"objective": ADVERSARIAL_ONLY},
    "uniform-1, adversarial only": {**ARMS["uniform-1"], "objective": ADVERSARIAL_ONLY},
    "robustness-1, with labels": WITH_LABELS,
    "default": {"sampler": {"name": "robustness"}, **WITH_LABELS},
    "default, cropshift": {"sampler": {"name": "robustness"}, **WITH_LABELS, **SWITCHES["cropshift"]},
    "default, crop of 1": {"sampler": {"name": "robustness"}, **WITH_LABELS, **SWITCHES["crop of 1"]},
    "default, more steps late": {"sampler": {"name": "robustness"}, **WITH_LABELS, "late": LATE},
    "default, clean images too": {
        "sampler": {"name": "robustness"},
        **WITH_LABELS,
        "objective": {"name": "rslad", "label_weight": 0.5},
    },
    "default, entropy weights": {
        "sampler": {"name": "robustness"},
        **WITH_LABELS,
        "objective": {"name": "rslad", "label_weight": 0.5, "entropy_weight": 5.0, "scale": 0.5},
    },
    "default, labels alone": {"sampler": {"name": "robustness"}, "objective": LABELS_ALONE},
    "default, labels alone, random weights": {
        "sampler": {"name": "robustness"},
        "objective": LABELS_ALONE,
        "fresh": True,
    },
    **{
        f"default, labels alone, random weights, {switch}": {
            "sampler": {"name": "robustness"},
            "objective": LABELS_ALONE,
            "fresh": True,
            **settings,
        }
        for switch, settings in SWITCHES.items()
    },
    "default, from elsewhere": {"sampler": {"name": "robustness"}, **WITH_LABELS, **ELSEWHERE},
    "default, from elsewhere, entropy weights": {
        "sampler": {"name": "robustness"},
        **WITH_LABELS,
        **ELSEWHERE,
        "objective": {**ADVERSARIAL_ONLY, "label_weight": 0.5, "entropy_weight": 5.0, "scale": 0.16},
    },
    "uniform-1, with labels": {**ARMS["uniform-1"], **WITH_LABELS},
    "robustness-1, labels alone": {"objective": LABELS_ALONE},
    "robustness-1, two steps": TWO_STEPS,
    "uniform-1, two steps": {**ARMS["uniform-1"], **TWO_STEPS},
    "robustness-1, two steps, largest 0.2": {"sampler": {"name": "robustness"}, **TWO_STEPS},
}
ARMS |= {words: {**ARMS["robustness-1, one-step"], **settings} for words, settings in MORE.items()}
COMPUTE = {"": 1.0, " at half": 0.5, " at a quarter": 0.25, " at double": 2.0}
ARMS = {arm + words: {**settings, "compute": c} for words, c in COMPUTE.items() for arm, settings in ARMS.items()}
ALONE, SHARE = "alone", "alone, its share"
BASE = "sandwich"
