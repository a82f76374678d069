#!/usr/bin/env bash
# The first half hour on a machine with a GPU, and a page of what it gave: bash scripts/gpu.sh [MINUTES] [OPTIONS OF gpu.py]
#
# PYTHON=python3 takes an environment that is there, for a machine without a network; --tiny is a rehearsal on any machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

if [ -z "${PYTHON:-}" ]; then
  make_environment dev
  PYTHON=.venv/bin/python
fi
exec "$PYTHON" scripts/gpu.py "$@"
