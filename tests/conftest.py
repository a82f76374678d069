"""What all tests can ask for."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pretend import PretendDevice

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import onnxruntime before proard


def pytest_configure() -> None:
    """Cases of property tests are a function of the test, as all that is random is seeded: what passed passes again."""
    if find_spec("hypothesis"):
        from hypothesis import settings

        settings.register_profile("seeded", derandomize=True)
        settings.load_profile("seeded")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets."""
    if not os.environ.get("PROARD_DATA"):
        pytest.skip("set PROARD_DATA to a folder with data sets to run the tests on real images")
    return Path(os.environ["PROARD_DATA"])


@pytest.fixture
def accelerator() -> Iterator[PretendDevice]:
    """A pretend accelerator, that stands in the place of ``device: auto``."""
    import pretend  # which the files of its tests have done already, as it has to be done early

    if pretend.missing:
        pytest.skip(f"no pretend accelerator: {pretend.missing}")
    with pretend.PretendDevice() as device:
        yield device


MANY = {"name": "sandwich", "students": 4}  # of a step, which is more to get wrong than the default's one
TINY: dict[str, Any] = {
    "seed": 1,
    "data": {"name": "digits", "limit": 200, "augmentation": {"crop_padding": 1}},
    "supernet": {
        "family": "resnet",
        "widths": [16, 24],
        "blocks": [1, 1],
        "width_choices": [0.5, 1.0],
        "expand_choices": [0.5, 1.0],
        "dropout": 0.1,
    },
    "threat": {"norm": "linf", "eps": 0.1},
    "attack": {"steps": 2},
    "batch_size": 32,
    "phases": [
        {"name": "teacher", "epochs": 2, "learning_rate": 0.1, "objective": {"name": "trades"}},
        {"name": "width", "epochs": 2, "learning_rate": 0.1, "elastic": ["width"], "sampler": MANY},
        {"name": "all", "epochs": 1, "learning_rate": 0.05, "elastic": ["width", "depth", "expand"], "sampler": MANY},
    ],
    "validation": {"students": 1, "images": 20, "calibration_images": 64, "attack": {"steps": 2}},
    "search": {"candidates": 2, "mutations": 1, "images": 20, "attack": {"steps": 2}},
    "evaluation": {"attack": {"steps": 3}, "limit": 60},
    "energy": {"enabled": False},
}


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The values of a configuration that trains in a second or two: a teacher, then two phases of students."""
    return copy.deepcopy(TINY)


@pytest.fixture
def quick_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """`proard profile` times each block for an instant."""
    from proard.commands.profile import profile

    monkeypatch.setitem(profile.__kwdefaults__, "seconds", 0.002)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny configuration; not to be changed."""
    from proard import train

    return train(copy.deepcopy(TINY), run=tmp_path_factory.mktemp("runs") / "tiny", quiet=True)
