"""What is there and what follows from it: the findings that `python -m hvd_r2n2.doctor` prints."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import torch

from hvd_r2n2.comm.connect import connect
from hvd_r2n2.comm.launch import find_launcher, launch_environment, launch_facts
from hvd_r2n2.comm.selftest import SelfTest, self_test

_SELF_TEST_LIMIT_S = 60


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    """What."""
    state: Literal["ok", "note", "problem"]
    """`problem`: training with several ranks could not run."""
    text: str
    """What was found."""
    remedy: str = ""
    """What to do about it."""


def diagnose() -> list[Finding]:
    """Look at everything that training needs; under a launcher, together with all of its ranks."""
    findings = [_python(), _torch(), _devices(), _horovod(), _mpi(), _launchers(), _slurm(), _shapes()]
    if not any(finding.state == "problem" for finding in findings):
        findings += _ranks()
    return findings


def _python() -> Finding:
    text = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    return Finding("Python", "ok", text)


def _torch() -> Finding:
    return Finding("torch", "ok", f"{torch.__version__}, CUDA {torch.version.cuda or 'not built in'}")


def _devices() -> Finding:
    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return Finding("devices", "ok", f"{len(names)} GPU(s): {', '.join(names)}; {cores} of {os.cpu_count()} cores")
    text = f"no GPU; {cores} of {os.cpu_count()} cores"
    if torch.version.cuda and shutil.which("nvidia-smi"):
        return Finding(
            "devices", "note", text, "nvidia-smi is there, but torch sees no GPU: is CUDA_VISIBLE_DEVICES set?"
        )
    return Finding("devices", "ok", text)


def _horovod() -> Finding:
    if importlib.util.find_spec("horovod") is None:
        return Finding("Horovod", "problem", "not installed: only one rank can train", "run make setup")
    try:
        hvd = importlib.import_module("horovod.torch")
    except ImportError as error:
        return Finding("Horovod", "problem", f"cannot be loaded: {error}", "build it again: scripts/setup.sh --force")
    controllers = [name for name, built in (("MPI", hvd.mpi_built()), ("Gloo", hvd.gloo_built())) if built]
    operations = [name for name, built in (("NCCL", hvd.nccl_built()), ("CUDA", hvd.cuda_built())) if built]
    text = (
        f"{importlib.metadata.version('horovod')}, controllers {' and '.join(controllers) or 'none'}, "
        f"GPU operations {' and '.join(operations) or 'none'}"
    )
    if not controllers:
        return Finding("Horovod", "problem", text, "build it again: scripts/setup.sh --force")
    if torch.cuda.is_available() and not hvd.cuda_built():
        remedy = "train.device=cpu, or install the CUDA toolkit (nvcc) and run make setup"
        return Finding("Horovod", "problem", f"{text}: several ranks cannot use the GPUs", remedy)
    if torch.cuda.is_available() and not hvd.nccl_built():
        return Finding(
            "Horovod",
            "note",
            text,
            "without NCCL gradients go through host memory: pip install torch's NCCL package, run make setup",
        )
    return Finding("Horovod", "ok", text)


def _mpi() -> Finding:
    try:
        import mpi4py

        mpi4py.rc.initialize = False  # a process on its own must not start MPI
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        return Finding(
            "MPI",
            "note",
            f"cannot be loaded: {str(error).splitlines()[0]}",
            "run make setup; horovodrun --gloo does without",
        )
    version = MPI.Get_library_version().split(",")[0].split("\n")[0]
    text = f"{version}, mpi4py {mpi4py.__version__}"
    if "Open MPI v5" in version:
        return Finding("MPI", "note", text, "horovodrun fails with Open MPI 5: use mpirun, or Open MPI 4.1")
    return Finding("MPI", "ok", text)


def _launchers() -> Finding:
    found = {name: find_launcher(name) for name in ("mpirun", "horovodrun", "srun")}
    text = ", ".join(f"{name} {path}" for name, path in found.items() if path) or "none"
    if not (found["mpirun"] or found["horovodrun"]):
        return Finding("launchers", "problem", text, "run make setup")
    if shutil.which("mpirun") is None and shutil.which("srun") is None:
        return Finding("launchers", "note", text, f"they are not on PATH: source {sys.prefix}/bin/activate")
    if os.geteuid() == 0 and found["mpirun"] and "OMPI_ALLOW_RUN_AS_ROOT" not in os.environ:
        remedy = "as root, mpirun wants: export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"
        return Finding("launchers", "note", text, remedy)
    return Finding("launchers", "ok", text)


def _slurm() -> Finding:
    if shutil.which("sinfo") is None:
        return Finding("Slurm", "ok", "not here")
    job = os.environ.get("SLURM_JOB_ID")
    where = f"in job {job} on {os.environ.get('SLURM_JOB_NODELIST')}" if job else "outside a job"
    return Finding("Slurm", "ok", f"{shutil.which('sbatch')}, {where}")


def _shapes() -> Finding:
    missing = [name for name in ("trimesh", "embreex", "skimage", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        text = f"{', '.join(missing)} missing: no built-in shapes, meshes or F-score"
        return Finding("extras", "note", text, "pip install 'hvd_r2n2[shapes]'")
    return Finding("extras", "ok", "built-in shapes and meshes can be made")


def _ranks() -> list[Finding]:
    launch = launch_facts()
    if launch.size > 1:
        communicator = connect()
        result = self_test(communicator)
        communicator.close()
        return _of_self_test(result, launch.launcher, "problem")
    return _trial_launch()


def _trial_launch() -> list[Finding]:
    """Start two ranks here, as a user would, and let them test themselves."""
    launcher = next(name for name in ("mpirun", "horovodrun") if find_launcher(name))
    command = [str(find_launcher(launcher)), "-np", "2", sys.executable, "-m", "hvd_r2n2.comm.selftest"]
    if launcher == "mpirun":
        command[1:1] = ["--oversubscribe"]
    process = subprocess.Popen(
        command,
        env=launch_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    remedy = f"see what it says: {' '.join(command)}"
    try:
        out, err = process.communicate(timeout=_SELF_TEST_LIMIT_S)
    except subprocess.TimeoutExpired:
        return [Finding("2 ranks", "problem", f"no answer within {_SELF_TEST_LIMIT_S} s", remedy)]
    finally:
        if process.returncode is None:  # no answer, or this process is to end
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    line = next((line[line.index("{") :] for line in out.splitlines() if '"is_right"' in line), None)
    if process.returncode or line is None:
        return [Finding("2 ranks", "problem", f"exit code {process.returncode}: {err.strip()[-500:]}", remedy)]
    values = json.loads(line)
    return _of_self_test(SelfTest(**(values | {"places": tuple(values["places"])})), f"{launcher} -np 2", "note")


def _of_self_test(result: SelfTest, launcher: str, without_devices: Literal["note", "problem"]) -> list[Finding]:
    """Turn the result into findings; ranks for which the GPUs do not go round are `without_devices`."""
    subject, kind = f"{result.ranks} ranks", "GPU" if result.device == "cuda" else "CPU"
    verdict = "right" if result.is_right else "WRONG"
    text = f"{launcher}: {kind} allreduce is {verdict}, {result.description}"
    if not result.is_right:
        return [Finding(subject, "problem", text, "build Horovod again: scripts/setup.sh --force")]
    findings = [Finding(subject, "ok", text), *(Finding("", "ok", place) for place in result.places)]
    if result.complaint:
        findings.append(Finding("", without_devices, f"training would not start so: {result.complaint}"))
    return findings


def start_command() -> str:
    """Return a command that trains on what is here: on GPUs, one rank has one."""
    return "python -m hvd_r2n2.train" if torch.cuda.device_count() == 1 else "horovodrun -np 2 python -m hvd_r2n2.train"
