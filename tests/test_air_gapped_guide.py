"""No command reaches for the network by itself: they run with every connection refused, and none is tried."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TINY

pytestmark = pytest.mark.documentation
ROOT = Path(__file__).parent.parent

PROGRAM = """
import socket, sys
tried = []

def refuse(*arguments, **options):
    tried.append(arguments)
    raise OSError("no network")

socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse

from proard.commands.cli import main
for command in sys.stdin.read().splitlines():
    try:
        main(command.split())
    except SystemExit as left:
        assert not left.code, command
assert not tried, tried
"""

COMMANDS = """train --config config.yaml --run runs/one
search --run runs/one --labels 8 --population 8 --generations 2 --verify 1
extract --run runs/one --flops 10M --format onnx
evaluate runs/one --attack pgd5 --check --diagnose
baseline --run runs/one --flops 10M --scale-epochs 0.01
report --run runs/one
configs --schema"""


def test_no_command_reaches_for_the_network(tmp_path: Path) -> None:
    values = {**TINY, "energy": {"enabled": True, "country": "FRA"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, input=COMMANDS, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/one/report.html").is_file()


def test_a_connection_would_be_noticed(tmp_path: Path) -> None:
    attempt = PROGRAM.replace("from proard.commands.cli import main", "import urllib.request").split("for command")[0]
    attempt += "try:\n    urllib.request.urlopen('http://127.0.0.1:9')\nexcept OSError:\n    pass\n"
    attempt += "assert not tried, tried\n"
    done = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr
