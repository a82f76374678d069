#!/usr/bin/env bash
# Runs the commands and notebooks of the documentation, and builds its site: bash scripts/docs.sh [PYTEST OPTIONS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

make_environment dev
OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m documentation -n 2 --dist worksteal "$@"
