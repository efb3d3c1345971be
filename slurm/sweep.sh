#!/usr/bin/env bash
# Train once for each line of a file, as one job array, and gather the runs when all have ended.
#
#   slurm/sweep.sh FILE [OPTIONS OF sbatch] -- [ARGUMENTS OF python -m hvd_r2n2.train]
#
# Started by hand where sbatch is. Results: runs/sweep-TIME/sweep.json, .png, and the table in gather.log.
# A line of FILE holds further arguments, such as: --set train.seed=3 --set train.dtype=float32
# Words are parted by spaces; there are no quotes. Empty lines and those that begin with # do not count.
#   RUN=FOLDER         where runs and results go                    (runs/sweep-TIME)
set -euo pipefail
script=${BASH_SOURCE[0]}
home=$(dirname "$(dirname "$(realpath "$script")")")
# shellcheck source=slurm/common.sh
source "$home/slurm/common.sh"

lines=${1:?"a file with a line of arguments for each run"}
[ -f "$lines" ] && [ -r "$lines" ] || stop "$lines: no file that can be read"
split_words "${@:2}"
# shellcheck disable=SC2046  # its words
refuse_out "${arguments[@]}" $(grep -oE -- '--out[^[:space:]]*' "$lines" || true)
wanted=$(grep -vE '^[[:space:]]*(#|$)' "$lines") || stop "$lines: no lines with arguments"
enter_environment
folder=${RUN:-runs/sweep-$(date +%Y%m%d-%H%M%S)}
mkdir -p "$folder"
echo "$wanted" >"$folder/settings.txt" # what the tasks read, even if the file changes meanwhile
count=$(grep -c '' "$folder/settings.txt")
job=$(SWEEP=$(realpath "$folder/settings.txt") sbatch --parsable --job-name=sweep \
  --array="1-$count" --output="$folder/%x-%A-%a.log" "${options[@]}" "$home/slurm/train.sh" "${arguments[@]}")
runs=()
for ((number = 1; number <= count; number++)); do runs+=("$folder/$(printf '%04d' "$number")"); done
gather_after sweep "$folder" "afterany:$job" "${runs[@]}"
