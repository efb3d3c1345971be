#!/usr/bin/env bash
# Train on a cluster, from any directory; slurm/README.md explains it.
#
#   sbatch [OPTIONS OF sbatch] …/slurm/train.sh [ARGUMENTS OF python -m hvd_r2n2.train]
#
# The run directory is $RUN (runs/NAME-JOB where sbatch was called), the same after every requeue.
# slurm/common.sh says what else may be set: LAUNCHER, SIGNAL, MODULES, VENV, IMAGE.

# What the job is called, in squeue, in its log and in its run directory.
#SBATCH --job-name=hvd_r2n2
# Nodes of the same kind; with more than one, checkout, data and RUN lie on a file system that all of them share.
#SBATCH --nodes=1
# Ranks a node: its GPUs / 2 with a split, its GPUs without, or some where there are none. GPUs are asked for by
# --gres=gpu:GPUS, for the node as a whole: --gpus-per-task hides those of other ranks, and with that direct copies.
#SBATCH --ntasks-per-node=1
# Cores a rank: its loader threads, and all arithmetic where there is no GPU.
#SBATCH --cpus-per-task=4
# Time limit of one piece of the run: it goes on in the next.
#SBATCH --time=24:00:00
# This script gets USR1 two minutes before the limit (and before a preemption, where Slurm has send_user_signal). Time for
# one step, one evaluation on the validation part and one checkpoint must fit in.
#SBATCH --signal=B:USR1@120
# The job may be started again: by this script, or by Slurm after a node has failed.
#SBATCH --requeue
# Its log goes on then, in the same file …
#SBATCH --open-mode=append
# … NAME-JOB.log, where sbatch was called.
#SBATCH --output=%x-%j.log
set -euo pipefail

# Slurm runs a copy of this file; what sbatch was given stands in the job's record, before the arguments. For an array there
# may be hundreds of records: they are read to the end, since a closed pipe would end this script without a word.
script=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *Command=//p' | sed -n 1p)
script=${script%"${*:+ $*}"}
home=$(dirname "$(dirname "$(realpath "$script")")")
# shellcheck source=slurm/common.sh
source "$home/slurm/common.sh"

refuse_out "$@"
run=${RUN:-runs/$SLURM_JOB_NAME-$SLURM_JOB_ID}
settings=()
if [ -n "${SWEEP:-}" ]; then # a task of slurm/sweep.sh: its line of the file, and a run beside the file
  run=$(dirname "$SWEEP")/$(printf '%04d' "$SLURM_ARRAY_TASK_ID")
  read -r -a settings <<<"$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$SWEEP")"
fi
signal=${SIGNAL:-USR1}
asked=no ranks=
# shellcheck disable=SC2329  # a trap calls it
forward() {
  asked=yes
  say "asked to stop: passing it on"
  local target=$ranks
  if [ "${LAUNCHER:-mpirun}" = horovodrun ]; then
    # It would die of it. One rank is enough: rank 0 is on this node, and stands in the lock of its run.
    target=$(sed -n '1s/^process \([0-9]*\) on .*/\1/p' "$run/.lock" 2>/dev/null) || return 0
    grep -qz "^SLURM_JOB_ID=$SLURM_JOB_ID\$" "/proc/$target/environ" 2>/dev/null || return 0
  fi
  [ -z "$target" ] || kill "-$signal" "$target" || true
}
trap forward USR1

# Each start is noted with what it begins at: the checkpoint, and how many different amounts of data the log says were
# still to be made. A start that goes on with the data of the one before says a new one; one that finds them gone, as
# after a cache on another node's disk, says the same again. After four at the same a further start would get no further.
# This is asked before a start, too, since Slurm itself requeues a job that has lost its node.
start_note() {
  local amounts
  amounts=$({ grep -sohE '(making shapes|decoding models): [0-9,]+ of [0-9,]+' "$run/train.log" || true; } |
    sed 's/: .* of / /' | sort -u | wc -l)
  echo "job $SLURM_JOB_ID from $(readlink "$run/checkpoints/last" || echo step-0), $amounts amounts of data"
}
end_if_stuck() {
  local starts
  starts=$(grep -cxF "$(start_note)" "$run/.starts" 2>/dev/null) || return 0
  [ "$starts" -ge 4 ] || return 0
  say "error: $starts starts in a row have made no new checkpoint and got no further with the data, so the job is not started again. --time may be too short" \
    "for a start, some steps and a checkpoint, --signal may leave too little of it for a step and a checkpoint, or a node" \
    "fails each time, for lack of memory, say (each start's line names its nodes). Once that is mended, go on with" \
    "RUN=$run sbatch $script …" >&2
  rm -f "$run/.starts"
  exit 1
}

enter_environment
say "job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), $SLURM_NTASKS rank(s) on $SLURM_JOB_NODELIST, in $run"
end_if_stuck
{ mkdir -p "$run" && start_note >>"$run/.starts"; } || true # what is wrong with the folder, training says
answer_from() { timeout 60 srun --overlap --mpi=none --ntasks-per-node=1 "$@" true; }
all_answer() { [ "$SLURM_NNODES" = 1 ] || answer_from --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES"; }
# After a fault Slurm may hand a node out that has not quite come back: ranks would fail there, as if by their own fault.
tries=10
until [ "$asked" = yes ] || all_answer || [ $((tries -= 1)) = 0 ]; do
  say "not every node answers yet: trying again in 5 s"
  sleep 5
done
start_ranks -m hvd_r2n2.train --resume --out "$run" --set "checkpoint.signal=$signal" "$@" "${settings[@]}" &
ranks=$!
[ "$asked" = no ] || forward # it came while there were no ranks yet

# A trapped signal ends `wait` early: wait again as long as the launcher lives.
status=0
while :; do
  wait "$ranks" && status=0 || status=$?
  kill -0 "$ranks" 2>/dev/null || break
done

# A node that has gone takes its ranks along, and the launcher may notice it long before Slurm does.
has_lost_a_node() {
  [ "$SLURM_NNODES" -gt 1 ] && answer_from --nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" && ! all_answer
}

# 85: training has stopped at our asking, or at somebody else's. After we have asked, any other code but 0 means the
# same: horovodrun makes 1 of all, and a rank that was not listening yet was ended by the signal.
if [ "$status" = 85 ] || { [ "$status" != 0 ] && { [ "$asked" = yes ] || has_lost_a_node; }; }; then
  end_if_stuck
  say "exit code $status: the job is requeued, and goes on in $run"
  scontrol requeue "$SLURM_JOB_ID" && exit 0
  say "Slurm does not requeue this job: go on with RUN=$run sbatch $script …" >&2
  status=85
fi
exit "$status"
