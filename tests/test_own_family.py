"""The guide to a network of one's own: its code blocks are run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parent.parent / "docs" / "guides" / "your_own_network.md"


@pytest.fixture
def blocks(tmp_path: Path) -> dict[str, str]:
    found = dict(re.findall(r"```(\w+)\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL))
    (tmp_path / "tower.py").write_text(found["python"])
    (tmp_path / "tower.yaml").write_text(found["yaml"])
    return found


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_of_the_guide(blocks: dict[str, str], tmp_path: Path) -> None:
    commands = [line.removeprefix("$ proard ").split() for line in blocks["console"].splitlines()]
    assert [command[0] for command in commands] == ["train", "extract", "evaluate"]
    for command in commands:
        output = run([sys.executable, "-m", "proard", *command], tmp_path)
    assert "flops-300K" in output
    assert (tmp_path / "runs/tower/students/flops-300K/student.pt2").is_file()


def test_the_family_keeps_the_rules(blocks: dict[str, str], tmp_path: Path) -> None:
    run([sys.executable, "-c", CHECK], tmp_path)


CHECK = """
import random
import sys
sys.path.insert(0, ".")
import torch
import tower
from proard.supernet import build_supernet
from torch.utils.flop_counter import FlopCounterMode

net = build_supernet("tower", num_classes=5, input_shape=(3, 9, 9)).double()
x = torch.rand(4, 3, 9, 9, dtype=torch.float64)
largest = net.space.largest()
before = net.student(largest)(x)
net.sort_channels({"width", "depth"})
torch.testing.assert_close(net.student(largest)(x), before)
for seed in range(10):
    architecture = net.space.sample(random.Random(seed))
    student = net.student(architecture)
    with FlopCounterMode(display=False) as counter:
        student(x[:1])
    cost = net.space.cost(architecture)
    assert counter.get_total_flops() == 2 * cost.multiply_adds
    assert sum(parameter.numel() for parameter in student.parameters()) == cost.parameters
    torch.testing.assert_close(student(x), net.extract(architecture, [x]).train()(x))
"""
