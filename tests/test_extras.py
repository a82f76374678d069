"""What pip really brings for the extras: all of them can be had, and what the guides use is in it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from documented import parsing
from documented.pages import PAGES, ROOT, blocks

pytestmark = pytest.mark.documentation
APART = "robustbench"  # demands a timm that is too old for the extra timm
MODELS = {  # names of models on a page, by the extra that they need
    "timm": r"(?:\btimm: ?|[,{\n] *architecture: )([a-z]\w+)",
    "robustbench": r"\brobustbench:(?:\w+/\w+/)?(\w*[a-z]\w*)",
}
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]


def pip(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def resolved() -> dict[str, dict[str, str]]:
    """By extra, the versions that pip would install for robustbench, and for all others together."""
    pytest.importorskip("pip")
    plan = ("install", "--dry-run", "--ignore-installed", "--report", "-")
    index = pip(*plan, "--no-deps", "hatchling")
    _, said = index.communicate()
    if index.returncode:
        pytest.skip(f"no package index: {said.strip().splitlines()[-1]}")
    together = ",".join(sorted(parsing.project_extras() - {APART}))
    running = {extras: pip(*plan, f".[{extras}]") for extras in (APART, together)}
    versions = {}
    for extras, process in running.items():
        report, said = process.communicate(timeout=300)
        assert process.returncode == 0, f"{extras}: {said}"
        found = [entry["metadata"] for entry in json.loads(report)["install"]]
        for extra in extras.split(","):
            versions[extra] = {one["name"].lower(): one["version"] for one in found}
    return versions


@pytest.mark.parametrize("extra", MODELS)
def test_what_an_extra_brings_has_the_models_of_the_guides(
    resolved: dict[str, dict[str, str]], extra: str, tmp_path: Path
) -> None:
    download = pip("download", "--no-deps", "--dest", str(tmp_path), f"{extra}=={resolved[extra][extra]}")
    assert download.wait() == 0, download.stderr and download.stderr.read()
    with zipfile.ZipFile(*tmp_path.glob("*.whl")) as wheel:
        code = "".join(wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".py"))
    wanted = {name for page in PAGES for name in re.findall(MODELS[extra], page.read_text(encoding="utf-8"))}
    assert len(wanted) > 1
    assert {name for name in wanted if not re.search(rf"def {name}\(|['\"]{name}['\"]", code)} == set()


def test_robustbench_comes_with_what_it_imports(resolved: dict[str, dict[str, str]]) -> None:
    """Of `autoattack` and `pkg_resources` its own dependencies say nothing."""
    assert "pyautoattack" in resolved["robustbench"]
    assert int(resolved["robustbench"]["setuptools"].split(".")[0]) < 82


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_which_extra_its_models_need(name: str) -> None:
    asked = parsing.extras((ROOT / name).read_text(encoding="utf-8"))
    assert not any({"timm", "robustbench"} <= set(together) for together in asked)
    written = "".join(block.text for block in blocks(ROOT / name) if block.language == "yaml")
    needed = {extra for extra, models in MODELS.items() if re.search(models, written)}
    assert needed <= {extra for together in asked for extra in together}
