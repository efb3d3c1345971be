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
refuse_out "${arguments[@]}"
(enter_environment)

is_count() { [[ $1 =~ ^[1-9][0-9]*$ ]]; }
nodes_of() { echo $((($1 + ${RANKS_PER_NODE:-$1} - 1) / ${RANKS_PER_NODE:-$1})); }

# All is looked at before the first job is there.
[ -n "${numbers//[[:space:]]/}" ] || stop "no numbers of ranks (such as \"1 2 4\")"
for name in RANKS_PER_NODE BATCH_PER_RANK; do
  is_count "${!name:-1}" || stop "$name=${!name}: not possible (a whole number, 1 or more)"
done
for ranks in $numbers; do
  is_count "$ranks" || stop "$ranks: not a number of ranks (whole numbers, 1 or more, such as \"1 2 4\")"
  nodes=$(nodes_of "$ranks")
  [ $((ranks % nodes)) = 0 ] ||
    stop "RANKS_PER_NODE=$RANKS_PER_NODE: $ranks ranks cannot be divided evenly over $nodes nodes"
done

folder=${RUN:-runs/scaling-$(date +%Y%m%d-%H%M%S)}
mkdir -p "$folder"
jobs=() runs=()
for ranks in $numbers; do
  nodes=$(nodes_of "$ranks")
  weak=()
  [ -z "${BATCH_PER_RANK:-}" ] || weak=(--set "train.batch_size=$((ranks * BATCH_PER_RANK))")
  runs+=("$folder/$(printf '%04d' "$ranks")-ranks")
  job=$(RUN=${runs[-1]} sbatch --parsable --job-name="scaling-$ranks" --output="$folder/%x-%j.log" \
    "${options[@]}" --nodes="$nodes" --ntasks-per-node="$((ranks / nodes))" \
    "$home/slurm/train.sh" "${arguments[@]}" "${weak[@]}") ||
    stop "$ranks ranks: sbatch has refused; jobs that are there already: ${jobs[*]:-none} (scancel ends them)"
  jobs+=("$job")
done
gather_after benchmark "$folder" "afterany:$(IFS=:; echo "${jobs[*]}")" "${runs[@]}"
