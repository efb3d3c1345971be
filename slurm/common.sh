# shellcheck shell=bash
# What the scripts of this folder share: where they are, which Python there is, and how ranks are started.
#
# Read with `source`, after $script and $home have been set. The user sets, in the environment that sbatch passes on:
#   LAUNCHER   srun | mpirun | horovodrun      (mpirun)
#   SIGNAL     USR1 | USR2, what asks ranks to stop   (USR1)
#   MODULES    environment modules to load, such as "gcc/12 openmpi/4.1"   (none)
#   VENV       virtual environment             (.venv of the checkout; empty: Python is the one on PATH)
#   IMAGE      Apptainer image that has hvd_r2n2; replaces VENV            (none)

say() { printf '%s: %s\n' "$(basename "${script:?}")" "$*"; }
stop() { say "error: $1" >&2; exit 2; }

# Every job needs this: a batch script starts with nothing but what sbatch exported.
enter_environment() {
  if [ -n "${MODULES:-}" ]; then
    # shellcheck disable=SC2086  # several modules are several words
    module load $MODULES
  fi
  python=(python)
  if [ -n "${IMAGE:-}" ]; then
    # --nv: the host's driver and GPUs. The launcher is the host's, so its MPI must fit that of the image.
    python=(apptainer exec --nv "$IMAGE" python)
  elif [ -n "${VENV=$home/.venv}" ]; then
    [ -r "$VENV/bin/activate" ] || stop "VENV=$VENV: no virtual environment there (make setup makes one)"
    # shellcheck source=/dev/null
    source "$VENV/bin/activate"
  fi
}

# Replace this shell by the launcher of one rank a task: start_ranks WORDS OF PYTHON
start_ranks() {
  case ${LAUNCHER:-mpirun} in
    srun)
      # Without --kill-on-bad-exit the others would wait for a rank that has gone. Since Slurm 22.05 a step does not
      # take the job's --cpus-per-task over by itself.
      exec srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" "${python[@]}" "$@" ;;
    mpirun)
      # Each rank takes its share of the cores that the job has on a node, so none is bound to one of them.
      exec mpirun -np "$SLURM_NTASKS" --bind-to none "${python[@]}" "$@" ;;
    horovodrun)
      # Over several nodes it wants ssh between them, without a password.
      local hosts
      hosts=$(scontrol show hostnames | sed "s/\$/:$((SLURM_NTASKS / SLURM_NNODES))/" | paste -sd ,)
      exec horovodrun -np "$SLURM_NTASKS" -H "$hosts" "${python[@]}" "$@" ;;
    *) stop "LAUNCHER=$LAUNCHER is not known (use srun, mpirun or horovodrun)" ;;
  esac
}

# Set options and arguments: the words before and after the first --.
# shellcheck disable=SC2034  # the caller reads them
split_words() {
  options=() arguments=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
  [ $# = 0 ] || arguments=("${@:2}")
}

# Refuse an argument of training that the scripts set: refuse_out WORD…
refuse_out() {
  local word
  for word in "$@"; do
    case $word in
      --out | --out=*) stop "--out: set RUN instead, before the script or sbatch (RUN=/my/run …)" ;;
    esac
  done
}

# Submit the job that gathers runs: gather_after NAME FOLDER DEPENDENCY RUN…
gather_after() {
  local name=$1 folder=$2 dependency=$3 command
  shift 3
  enter_environment
  local results=$folder/$name
  printf -v command '%q ' "${python[@]}" -m hvd_r2n2.gather "$@" --json "$results.json" --picture "$results.png"
  # With the user's options, an account or a partition among them, but for one task and no GPU.
  sbatch --parsable "${options[@]}" --job-name="$name-gather" --dependency="$dependency" --nodes=1 --ntasks=1 \
    --ntasks-per-node=1 --gres=none --time=10 --output="$folder/gather.log" --wrap="$command" >/dev/null ||
    stop "gathering: sbatch has refused; jobs that are there already: ${dependency#*:} (scancel ends them)"
  say "results will be in $results.json, $results.png and $folder/gather.log"
}
