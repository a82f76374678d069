"""What all tests can ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets."""
    if not os.environ.get("PROARD_DATA"):
        pytest.skip("set PROARD_DATA to a folder with data sets to run the tests on real images")
    return Path(os.environ["PROARD_DATA"])
