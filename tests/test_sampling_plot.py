"""The plot of what a sampler trained: what is drawn is what metrics.jsonl counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from proard.commands.cli import main
from proard.common.errors import UserError
from proard.report import sampling_figure, write_sampling_plot
from proard.runs.run import Run, read_metrics
from proard.supernet.budgets import Budget

EDGES = {"width": [1e6, 2e6, 4e6, 8e6], "all": [1e5, 4e5, 2e6, 8e6]}
COUNTS = {"width": [[10, 20, 70], [50, 25, 25]], "all": [[1, 2, 1], [0, 3, 1], [6, 0, 0]]}


def row(phase: str, epoch: int, counts: list[int], **columns: list[float | None]) -> str:
    """A line of metrics.jsonl; gaps and accuracies are made from the counts, unknown where nothing was sampled."""
    edges = EDGES.get(phase, [8e6, 8e6])
    gaps = columns.get("robust_gap", [count / 10 if count else None for count in counts])
    accuracies = columns.get("robust", [count / 100 if count else None for count in counts])
    bins = [
        {"multiply_adds": [low, high], "sampled": count, "robust_gap": gap, "clean": None, "robust": accuracy}
        for low, high, count, gap, accuracy in zip(edges, edges[1:], counts, gaps, accuracies, strict=False)
    ]
    return json.dumps({"kind": "epoch", "phase": phase, "epoch": epoch, "loss": 1.0, "bins": bins})


@pytest.fixture
def lines() -> list[str]:
    """Of a run with a teacher's phase, in which nothing is elastic, and two phases of students."""
    students = [row(phase, epoch, counts) for phase, epochs in COUNTS.items() for epoch, counts in enumerate(epochs)]
    return [row("teacher", 0, [40]), row("teacher", 1, [40]), json.dumps({"kind": "validation"}), *students]


@pytest.fixture
def run(tmp_path: Path, tiny: dict[str, Any], lines: list[str]) -> Path:
    directory = tmp_path / "some run"
    directory.mkdir()
    (directory / "config.yaml").write_text(yaml.safe_dump(tiny))
    (directory / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return directory


def write(run: Path, *lines: str) -> Path:
    (run / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return run


def drawn_shares(axes: Any) -> np.ndarray:
    """Heights of the stacked areas, in per cent, by epoch and bin."""
    areas = [patch.get_data() for patch in axes.patches]
    return np.stack([area.values - area.baseline for area in areas], axis=1)


def drawn_lines(axes: Any) -> list[list[tuple[float, float]]]:
    """The points of the bins' lines; those that are unknown are not drawn."""
    bins = [line for line in axes.lines if not line.get_label().startswith("_")]
    points = [zip(line.get_xdata(), line.get_ydata(), strict=True) for line in bins]
    return [[(float(x), float(y)) for x, y in line if not np.isnan(y)] for line in points]


def panels(run: Path) -> dict[str, tuple[Any, Any, Any]]:
    """The three panels of every phase."""
    axes = sampling_figure(Run(run)).axes
    columns = zip(*np.array(axes, dtype=object).reshape(3, -1), strict=True)
    return {column[0].get_title().split()[1].rstrip(","): column for column in columns}


def test_what_is_drawn_is_what_was_counted(run: Path) -> None:
    drawn = panels(run)
    assert list(drawn) == list(COUNTS)  # nothing varied in the teacher's phase
    for phase, (shares, gap, robust) in drawn.items():
        counts = np.array(COUNTS[phase], dtype=float)
        np.testing.assert_allclose(drawn_shares(shares), 100 * counts / counts.sum(1, keepdims=True), atol=1e-9)
        bottoms = [patch.get_data().baseline[0] for patch in shares.patches]
        assert bottoms == sorted(bottoms)  # the cheapest bin lies lowest
        assert bottoms[0] == 0
        for axes, scale in ((gap, 0.1), (robust, 1.0)):
            for line, column in zip(drawn_lines(axes), counts.T, strict=True):
                expected = [(epoch, scale * count) for epoch, count in enumerate(column, start=1) if count]
                np.testing.assert_allclose(line, expected)


def test_every_bin_is_named_and_has_one_colour(run: Path) -> None:
    for phase, (shares, gap, robust) in panels(run).items():
        assert "sampler sandwich" in shares.get_title()
        legend = [text.get_text() for text in robust.get_legend().get_texts()]
        assert (
            legend
            == {
                "width": ["1.00M-2.00M", "2.00M-4.00M", "4.00M-8.00M"],
                "all": ["100K-400K", "400K-2.00M", "2.00M-8.00M"],
            }[phase]
        )
        colours = [patch.get_facecolor() for patch in shares.patches]
        lightness = [np.dot(colour[:3], (0.2126, 0.7152, 0.0722)) for colour in colours]
        assert all(np.diff(lightness) > 0.1), "told apart in grey, from dark for the cheapest to light"
        for axes in (gap, robust):
            lines = {line.get_label(): line.get_color() for line in axes.lines}
            assert [lines[label] for label in legend] == colours


def test_an_epoch_trained_again_counts_once(run: Path, lines: list[str]) -> None:
    """A killed process leaves rows after its checkpoint, and the end of a line; its successor writes them again."""
    before, again = row("all", 3, [9, 0, 0]), row("all", 3, [0, 5, 5])
    write(run, *lines, before, before[:50], again, row("all", 4, [1, 1, 2]))
    drawn = drawn_shares(panels(run)["all"][0])
    assert drawn.shape == (5, 3)
    np.testing.assert_allclose(drawn[3:], [[0, 50, 50], [25, 25, 50]])


@pytest.mark.parametrize("part", [1, 40, -1])
def test_an_unfinished_last_line_is_left_out(run: Path, lines: list[str], part: int) -> None:
    expected = [drawn_shares(column[0]) for column in panels(run).values()]
    (run / "metrics.jsonl").write_text("\n".join([*lines, row("all", 3, [1, 1, 1])[:part]]))
    drawn = [drawn_shares(column[0]) for column in panels(run).values()]
    for one, other in zip(drawn, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_epoch_without_a_row_is_empty(run: Path) -> None:
    write(run, row("all", 0, [1, 1, 2]), row("all", 3, [2, 1, 1]))
    shares, gap, _ = panels(run)["all"]
    np.testing.assert_allclose(drawn_shares(shares), [[25, 25, 50], [0, 0, 0], [0, 0, 0], [50, 25, 25]])
    assert {x for line in drawn_lines(gap) for x, _ in line} == {1, 4}


@pytest.mark.parametrize("value", [None, float("nan")])
def test_what_was_not_measured_is_said(run: Path, value: float | None) -> None:
    """Such as the robust gap, where a sampler never drew the largest student."""
    write(run, row("all", 0, [1, 0, 2], robust_gap=[value] * 3, robust=[0.5, None, 0.25]))
    _, gap, robust = panels(run)["all"]
    assert [text.get_text() for text in gap.texts] == ["not measured"]
    assert [text.get_text() for text in robust.texts] == []
    assert drawn_lines(robust) == [[(1, 50)], [], [(1, 25)]]
    assert write_sampling_plot(run) is not None


def test_the_picture_lies_in_the_run(run: Path) -> None:
    path = write_sampling_plot(run)
    assert path == run / "sampling.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    path.write_bytes(b"of an earlier epoch")
    assert write_sampling_plot(run) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in run.iterdir()) == ["config.yaml", "metrics.jsonl", "sampling.png"]


@pytest.mark.parametrize("metrics", [None, "", "teacher"])
def test_nothing_was_sampled(run: Path, lines: list[str], metrics: str | None) -> None:
    (run / "metrics.jsonl").unlink()
    if metrics is not None:
        write(run, *lines[: 3 if metrics else 0])
    assert sampling_figure(Run(run)) is None
    assert write_sampling_plot(run) is None
    assert not (run / "sampling.png").exists()


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml"):
        write_sampling_plot(tmp_path)


def test_it_is_imported_late_and_without_pyplot(run: Path) -> None:
    code = (
        "import sys, pathlib, proard.commands.cli, proard.report\n"
        "print(*{'torch', 'matplotlib'} & set(sys.modules))\n"
        "proard.report.write_sampling_plot(pathlib.Path(sys.argv[1]))\n"
        "print(*{'torch', 'matplotlib', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["", "matplotlib"]


# ---------------------------------------------------------------------------------------------------------------------
# The train command


@pytest.fixture
def config(tiny: dict[str, Any], tmp_path: Path) -> Path:
    tiny["phases"] = [{**tiny["phases"][0], "epochs": 1}, {**tiny["phases"][1], "epochs": 2}]
    tiny["data"]["limit"] = 60
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))
    return tmp_path / "tiny.yaml"


def last_lines(config: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """What a training, which must end well, says about the run it wrote."""
    run = config.parent / "run"
    with pytest.raises(SystemExit) as left:
        main(["train", "--config", str(config), "--run", str(run), "--quiet", *arguments])
    assert left.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    trained = lines.index(f"trained: {run}")
    assert lines[trained + 1].startswith("compute: ")  # which may go on in the next line
    return [line for line in lines[trained + 2 :] if not line.startswith(" ")]


def test_train_writes_the_plot(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled, following = last_lines(config, capsys)
    plot = config.parent / "run" / "sampling.png"
    assert sampled == f"sampled: {plot}"
    options = following.removeprefix("next:    proard ").split()
    assert options[:3] == ["extract", "--run", str(plot.parent)]
    (phase_end,) = [row for row in read_metrics(plot.parent / "metrics.jsonl") if row["kind"] == "validation"][-1:]
    costs = [student["multiply_adds"] for student in phase_end["students"].values()]
    assert min(costs) < Budget.parse("flops", options[4]).limit < 1.01 * max(costs)  # something fits, and not all of it
    assert plot.read_bytes().startswith(b"\x89PNG")
    ((phase, (shares, _, robust)),) = panels(plot.parent).items()
    assert phase == "width"
    np.testing.assert_allclose(drawn_shares(shares).sum(axis=1), [100, 100])
    assert drawn_lines(robust)[0]


@pytest.mark.parametrize("error", [UserError("no\nfont"), ZeroDivisionError(), OSError(28, "No space left")])
def test_a_plot_that_fails_fails_no_training(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("proard.report.sampling_plot.sampling_figure", fail)
    sampled, following = last_lines(config, capsys, "--set", "phases.1.epochs=1")
    assert sampled.startswith("sampled: no plot (")
    assert {UserError: "no font", ZeroDivisionError: "ZeroDivisionError", OSError: "No space left"}[
        type(error)
    ] in sampled
    assert following.startswith("next: ")
