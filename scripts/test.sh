#!/usr/bin/env bash
# Everything that is checked, the tests in two processes: bash scripts/test.sh [PYTEST OPTIONS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

make_environment dev
.venv/bin/python -m ruff check .
.venv/bin/python -m mypy
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist worksteal "$@"
