#!/usr/bin/env bash
# Train on built-in shapes with 2 ranks, evaluate, and draw held-out shapes: scripts/demo.sh [RUN_DIRECTORY]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=${1:-runs/demo}

if [ -f "$run/config.yaml" ] && [ -d "$run/checkpoints" ]; then
  rm -r "$run"   # an earlier run
elif [ -e "$run" ] && [ -n "$(ls -A "$run")" ]; then
  echo "demo: error: $run is there and is not a run (config.yaml, checkpoints/): remove it, or name another folder" >&2
  exit 1
fi
horovodrun -np 2 python -m hvd_r2n2.train --config configs/demo.yaml --out "$run"
horovodrun -np 2 python -m hvd_r2n2.evaluate "$run" --views 1 2 3 4 5 --no-f-score
echo
cat "$run/summary.json"
echo "pictures of held-out shapes: $(ls "$run"/pictures/test-*.png)"
echo "curves, pictures and meshes: tensorboard --logdir $run/tensorboard"
