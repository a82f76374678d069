"""What is shipped, what is imported early, and what the repository must not contain."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import proard
from proard.config import find_config, packaged_configs

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {path.name: path for path in sorted((ROOT / "configs").glob("*.yaml"))}


def python(code: str, **variables: str) -> str:
    """The output of a program in a process of its own, away from the source tree."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/",
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# Configurations and the wheel


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "quickstart.yaml" in CONFIGS
    assert {name: path.read_bytes() for name, path in packaged_configs().items()} == {
        name: path.read_bytes() for name, path in CONFIGS.items()
    }
    for name, path in CONFIGS.items():
        assert find_config(name).samefile(path)
        assert find_config(path.stem).samefile(path)


@pytest.fixture(scope="module")
def wheel_contents(tmp_path_factory) -> Path:
    """The wheel, built without network from a copy of the source tree, and unpacked."""
    pytest.importorskip("hatchling", reason="needs hatchling, of the extra dev")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("proard", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = (source / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def test_wheel(wheel_contents):
    output = python(
        "import importlib.metadata, proard, proard.config\n"
        "print(proard.__file__, importlib.metadata.version('proard'), proard.__version__, sep='\\n')\n"
        "print(*proard.config.packaged_configs().values(), sep='\\n')",
        PYTHONPATH=str(wheel_contents),
    )
    place, *versions = output.splitlines()[:3]
    configs = [Path(line) for line in output.splitlines()[3:]]
    assert Path(place) == wheel_contents / "proard" / "__init__.py"
    assert versions == [proard.__version__, proard.__version__]
    assert all(path.parent == wheel_contents / "proard" / "configs" for path in configs)
    assert {path.name: path.read_bytes() for path in configs} == {n: path.read_bytes() for n, path in CONFIGS.items()}
    assert (wheel_contents / "proard" / "py.typed").is_file()
    modules = {path.relative_to(ROOT) for path in (ROOT / "proard").rglob("*.py")}
    assert modules == {path.relative_to(wheel_contents) for path in (wheel_contents / "proard").rglob("*.py")}
    for name in ("page.html", "budget.html", "page.css", "page.js"):  # of `proard report`
        place = Path("proard", "report", name)
        assert (wheel_contents / place).read_bytes() == (ROOT / place).read_bytes()


@pytest.mark.parametrize("module", ["proard", "proard.config", "proard.commands.cli"])
def test_light_imports(module):
    heavy = "{'torch', 'torchvision', 'pandas', 'sklearn', 'pymoo', 'codecarbon'}"
    assert python(f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))").split() == []


# The repository


def test_no_path_of_a_workplace():
    """Only .ci/run may know what lies beside the checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    # Written in pieces, or this file would be found.
    pattern = re.compile(rb"/wor" + rb"k/|(?<![\w-])sha" + rb"red/")
    found = [
        name
        for name in listed
        if name and name != ".ci/run" and (ROOT / name).is_file() and pattern.search((ROOT / name).read_bytes())
    ]
    assert not found, f"these files name a folder of one workplace: {', '.join(found)}"
