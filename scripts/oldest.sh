#!/usr/bin/env bash
# The lowest version of everything that pyproject.toml allows, at work: bash scripts/oldest.sh [FOLDER]
#
# Makes an environment in FOLDER (build/oldest, about 6 GB; kept, and brought up to date by the next call) with the oldest
# Python that is found and the lowest version of every core dependency and of the extra report, as pyproject.toml has them.
# There it runs train, search, extract, evaluate and report on little work, and the tests of TESTS: all that take seconds
# each, and need neither the network nor the tools of the documentation. Tests that need a missing extra skip themselves.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:-build/oldest}
TESTS=(attacks budgets cli compute config data data_folder display energy export files house objectives objectives_formulas packaging
  report samplers sampling_plot savings search_nsga2 search_predictor supernet terminal)

find_oldest_python() {
  local candidate
  for candidate in python3.10 python3.11 python3.12; do # those for which the lowest torch and numpy have wheels
    if "$candidate" --version >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
  echo "No Python from 3.10 to 3.12 was found; please install one." >&2
  return 1
}

[ -x "$folder/bin/python" ] || "$(find_oldest_python)" -m venv "$folder"
python=$(cd "$folder" && pwd)/bin/python
pip=("$python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install --upgrade pip
"${pip[@]}" install pytest hypothesis packaging tomli hatchling # for the tests and for reading pyproject.toml
lowest=$("$python" - <<'PYTHON'
import tomli
from packaging.requirements import Requirement

with open("pyproject.toml", "rb") as file:
    project = tomli.load(file)["project"]
for text in project["dependencies"] + project["optional-dependencies"]["report"]:
    requirement = Requirement(text)
    (bound,) = [one.version for one in requirement.specifier if one.operator == ">="]
    print(f"{requirement.name}=={bound}")
PYTHON
)
"${pip[@]}" install $lowest
"${pip[@]}" install --no-deps --editable .
"${pip[@]}" check
"$python" --version
printf '%s\n' $lowest

export OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
proard=$(dirname "$python")/proard
"$proard" train --config quickstart.yaml --scale-epochs 0.05 --run "$work/run" --quiet
"$proard" search --run "$work/run" --labels 12 --population 12 --generations 3 --verify 2 --quiet
"$proard" extract --run "$work/run" --flops 2M --quiet
"$proard" evaluate "$work/run" --limit 100 --quiet
"$proard" report --run "$work/run" --quiet
"$python" - "$work/run" <<'PYTHON'
import json
import sys
from pathlib import Path

run = Path(sys.argv[1])
commands = json.loads((run / "energy.json").read_text())["commands"]
assert [one["command"] for one in commands] == ["train", "search", "extract", "evaluate", "report"], commands
assert all(one["kwh"] for one in commands), commands  # what codecarbon cannot measure is no error by itself
for name in ("front.json", "report.html", "sampling.png", "students/flops-2M/student.safetensors"):
    assert (run / name).stat().st_size, name
PYTHON
"$python" -m pytest -p no:cacheprovider $(printf 'tests/test_%s.py ' "${TESTS[@]}")
echo "All of this works with the lowest versions."
