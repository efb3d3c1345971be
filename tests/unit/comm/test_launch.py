"""Launch facts from the environments that launchers really make."""

from __future__ import annotations

import pytest

from hvd_r2n2.comm import Launch, connect, launch_environment, launch_facts


def test_plain_python_is_one_rank() -> None:
    assert launch_facts({"PATH": "/bin"}) == Launch("python", 0, 1, 0, 1)


def test_open_mpi() -> None:
    names = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")
    environment = {f"OMPI_COMM_WORLD_{name}": value for name, value in zip(names, "3412", strict=True)}
    assert launch_facts(environment) == Launch("mpirun", 3, 4, 1, 2)
    assert launch_facts(environment).is_mpi


def test_gloo_comes_before_a_surrounding_mpi() -> None:
    environment = {
        "HOROVOD_RANK": "1",
        "HOROVOD_SIZE": "2",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": "0",
        "OMPI_COMM_WORLD_SIZE": "1",
    }
    launch = launch_facts(environment)
    assert launch == Launch("horovodrun --gloo", 1, 2, 1, 2)
    assert not launch.is_mpi


def test_slurm_with_tasks_of_several_nodes() -> None:
    environment = {
        "PMIX_RANK": "5",
        "SLURM_STEP_NUM_TASKS": "6",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "2(x3)",
    }
    assert launch_facts(environment) == Launch("srun", 5, 6, 1, 2)


def test_contradicting_variables_are_refused() -> None:
    environment = {"HOROVOD_RANK": "2", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "0", "HOROVOD_LOCAL_SIZE": "1"}
    with pytest.raises(ValueError, match="HOROVOD_RANK=2 does not fit HOROVOD_SIZE=2"):
        launch_facts(environment)
    with pytest.raises(ValueError, match="HOROVOD_RANK='x'"):
        launch_facts(environment | {"HOROVOD_RANK": "x"})


def test_batch_script_of_a_job_of_many_tasks_is_one_rank() -> None:
    # What sbatch -N 2 -n 2 gave (Slurm 22.05): the job has tasks, and the script is not a step of them.
    environment = {
        "SLURM_JOB_ID": "2",
        "SLURM_NTASKS": "2",
        "SLURM_NPROCS": "2",
        "SLURM_TASKS_PER_NODE": "1(x2)",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    assert launch_facts(environment) == Launch("python", 0, 1, 0, 1)


def test_shell_of_one_task_is_one_rank() -> None:
    environment = {"SLURM_NTASKS": "8", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}
    assert launch_facts(environment) == Launch("python", 0, 1, 0, 1)
    assert launch_facts({"PMI_SIZE": "1", "PMI_RANK": "0"}) == Launch("python", 0, 1, 0, 1)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"},
            r"srun started 4 processes \(SLURM_STEP_NUM_TASKS\), but not",
        ),
        ({"PMI_SIZE": "2", "PMI_RANK": "0"}, r"another MPI's launcher started 2 processes \(PMI_SIZE\), but not"),
        ({"PMIX_RANK": "0"}, r"a PMIx launcher started this process \(PMIX_RANK=0\), but not"),
    ],
)
def test_processes_that_would_each_train_alone_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=f"{message} as ranks of Open MPI: use mpirun, horovodrun, or srun --mpi=pmix"):
        launch_facts(environment)


def test_process_on_its_own_connects_to_nobody() -> None:
    communicator = connect()
    assert (communicator.rank, communicator.size, communicator.is_root) == (0, 1, True)
    assert communicator.all_gather_object("x") == ["x"]
    assert communicator.broadcast_object("y") == "y"
    communicator.close()


def test_what_a_launcher_told_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
    monkeypatch.setenv("OMPI_MCA_btl", "self,vader")
    environment = launch_environment()
    assert launch_facts(environment) == Launch("python", 0, 1, 0, 1)
    assert environment["OMPI_MCA_btl"] == "self,vader"


MPIRUN = {f"OMPI_COMM_WORLD_{name}": value for name, value in (("RANK", "0"), ("SIZE", "2"))} | {
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}


def test_fewer_ranks_than_the_job_has_tasks_are_refused() -> None:
    message = r"mpirun started 2 rank\(s\), but Slurm gave this job 4 task\(s\) \(SLURM_NTASKS\): start one rank a task"
    with pytest.raises(ValueError, match=message):
        launch_facts(MPIRUN | {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"})
    assert launch_facts(MPIRUN | {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}).size == 2


def test_tasks_of_the_helper_that_mpirun_starts_on_another_node_mean_nothing() -> None:
    # What a rank on the second node of `mpirun -np 2` has (Slurm 22.05): the step is that of orted.
    step = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}
    assert launch_facts(MPIRUN | step).size == 2


def test_elastic_launch_is_refused() -> None:
    environment = {"HOROVOD_ELASTIC": "1", "HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}
    with pytest.raises(ValueError, match=r"elastic mode .* leave out --min-np, --max-np and --host-discovery-script"):
        launch_facts(environment)
