#!/usr/bin/env bash
# From a fresh clone to robust students: bash scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

config=quickstart.yaml
budgets=(500K 2M 7M) # multiply-adds; one student each

make_environment
proard=.venv/bin/proard

run=runs/quickstart
[ ! -e "$run" ] || run=runs/quickstart-$(date +%Y%m%d-%H%M%S)

"$proard" train --config "$config" --run "$run"

flops=()
for budget in "${budgets[@]}"; do flops+=(--flops "$budget"); done
"$proard" extract "${flops[@]}" --run "$run"

"$proard" evaluate "$run" # from the student directories alone: the same numbers
echo "Done: the students are in $run/students"
