"""One training instead of N: the arithmetic, what is not known, and that the assumptions are said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proard.commands.baseline import Baseline
from proard.commands.printing import print_baseline
from proard.common.terminal import table
from proard.runs.compute import computed
from proard.runs.energy import MAKING, known_energy
from proard.runs.run import Run
from proard.runs.savings import HEAD, STUDENTS, Spent, compared, savings


def entry(command: str, seconds: float, kwh: float | None, **more: Any) -> dict[str, Any]:
    kg = None if kwh is None else 0.5 * kwh
    return {
        "command": command,
        "seconds": seconds,
        "kwh": kwh,
        "kg_co2eq": kg,
        "how_measured": "not measured: energy.enabled is false" if kwh is None else "CPU: hardware counters (RAPL)",
        "carbon_intensity_kg_per_kwh": None if kwh is None else 0.5,
        "country": None,
        "when": "2024-01-01T00:00:00+00:00",
        **more,
    }


def comparison(budget: str, seconds: float, kwh: float | None) -> dict[str, Any]:
    kg = None if kwh is None else 0.5 * kwh
    return {"budget": budget, "seconds_alone": seconds, "kwh_alone": kwh, "kg_co2eq_alone": kg}


RECORD = [
    entry("train", 100.0, 0.040),  # interrupted
    entry("train", 60.0, 0.020),
    entry("search", 40.0, 0.010),
    entry("extract", 6.0, 0.003, students=2),
    entry("extract", 3.0, 0.001, students=1),
    entry("baseline", 999.0, 9.0),  # the comparison is not the price
    entry("report", 99.0, 9.0),
    entry("evaluate", 99.0, 9.0),
]
MADE = {"comparisons": [comparison("flops-1M", 40.0, 0.010), comparison("flops-2M", 80.0, 0.018)]}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return recorded(tmp_path, RECORD)


def recorded(path: Path, commands: list[dict[str, Any]]) -> Run:
    run = Run(path)
    run.energy.write_text(json.dumps({"commands": commands}))
    return run


def test_both_ways(run: Run) -> None:
    found = savings(run, MADE)
    assert found is not None
    for students in STUDENTS:
        one, separate = found.one(students), found.separate(students)
        assert one.seconds == pytest.approx(200 + 3 * students)
        assert one.kwh == pytest.approx(0.070 + 0.004 / 3 * students)
        assert one.kg_co2eq == pytest.approx(0.035 + 0.002 / 3 * students)
        assert separate.seconds == pytest.approx(60 * students)
        assert separate.kwh == pytest.approx(0.014 * students)
        assert separate.kg_co2eq == pytest.approx(0.007 * students)
    assert found.unit == "kwh"
    assert found.break_even is not None
    even = found.break_even
    assert found.once.kwh + even * found.extraction.kwh == pytest.approx(even * found.alone.kwh)  # type: ignore[operator]
    assert found.conclusion == f"By energy one training is cheaper from {even:.1f} students on."
    assert found.rows()[2] == ["5", "215", "76.7", "38.3", "300", "70", "35"]


def test_what_is_assumed_is_said(run: Run) -> None:
    found = savings(run, {**MADE, "scale_epochs": 0.1})
    assert found is not None
    text = " ".join(found.assumptions)
    for part in (
        "its teacher included and the search; then an extraction for each student, the mean of 3",
        "the mean of the 2 that 'proard baseline' really made (flops-1M, flops-2M)",
        "0.1 times as long as the run's (--scale-epochs): not a fair price",
        "the world average (energy.country is not set; IEA 2019: 0.475)",
        "CPU: hardware counters (RAPL)",
        "making the hardware, cooling and losses of the power supply (PUE)",
        "whatever else the machine did at the same time",
    ):
        assert part in text
    assert "one machine" not in text
    whole = savings(recorded(run.path, [{**RECORD[0], "country": "FRA"}]), MADE)
    assert whole is not None
    text = " ".join(whole.assumptions)
    assert "of FRA (0.5 kg per kWh, codecarbon's data)" in text
    assert "world average" not in text
    assert "(no 'proard search', after which" in text
    assert "--scale-epochs" not in text


def test_trainings_on_another_machine(run: Run) -> None:
    def write(path: Path, processor: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        values = {"cuda_device": None, "processor": processor, "threads": 2}
        Run(path).environment.write_text(json.dumps(values))

    for path, processor in ((".", "A"), ("baselines/flops-1M", "A"), ("baselines/flops-2M", "B")):
        write(run.path / path, processor)
    found = savings(run, MADE)
    assert found is not None
    assert "Not of one machine, so times cannot be compared: A, 2 threads | B, 2 threads." in found.assumptions


def test_energy_that_is_not_known_is_not_guessed(run: Run) -> None:
    made = {"comparisons": [*MADE["comparisons"], comparison("flops-3M", 60.0, None)]}
    found = savings(run, made)
    assert found is not None
    assert found.alone.kwh is found.alone.kg_co2eq is None
    assert found.unit == "seconds"
    assert found.break_even == pytest.approx(200 / (60 - 3))
    assert found.rows()[0] == ["1", "203", "71.3", "35.7", "60", "not measured", "not measured"]
    older = [{k: v for k, v in row.items() if k != "kg_co2eq_alone"} for row in made["comparisons"]]
    again = savings(run, {"comparisons": older})
    assert again is not None
    assert again.rows() == found.rows()


def test_a_student_that_costs_as_much_to_extract(tmp_path: Path) -> None:
    found = savings(recorded(tmp_path, [entry("train", 9.0, None), entry("extract", 40.0, None)]), MADE)
    assert found is not None
    assert found.extraction == Spent(40.0, None, None)
    assert found.break_even == pytest.approx(9 / 20)
    found = savings(recorded(tmp_path, [entry("train", 9.0, None), entry("extract", 60.0, None)]), MADE)
    assert found is not None
    assert found.break_even is None
    assert "never cheaper" in found.conclusion
    assert any(text.startswith("Energy is unknown") for text in found.assumptions)


def test_a_training_that_is_not_on_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert savings(Run(tmp_path), MADE) is None
    print_baseline(Baseline(Run(tmp_path), []))
    assert "not on record" in capsys.readouterr().out


def test_what_is_printed(run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Baseline, "_table", lambda self: MADE)
    monkeypatch.setattr("proard.commands.printing.compared", lambda row: {"budget": row["budget"]})
    print_baseline(Baseline(run, []))
    output = capsys.readouterr().out
    found = savings(run, MADE)
    assert found is not None
    assert "\n".join(table([dict(zip(HEAD, row, strict=True)) for row in found.rows()])) in output
    words = " ".join(output.split())  # sentences are folded
    assert found.conclusion in words
    assert all(f"- {sentence}" in words for sentence in found.assumptions)


def test_a_card_counts_what_made_the_student(run: Run) -> None:
    known = known_energy(run.energy)
    assert known is not None
    assert (
        known["kwh"] == pytest.approx(sum(e["kwh"] for e in RECORD if e["command"] in MAKING)) == pytest.approx(0.074)
    )
    assert known["seconds"] == pytest.approx(209)


def test_a_row_of_the_comparison() -> None:
    accuracies = {
        "clean_accuracy_extracted": 0.912,
        "robust_accuracy_extracted": 0.5,
        "clean_accuracy_alone": 0.9,
        "robust_accuracy_alone": 0.512,
        "robust_accuracy_difference": -0.012,
    }
    assert compared({**comparison("flops-1M", 40.4, None), **accuracies, "multiply_adds": 987_654}) == {
        "budget": "flops-1M",
        "multiply-adds": "988K",
        "extracted %": "91.2 / 50.0",
        "alone %": "90.0 / 51.2",
        "difference": "-1.2",
        "alone s": "40",
        "alone Wh": "not measured",
    }


def test_multiply_adds_are_those_of_the_metrics(run: Run) -> None:
    """The run's, teacher and validation included, over the mean of the trainings alone."""
    rows = [
        {"phase": "teacher", "processor_seconds": 2.0, "compute": {"attack": 6e9, "update": 3e9}},
        {"phase": "teacher", "processor_seconds": 1.0, "compute": {"validation": 1e9}},
        {"phase": "students", "processor_seconds": 3.0, "compute": {"attack": 6e9, "teacher": 4e9}},
    ]
    run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert computed(run).phases["teacher"] == {"attack": 6e9, "update": 3e9, "validation": 1e9}
    shown = "20.0G multiply-adds (attack 60 %, update 15 %, validation 5 %, teacher 20 %), 6 s of the processor"
    assert str(computed(run)) == shown
    amounts = zip(MADE["comparisons"], (4e9, 6e9), strict=True)
    compared = [{**row, "training_multiply_adds_alone": amount} for row, amount in amounts]
    found = savings(run, {"comparisons": compared})
    assert found is not None
    assert found.trainings == pytest.approx(20 / 5)
    assert found.conclusion.endswith("In multiply-adds it is worth 4.0 trainings alone.")
    before = savings(run, MADE)  # a baseline.json of an earlier version
    assert before is not None
    assert before.trainings is None
