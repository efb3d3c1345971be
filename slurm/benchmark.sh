#!/usr/bin/env bash
# Measure how training scales: one job for each number of ranks, and one more that gathers them when all have ended.
#
#   slurm/benchmark.sh "1 2 4" [OPTIONS OF sbatch] -- [ARGUMENTS OF python -m hvd_r2n2.train]
#
# Started by hand where sbatch is. Results: runs/scaling-TIME/benchmark.json, .png, and the table in gather.log.
#   RANKS_PER_NODE=N   more ranks than that take several nodes      (all on one node)
#   BATCH_PER_RANK=N   weak scaling: train.batch_size is N times the ranks   (strong: the same batch for all)
#   RUN=FOLDER         where runs and results go                    (runs/scaling-TIME)
set -euo pipefail
script=${BASH_SOURCE[0]}
home=$(dirname "$(dirname "$(realpath "$script")")")
# shellcheck source=slurm/common.sh
source "$home/slurm/common.sh"

numbers=${1:?"how many ranks, such as \"1 2 4\""}
split_words "${@:2}"
folder=${RUN:-runs/scaling-$(date +%Y%m%d-%H%M%S)}
mkdir -p "$folder"
jobs=() runs=()
for ranks in $numbers; do
  per_node=${RANKS_PER_NODE:-$ranks}
  nodes=$(((ranks + per_node - 1) / per_node))
  [ $((ranks % nodes)) = 0 ] || stop "RANKS_PER_NODE=$per_node: $ranks ranks cannot be divided evenly over $nodes nodes"
  weak=()
  [ -z "${BATCH_PER_RANK:-}" ] || weak=(--set "train.batch_size=$((ranks * BATCH_PER_RANK))")
  runs+=("$folder/$(printf '%04d' "$ranks")-ranks")
  jobs+=("$(RUN=${runs[-1]} sbatch --parsable --job-name="scaling-$ranks" --output="$folder/%x-%j.log" \
    "${options[@]}" --nodes="$nodes" --ntasks-per-node="$((ranks / nodes))" \
    "$home/slurm/train.sh" "${arguments[@]}" "${weak[@]}")")
done
gather_after benchmark "$folder" "afterany:$(IFS=:; echo "${jobs[*]}")" "${runs[@]}"
