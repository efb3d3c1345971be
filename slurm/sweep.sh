#!/usr/bin/env bash
# Train once for each line of a file, as one job array, and gather the runs when all have ended.
#
#   slurm/sweep.sh FILE [OPTIONS OF sbatch] -- [ARGUMENTS OF python -m hvd_r2n2.train]
#
# Started by hand where sbatch is. Results: runs/sweep-TIME/sweep.json, .png, and the table in gather.log.
# A line of FILE holds further arguments, such as: --set train.seed=3 --set train.dtype=float32
# Words are parted by spaces; there are no quotes. An empty line is a run without any; one that begins with # is none.
# Runs have the numbers of their lines.
#   RUN=FOLDER         where runs and results go                    (runs/sweep-TIME)
set -euo pipefail
script=${BASH_SOURCE[0]}
home=$(dirname "$(dirname "$(realpath "$script")")")
# shellcheck source=slurm/common.sh
source "$home/slurm/common.sh"

lines=${1:?"a file with a line of arguments for each run"}
[ -f "$lines" ] && [ -r "$lines" ] || stop "$lines: no file that can be read"
split_words "${@:2}"
refuse_out "${arguments[@]}"
mapfile -t numbers < <(grep -nvE '^[[:space:]]*#' "$lines" | cut -d: -f1)
[ ${#numbers[@]} -gt 0 ] || stop "$lines: no lines with arguments"
for number in "${numbers[@]}"; do
  read -r -a words <<<"$(sed -n "${number}p" "$lines")"
  (refuse_out "${words[@]}") || stop "$lines, line $number"
done
(enter_environment)
folder=${RUN:-runs/sweep-$(date +%Y%m%d-%H%M%S)}
mkdir -p "$folder"
cp "$lines" "$folder/settings.txt" # what the tasks read, even if the file changes meanwhile
job=$(SWEEP=$(realpath "$folder/settings.txt") sbatch --parsable --job-name=sweep \
  --array="$(IFS=,; echo "${numbers[*]}")" --output="$folder/%x-%A-%a.log" "${options[@]}" "$home/slurm/train.sh" "${arguments[@]}")
runs=()
for number in "${numbers[@]}"; do runs+=("$folder/$(printf '%04d' "$number")"); done
gather_after sweep "$folder" "afterany:$job" "${runs[@]}"
