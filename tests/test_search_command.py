"""`proard search` from a trained run to the measured front, and extraction from that front."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import proard.data
from proard import extract
from proard.commands.cli import main
from proard.commands.printing import search_summary
from proard.commands.search import search
from proard.common.errors import UserError
from proard.evaluation.accuracy import measure
from proard.export.student_directory import FORMATS
from proard.runs.checkpoint import load_checkpoint, save_checkpoint
from proard.runs.run import Run
from proard.runs.trained_run import TrainedRun
from proard.search.front import read_front, undominated
from proard.search.labeller import Labeller
from proard.search.searcher import SearchResult
from proard.supernet import Architecture, SearchSpace
from proard.supernet.budgets import Budget, Limits

Capture = pytest.CaptureFixture[str]
OPTIONS: dict[str, Any] = {
    "labels": 12,
    "verify": 4,
    "population": 10,
    "generations": 3,
    "regressors": ("ridge",),
    "quiet": True,
}
SEARCH = "from proard.commands.search import search; search({run!r}, **{options!r})"


def fresh(trained_run: Path, place: Path) -> Path:
    return Path(shutil.copytree(trained_run, place, ignore=shutil.ignore_patterns("students")))


@pytest.fixture(scope="module")
def searched(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search without interruption; its run is not to be changed."""
    result = search(fresh(trained_run, tmp_path_factory.mktemp("search") / "run"), **OPTIONS)
    assert result is not None
    return result


@pytest.fixture
def run(searched: SearchResult, tmp_path: Path) -> Path:
    """A copy of the run that was searched."""
    return Path(shutil.copytree(searched.path.parent, tmp_path / "run"))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Students without a program: exporting takes a second each."""
    monkeypatch.setitem(FORMATS, "pt2", lambda student, example, path: path.write_bytes(b"program"))


@pytest.fixture
def labelled(monkeypatch: pytest.MonkeyPatch) -> list[Architecture]:
    """What is measured on validation images from now on."""
    seen: list[Architecture] = []
    original = Labeller.__call__

    def call(self: Labeller, architecture: Architecture) -> Any:
        seen.append(architecture)
        return original(self, architecture)

    monkeypatch.setattr(Labeller, "__call__", call)
    return seen


# ---------------------------------------------------------------------------------------------------------------------
# Searching


def test_what_a_search_writes(searched: SearchResult) -> None:
    values = json.loads(searched.path.read_text())
    store = [json.loads(line) for line in (searched.path.parent / "labels.jsonl").read_text().splitlines()]
    measured = [line for line in store if "clean" in line]
    assert len(values["students"]) == len(measured) == 16
    assert (values["split"], values["images"]) == ("validation", 20)
    assert values["attack"]["steps"] == 2
    assert searched.report["labels"] == 12
    assert searched.report["verified"]["students"] == 4
    by_architecture = {json.dumps(line["architecture"]): line for line in measured}
    for student in values["students"]:
        line = by_architecture[json.dumps(student["architecture"])]
        assert (student["clean"], student["robust"]) == (line["clean"], line["robust"])
    costs = [name for name in values["students"][0] if name not in ("architecture", "clean", "robust", "front")]
    rows = np.array([[-s["clean"], -s["robust"], *(s[name] for name in costs)] for s in values["students"]])
    assert [student["front"] for student in values["students"]] == undominated(rows).tolist()


def test_labels_are_accuracies_on_validation_images(searched: SearchResult) -> None:
    trained = TrainedRun(Run(searched.path.parent))
    config = trained.config
    images = trained.data.validation.subset(config.search.images, config.seed)
    point = searched.front.measured[-1]
    student = trained.supernet.extract(point.architecture, trained.calibration).eval()
    ((pixels, labels),) = images.batches([torch.arange(len(images))], "cpu")
    with torch.no_grad():
        assert point.label.clean == (student(pixels).argmax(1) == labels).double().mean().item()
    label = Labeller(trained)(point.architecture)
    assert (label.clean, label.robust, label.images) == (point.label.clean, point.label.robust, len(images))


def test_a_search_sees_no_test_image(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    class Forbidden:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError("the test split was read")

    original = proard.data.load_data
    monkeypatch.setattr("proard.data.load_data", lambda *given: dataclasses.replace(original(*given), test=Forbidden()))
    assert search(fresh(trained_run, tmp_path / "run"), **{**OPTIONS, "verify": 0}) is not None


def test_a_killed_search_goes_on_and_ends_as_one_that_was_not(
    searched: SearchResult, trained_run: Path, tmp_path: Path, labelled: list[Architecture]
) -> None:
    place = fresh(trained_run, tmp_path / "run")
    command = [sys.executable, "-c", SEARCH.format(run=str(place), options=OPTIONS)]
    environment = {**os.environ, "PYTHONPATH": str(Path(proard.__file__).parent.parent)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    file = place / "labels.jsonl"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if file.exists() and file.read_bytes().count(b'"clean"') >= 3:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    finished = file.read_bytes().count(b'"seconds"')
    assert finished >= 3
    assert not (place / "front.json").exists()
    with open(file, "ab") as stream:
        stream.write(b'{"fingerprint": "ab')  # a line that the kill cut in two
    again = search(place, **OPTIONS)
    assert again is not None
    assert len(labelled) <= 16 - (finished - 1)
    assert again.path.read_bytes() == searched.path.read_bytes()


def test_a_second_search_measures_nothing(run: Path, searched: SearchResult, labelled: list[Architecture]) -> None:
    assert search(run, **OPTIONS) is not None
    assert labelled == []
    assert (run / "front.json").read_bytes() == searched.path.read_bytes()


def test_processes_of_one_search_share_its_labels(
    searched: SearchResult,
    trained_run: Path,
    tmp_path: Path,
    labelled: list[Architecture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = fresh(trained_run, tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert search(place, **OPTIONS) is None
    assert [path.name for path in sorted(place.glob("labels*"))] == ["labels-1.jsonl"]
    assert len(labelled) == 12  # its share, and that of the process that has not come
    monkeypatch.setenv("RANK", "0")
    result = search(place, **OPTIONS)
    assert result is not None
    assert len(labelled) == 16
    assert result.path.read_bytes() == searched.path.read_bytes()


def test_labels_of_other_weights_are_not_used(run: Path, labelled: list[Architecture], capsys: Capture) -> None:
    state = load_checkpoint(run / "checkpoint.pt")
    state.pop("format")
    weights = state["best"]["weights"] if state["best"] else state["supernet"]
    next(iter(weights.values())).add_(0.01)
    save_checkpoint(run / "checkpoint.pt", state)
    assert search(run, **{**OPTIONS, "verify": 0}) is not None
    assert len(labelled) == 12
    assert "16 in" in (error := capsys.readouterr().err)
    assert "of other weights" in error
    assert len(json.loads((run / "front.json").read_text())["students"]) == 12


def test_a_search_within_budgets(run: Path, searched: SearchResult) -> None:
    space = TrainedRun(Run(run)).supernet.space
    limit = (space.cost(space.smallest()).multiply_adds + space.cost(space.largest()).multiply_adds) // 2
    result = search(run, **{**OPTIONS, "generations": 2}, flops=limit)
    assert result is not None
    before = {point.architecture for point in searched.front.measured}
    added = [point for point in result.front.measured if point.architecture not in before]
    assert all(point.cost.multiply_adds <= limit for point in added)


def test_a_space_that_is_measured_completely_needs_no_predictor(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SearchSpace, "size", property(lambda space: 12))
    result = search(run, **OPTIONS)
    assert result is not None
    assert result.report["labels"] == 12
    assert "predictor" not in result.report
    assert "every student was measured" in "\n".join(search_summary(result))


def test_wrong_arguments_of_search(run: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in run.iterdir())
    for options, message in (
        ({"labels": 7}, "--labels 7: must be at least 8"),
        ({"population": 1}, "--population 1"),
        ({"generations": 0}, "--generations 0"),
        ({"verify": -1}, "--verify -1"),
        ({"flops": "1"}, "below the smallest student"),
        ({"flops": "-1"}, "must be positive"),
        ({"budgets": [("flops", "1G"), ("flops", "2G")]}, "one limit of a kind"),
        ({"run": tmp_path / "nowhere"}, "nowhere"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            search(**{"run": run, **OPTIONS, **options})
        assert "\n" not in str(caught.value)
    (run / "labels.jsonl").write_text("spoilt\n")
    with pytest.raises(UserError, match=r"labels.jsonl:1: not a label"):
        search(run, **OPTIONS)
    values = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**values, "mode": "student", "phases": values["phases"][:1]}))
    with pytest.raises(UserError, match="nothing to search"):
        search(run, **OPTIONS)
    assert [name for name in sorted(path.name for path in run.iterdir()) if name != ".lock"] == [
        name for name in before if name != ".lock"
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Extraction from the front


@pytest.mark.parametrize("prefer", ["robust", "clean", "balanced"])
def test_extract_takes_the_best_of_the_front_and_measures_nothing_on_validation(
    run: Path,
    searched: SearchResult,
    tmp_path: Path,
    fast: None,
    labelled: list[Architecture],
    monkeypatch: pytest.MonkeyPatch,
    prefer: Any,
) -> None:
    points = searched.front.measured
    middle = sorted(point.cost.multiply_adds for point in points)[len(points) // 2]
    events: list[str] = []
    original = Labeller.__init__

    def init(self: Labeller, *arguments: Any) -> None:
        original(self, *arguments)
        events.append("validation read")

    def measured(*arguments: Any, **options: Any) -> Any:
        events.append("measured")
        return measure(*arguments, **options)

    monkeypatch.setattr(Labeller, "__init__", init)
    monkeypatch.setattr("proard.commands.extract.measure", measured)
    (student,) = extract(flops=middle, run=run, out=tmp_path / "out", prefer=prefer, quiet=True)
    assert labelled == []
    assert events == ["validation read", "measured"]  # the one measurement is that of the chosen, on test images
    score = {
        "robust": lambda p: (p.label.robust, p.label.clean),
        "clean": lambda p: (p.label.clean, p.label.robust),
        "balanced": lambda p: (p.label.clean + p.label.robust, p.label.robust),
    }[prefer]
    best = max((p for p in points if p.cost.multiply_adds <= middle), key=score)
    selection = student.card["selection"]
    assert (selection["method"], selection["prefer"], selection["measured_now"]) == ("front", prefer, 0)
    assert (selection["clean_accuracy"], selection["robust_accuracy"]) == (best.label.clean, best.label.robust)
    assert score(best) == score(next(p for p in points if dict(p.architecture) == student.card["architecture"]))


def test_the_front_has_the_best_for_any_budget(searched: SearchResult) -> None:
    """Leaving out what is dominated loses nothing, whatever is limited."""
    front = searched.front
    best = set(front.best())
    space_cost = {point.architecture: point.cost for point in front.measured}.__getitem__
    for kind, field in (("flops", "multiply_adds"), ("params", "parameters"), ("memory", "peak_activation_bytes")):
        for point in front.measured:
            limits = Limits((Budget(kind, getattr(point.cost, field), "x"),))
            chosen = front.choose(limits, "robust", space_cost)
            assert chosen is not None
            fitting = [p for p in best if limits.admits(p.cost)]
            assert max(p.label.robust for p in fitting) == chosen.label.robust
    assert front.choose(Limits((Budget("flops", 1, "1"),)), "robust", space_cost) is None


def test_a_limit_that_the_front_does_not_come_near_is_searched_by_measuring(
    run: Path, tmp_path: Path, fast: None, labelled: list[Architecture]
) -> None:
    values = json.loads((run / "front.json").read_text())
    ends = [values["students"][0], values["students"][-1]]
    (run / "front.json").write_text(json.dumps({**values, "students": ends}))
    limit = ends[0]["multiply_adds"] * 2 + 10_000
    assert limit < ends[1]["multiply_adds"]
    (student,) = extract(flops=limit, run=run, out=tmp_path / "out", quiet=True)
    assert student.card["selection"]["method"] == "front and measuring"
    assert 0 < len(labelled) <= 3
    assert student.card["multiply_adds"] <= limit


def test_extract_says_when_the_front_is_of_something_else(
    run: Path, tmp_path: Path, fast: None, labelled: list[Architecture], capsys: Capture
) -> None:
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("eps: 0.1", "eps: 0.2"))
    (student,) = extract(flops="1G", run=run, out=tmp_path / "out", quiet=True)
    assert student.card["selection"]["method"] == "measuring"
    assert student.card["selection"]["measured_now"] == len(labelled) > 0
    lines = capsys.readouterr().err
    assert "front.json: is of other attack, and is not used" in lines
    assert "threat.eps of config.yaml changed since the training" in lines


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 9}', '{"format": 1, "fingerprint": []}'])
def test_a_damaged_front_is_one_line(run: Path, tmp_path: Path, text: str) -> None:
    (run / "front.json").write_text(text)
    with pytest.raises(UserError, match=r"front.json: not a front .*proard search") as caught:
        extract(flops="1G", run=run, out=tmp_path / "out", quiet=True)
    assert "\n" not in str(caught.value)


def test_a_front_with_students_that_are_none(run: Path) -> None:
    trained = TrainedRun(Run(run))
    fingerprint, space = Labeller(trained).fingerprint, trained.supernet.space
    values = json.loads((run / "front.json").read_text())
    for students in ([], [{}], [{**values["students"][0], "architecture": {"a": 1}}]):
        (run / "front.json").write_text(json.dumps({**values, "students": students}))
        with pytest.raises(UserError, match=r"front.json: not a front"):
            read_front(run, fingerprint, space)


# ---------------------------------------------------------------------------------------------------------------------
# One student, several budgets


def test_combined_budgets_make_one_student(run: Path, tmp_path: Path, fast: None) -> None:
    space = TrainedRun(Run(run)).supernet.space
    middle = {
        kind: (getattr(space.cost(space.smallest()), field) + getattr(space.cost(space.largest()), field)) // 2
        for kind, field in (("flops", "multiply_adds"), ("params", "parameters"))
    }
    (student,) = extract(list(middle.items()), together=True, run=run, out=tmp_path / "out", quiet=True)
    assert student.path.name == f"flops-{middle['flops']}+params-{middle['params']}"
    assert student.card["multiply_adds"] <= middle["flops"]
    assert student.card["parameters"] <= middle["params"]
    assert [row["kind"] for row in student.card["budget"]["all"]] == ["flops", "params"]
    assert student.card["budget"]["text"] == f"{middle['flops']} + {middle['params']}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flops", "1M"], "--and: joins the budgets"),
        (["--flops", "1M", "--flops", "2M"], "one student has one limit of a kind"),
        (["--flops", "1G", "--params", "5"], "--params 5: below the smallest student"),
        (["--flops", "1G", "--params", "-5"], "--params -5: must be positive"),
    ],
)
def test_combined_budgets_that_cannot_be(run: Path, capsys: Capture, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(["extract", "--run", str(run), *arguments, "--and"])
    output, errors = capsys.readouterr()
    assert (left.value.code, output, errors.count("\n")) == (2, "", 1)
    assert message in errors
    assert not (run / "students").exists()


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def command(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def test_search_and_extract_on_the_command_line(
    run: Path, capsys: Capture, fast: None, labelled: list[Architecture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proard.search.predictor.names_for", lambda count: ("ridge",))
    arguments = ["search", "--run", str(run), "--labels", "12", "--verify", "4", "--population", "10"]
    arguments += ["--generations", "3", "--quiet"]
    assert command(*arguments) == 0
    output, errors = capsys.readouterr()
    assert errors == ""
    assert labelled == []
    text = output.splitlines()
    assert max(map(len, [line for line in text if str(run) not in line])) <= 80
    for word in ("labels:  12 of 288", "ridge", "tau", "checked: 4", "multiply-adds", "front:"):
        assert word in output
    next_command = text[-1].removeprefix("next:    proard ").split()
    assert command(*next_command, "--quiet") == 0
    output, errors = capsys.readouterr()
    assert "chosen:  from the measured front of 'proard search'" in output
    assert (errors, labelled) == ("", [])
    assert command(*arguments, "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert values["labels"] == 12
    assert values["measured"] == 16
    assert {"architecture", "clean", "robust", "multiply_adds"} <= set(values["front"][0])


def test_extract_without_a_front_says_so(trained_run: Path, tmp_path: Path, fast: None, capsys: Capture) -> None:
    place = fresh(trained_run, tmp_path / "run")
    assert command("extract", "--run", str(place), "--flops", "1G", "--quiet") == 0
    assert "chosen:  the best of" in capsys.readouterr().out
    assert command("extract", "--run", str(place), "--flops", "1G", "--quiet", "--json") == 0
    (card,) = json.loads(capsys.readouterr().out)
    assert card["selection"]["method"] == "measuring"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--labels", "3"], "--labels 3"),
        (["--labels", "few"], "--labels"),
        (["--flops", "ten"], "--flops ten"),
        (["--flops", "1"], "below the smallest"),
        (["--bogus"], "--bogus"),
    ],
)
def test_mistakes_of_search(run: Path, capsys: Capture, arguments: list[str], part: str) -> None:
    assert command("search", "--run", str(run), *arguments) == 2
    output, errors = capsys.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    assert part in errors
