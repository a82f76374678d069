#!/usr/bin/env bash
# Runs the commands and notebooks of the documentation, builds its site, and runs the slow tests: bash scripts/docs.sh [PYTEST OPTIONS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

make_environment dev
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m 'documentation or slow' -n 2 --dist worksteal "$@"
