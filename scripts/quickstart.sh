#!/usr/bin/env bash
# From a fresh clone to robust students, and a page about them: bash scripts/quickstart.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

config=quickstart.yaml
budgets=(130K 600K 4M) # multiply-adds; one student each

make_environment report
proard=.venv/bin/proard

# One that comes with the package, on the images that come with it.
"$proard" evaluate zoo:cifar10-jpeg/flops-9M

run=runs/quickstart
[ ! -e "$run" ] || run=runs/quickstart-$(date +%Y%m%d-%H%M%S)

"$proard" train --config "$config" --run "$run"

flops=()
for budget in "${budgets[@]}"; do flops+=(--flops "$budget"); done
"$proard" extract "${flops[@]}" --run "$run"

"$proard" evaluate "$run" # from the student directories alone: the same numbers
"$proard" report --run "$run" --quiet >/dev/null
echo "Done: the students are in $run/students"
echo "The report, one page for a browser: $run/report.html"
