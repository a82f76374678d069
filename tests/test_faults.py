"""A part of scripts/faults.py: of every kind of fault a few; all of them are in docs/results/faults.md."""

from __future__ import annotations

import random
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "scripts"))
from faults import MODES, Faults  # noqa: E402

BAD = ("lost checkpoints", "wrong results", "tracebacks")


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    monkeypatch.chdir(tmp_path)
    return Faults(tmp_path, random.Random(1))


def check(found: dict[str, Counter[str]]) -> None:
    for of, counts in found.items():
        assert counts["faults"], of
        assert not [name for name in BAD if counts[name]], (of, counts)


@pytest.mark.slow
def test_a_training_that_is_killed_ends_where_it_would_have(faults: Faults) -> None:
    check({MODES[0]: faults.interrupted(MODES[0], signal.SIGKILL, 1)})


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        pytest.param("disk", 1, marks=pytest.mark.slow),
        pytest.param("bytes", 4, marks=pytest.mark.slow),
        ("configs", 40),
    ],
)
def test_nothing_is_lost_or_wrong(faults: Faults, kind: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faults.RECORDS", ("metrics.jsonl",))  # each takes seconds
    check(dict(getattr(faults, kind)(count)))
