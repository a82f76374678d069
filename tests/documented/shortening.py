"""What a documented command runs on here: the same command line, less work.

A command is parsed and executed as it is written. Its configuration is read and checked as it is written, too, and
then, here, made small: `short_work` is all that differs from what a reader runs, and that torchrun starts
`playing.MOST_PROCESSES`. Commands that read a run find the short configuration in its config.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import Any
from unittest import mock

MOST = {  # amounts of work
    "data.limit": 20,
    "batch_size": 10,
    "attack.steps": 1,
    "validation.students": 0,
    "validation.images": 10,
    "validation.calibration_images": 40,
    "validation.attack.steps": 1,
    "search.images": 10,
    "search.labels": 8,
    "search.population": 8,
    "search.generations": 2,
    "search.verify": 2,
    "search.candidates": 1,
    "search.mutations": 0,
    "evaluation.limit": 10,
    "evaluation.format_images": 10,
    "evaluation.square_queries": 4,
}
IMAGE_SIZE = 16  # of an image folder
SECONDS_PER_BLOCK = 0.002
IMAGES_OF_A_CURVE = 8


def shortened(config: Any) -> Any:
    """One epoch per phase, few images, short attacks; the digits where the images are not on this machine.

    What is short already stays as it is: a run's own configuration is read again.

    Args:
        config: a `proard.config.Config`, as it was read.
    """
    values = config.model_dump(mode="json")
    data = values["data"]
    first = values["phases"][0]["epochs"]
    if data["name"] == "arrays":  # given in Python, as few as the page shows
        return config
    if data["name"] == "image_folder" and Path(data["root"]).is_dir():
        data["image_size"] = min(data["image_size"], IMAGE_SIZE)
    elif data["name"] != "digit_pairs":
        values["data"] = {"name": "digits"}
    for phase in values["phases"]:
        phase |= {"epochs": 1, "warmup_epochs": min(phase["warmup_epochs"], 0.5)}
    for key, most in MOST.items():
        *sections, name = key.split(".")
        section = reduce(dict.__getitem__, sections, values)
        if name != "steps" or "steps" in section:
            section[name] = min(section.get(name) or most, most)
    if data["name"] == "digit_pairs":  # 100 classes, of which something is to be right in the end
        values |= {"data": {**data, "limit": 1500}, "batch_size": 25}
        values["evaluation"]["limit"] = 200
        values["phases"][0]["epochs"] = min(first, 4)
    return type(config).model_validate(values)


@contextmanager
def short_work() -> Iterator[None]:
    """Whatever reads a configuration file gets it short; so is work whose amount a configuration does not set.

    The predictors of `search` are the same ones, with fewer trees and passes; `profile` times each block for
    `SECONDS_PER_BLOCK` and not for a tenth of a second; the curves of `report` are of `IMAGES_OF_A_CURVE` images; of
    AutoAttack, the first attack runs.
    """
    from proard.attacks import autoattack
    from proard.commands.profile import profile
    from proard.config import reading
    from proard.report import attacked
    from proard.search import predictor

    as_written, parts = reading.parse_config, autoattack.parts
    regressors = dict(predictor.REGRESSORS)

    def quick(name: str) -> Any:
        regressor = regressors[name]()
        amounts = {"estimator__n_estimators": 2, "regressor__max_iter": 1}
        return regressor.set_params(**{key: n for key, n in amounts.items() if key in regressor.get_params()})

    with (
        mock.patch.object(reading, "parse_config", lambda *arguments: shortened(as_written(*arguments))),
        mock.patch.dict(predictor.REGRESSORS, {name: partial(quick, name) for name in regressors}),
        mock.patch.dict(profile.__kwdefaults__, seconds=SECONDS_PER_BLOCK),
        mock.patch.object(autoattack, "parts", lambda *arguments: parts(*arguments)[:1]),
        mock.patch.object(attacked, "MOST_IMAGES", IMAGES_OF_A_CURVE),
    ):
        yield


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `proard`, with short work."""
    from proard.commands.cli import main

    with short_work():
        main(arguments)
