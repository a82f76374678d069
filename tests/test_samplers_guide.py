"""The guide to samplers: its tables name everything there is, its configuration trains, its sampler works."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proard import train
from proard.objectives import craftings
from proard.runs.run import read_metrics
from proard.samplers import samplers

GUIDE = (Path(__file__).parent.parent / "docs" / "guides" / "samplers.md").read_text(encoding="utf-8")


def named(heading: str) -> set[str]:
    """The names in the first column of the table under a heading."""
    table = GUIDE.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    return set(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE))


def test_everything_is_named() -> None:
    assert named("sampler") == set(samplers.names())
    assert named("crafting") == set(craftings.names())


@pytest.mark.documentation
def test_the_configuration_trains(tiny: dict[str, Any], tmp_path: Path) -> None:
    values = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[0])
    config = {**tiny, **values}
    for phase in config["phases"]:
        phase["epochs"] = 1
    run = train(config, run=tmp_path / "run", quiet=True)
    rows = [row for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "epoch"]
    assert (
        sum(entry["sampled"] for entry in rows[1]["bins"])
        == values["phases"][1]["sampler"]["students"] * rows[1]["steps"]
    )


@pytest.mark.documentation
def test_the_sampler_of_ones_own(tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "my_samplers.py").write_text(re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)[0], encoding="utf-8")
    tiny["imports"] = ["my_samplers"]
    tiny["phases"] = [{**tiny["phases"][2], "objective": {"name": "ce"}, "sampler": {"name": "ends"}}]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(tiny), encoding="utf-8")
    command = [sys.executable, "-m", "proard", "train", "--config", "own.yaml", "--run", "run", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["kind"] == "epoch"]
    counts = [entry["sampled"] for entry in row["bins"]]
    assert counts[0] == row["steps"] // 2
    assert counts[-1] == row["steps"] - row["steps"] // 2
    assert sum(counts[1:-1]) == 0
