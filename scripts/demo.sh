#!/usr/bin/env bash
# Train on built-in shapes with 2 ranks, evaluate, and reconstruct held-out shapes: scripts/demo.sh [RUN_DIRECTORY]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:-runs/demo}

rm -rf "$run"
horovodrun -np 2 python -m hvd_r2n2.train --config configs/demo.yaml --out "$run"
mpirun -np 2 python -m hvd_r2n2.evaluate "$run" --views 1 2 3 4 5 --no-f-score
echo
echo "summary:  $run/summary.json"
echo "pictures: $run/pictures/"
echo "curves:   tensorboard --logdir $run/tensorboard"
