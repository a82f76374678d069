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
CROP_OF_1: dict[str, Any] = {"augmentation": {"crop_padding": 1}}  # other arms: of 4 where images are a folder
# Random weights, taught by a network that is more robust than the students of the study become.
ELSEWHERE: dict[str, Any] = {"fresh": True, "teacher": {"source": "zoo:cifar10-jpeg/flops-27M"}, **CROP_OF_1}
TWO_STEPS: dict[str, Any] = {"objective": ADVERSARIAL_ONLY, "attack": {"steps": 2}}
MORE: dict[str, dict[str, Any]] = {
    "robustness-1, one-step, averaged": {"ema_decay": 0.99},
    "robustness-1, adversarial only": {"objective": ADVERSARIAL_ONLY},
    "uniform-1, adversarial only": {**ARMS["uniform-1"], "objective": ADVERSARIAL_ONLY},
    "robustness-1, with labels": WITH_LABELS,
    "default": {"sampler": {"name": "robustness"}, **WITH_LABELS},
    "default, crop of 1": {"sampler": {"name": "robustness"}, **WITH_LABELS, **CROP_OF_1},
    "default, more steps late": {"sampler": {"name": "robustness"}, **WITH_LABELS, "late": LATE},
    "default, clean images too": {
        "sampler": {"name": "robustness"},
        **WITH_LABELS,
        "objective": {"name": "rslad", "label_weight": 0.5},
    },
    "default, labels alone": {"sampler": {"name": "robustness"}, "objective": LABELS_ALONE},
    "default, labels alone, random weights": {
        "sampler": {"name": "robustness"},
        "objective": LABELS_ALONE,
        "fresh": True,
    },
    "default, labels alone, random weights, crop of 1": {
        "sampler": {"name": "robustness"},
        "objective": LABELS_ALONE,
        "fresh": True,
        **CROP_OF_1,
    },
    "default, labels alone, random weights, no shift": {
        "sampler": {"name": "robustness"},
        "objective": LABELS_ALONE,
        "fresh": True,
        "augmentation": {"crop_padding": 0},
    },
    "default, from elsewhere": {"sampler": {"name": "robustness"}, **WITH_LABELS, **ELSEWHERE},
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
