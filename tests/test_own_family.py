"""The family of the guide to a network of one's own keeps the rules; test_documented_commands.py trains it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guides" / "your_own_network.md"


def test_the_family_keeps_the_rules(tmp_path: Path) -> None:
    family, walk = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "tower.py").write_text(family, encoding="utf-8")
    (tmp_path / "walk.py").write_text(f"from tower import TowerFamily, TowerPlan\n{walk}", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


CHECK = """
import random
import sys
sys.path.insert(0, ".")
import torch
import tower
import walk
from proard.supernet import build_supernet
from proard.evaluation.latency import blocks_of
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

architectures = [net.space.sample(random.Random(seed)) for seed in range(10)]
measured = [net.space.cost(architecture) for architecture in architectures]
assert all(len(blocks_of(net.family, architecture)) == 1 for architecture in architectures)
assert len({blocks_of(net.family, a)[0].key for a in architectures}) == len(set(architectures)) > 5
tower.TowerFamily.measure = walk.measure
for architecture, cost in zip(architectures, measured, strict=True):
    walked = net.space.cost(architecture)
    assert (walked.multiply_adds, walked.parameters) == (cost.multiply_adds, cost.parameters)
    assert walked.file_bytes == cost.file_bytes
    assert walked.peak_activation_bytes <= cost.peak_activation_bytes
    assert len(blocks_of(net.family, architecture)) == 1 + architecture["depth"] + 2
"""
