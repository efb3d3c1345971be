"""Checkpoints: whole or not there, checked by sum, restored to the bit."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from hvd_r2n2.comm import Alone, Communicator, JobError
from hvd_r2n2.config import Config, load_config
from hvd_r2n2.models import create_model, voxel_loss_stage
from hvd_r2n2.split import Plan
from hvd_r2n2.training import checkpoint as checkpoints
from hvd_r2n2.training import evaluation_run
from hvd_r2n2.training.checkpoint import (
    LinksError,
    TrainingState,
    find_checkpoint,
    find_newest,
    open_checkpoint,
    point_links,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from hvd_r2n2.training.consistency import parameter_digest
from hvd_r2n2.training.engine import OneDevice
from hvd_r2n2.training.evaluation_run import load_network, open_on_all_ranks
from hvd_r2n2.training.placement import Placement
from hvd_r2n2.training.planning import keep_plan
from tests.thread_ranks import on_ranks

CONFIG = load_config(None, ["model.name=3d-gru-1", "model.width=0.03125", "checkpoint.keep_last=2"])


def engine_of(config: Config = CONFIG, seed: int = 0) -> OneDevice:
    model = create_model(config.model.name, width=config.model.width, seed=seed)
    return OneDevice(config, model, voxel_loss_stage(), Alone())


def move(engine: OneDevice) -> None:
    for number, parameter in enumerate(engine.model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.01 * (number + 1))
    engine.optimizers[0].step()


def keep(folder: Path, engine: OneDevice, state: TrainingState, config: Config = CONFIG) -> Path:
    return write_checkpoint(folder, engine.model, engine.optimizer_tensors(), state, config)


def digest_of(engine: OneDevice) -> str:
    return parameter_digest(engine.model, engine.optimizer_tensors())


def write(folder: Path, step: int, *, best_step: int | None = None) -> OneDevice:
    engine = engine_of()
    for _ in range(step):
        move(engine)
    keep(folder, engine, TrainingState(step, step * 24, 1.5, "digest", 0.25, best_step))
    return engine


def rewrite_state(path: Path, state: str) -> None:
    (path / "state.json").write_text(state)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["state.json"] = {"bytes": len(state), "sha256": hashlib.sha256(state.encode()).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_weights_and_optimizer_come_back_to_the_bit(name: str, tmp_path: Path) -> None:
    config = load_config(None, ["model.name=3d-gru-1", "model.width=0.03125", f"optimizer.name={name}"])
    engine = engine_of(config)
    move(engine)
    path = keep(tmp_path, engine, TrainingState(1, 24, 2.0), config)
    other = engine_of(config, seed=5)
    checkpoint = read_checkpoint(path)
    restore(checkpoint, other)
    assert digest_of(other) == digest_of(engine)
    assert checkpoint.config == config
    assert checkpoint.state == TrainingState(1, 24, 2.0)
    move(engine)
    move(other)
    assert digest_of(other) == digest_of(engine)


@pytest.mark.parametrize("plan", [None, Plan("pipeline", (5, 14, 5), ("encoder.fc7",), 2, "1f1b", bubble_share=0.125)])
def test_chosen_plan_comes_back_and_old_checkpoints_have_none(plan: Plan | None, tmp_path: Path) -> None:
    config = load_config(None, ["model.name=3d-gru-1", "model.width=0.03125", "split.strategy=auto"])
    kept = keep_plan(config, plan, Placement((torch.device("cpu"),) * 2, 1), 1)
    path = keep(tmp_path, engine_of(config), TrainingState(1, 24, 2.0, plan=kept), config)
    checkpoint = read_checkpoint(path)
    assert checkpoint.state.plan == kept
    assert checkpoint.state.plan is not None
    assert checkpoint.state.plan.plan == plan
    assert checkpoint.config == config
    state = json.loads((path / "state.json").read_text())
    del state["plan"]
    rewrite_state(path, json.dumps(state))
    assert read_checkpoint(path).state == TrainingState(1, 24, 2.0)


def test_last_and_best_point_where_they_should_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, step, best_step=1)
    assert {path.name for path in tmp_path.glob("step-*")} == {f"step-{step:08d}" for step in (1, 3, 4)}
    assert (tmp_path / "last").readlink() == Path("step-00000004")
    assert (tmp_path / "best").readlink() == Path("step-00000001")
    assert not list(tmp_path.glob(".partial*"))


def test_what_cannot_be_removed_is_a_warning_and_keeps_its_name_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        write(tmp_path, step)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, ignore_errors: None)  # as for a file that NFS keeps open
        for step in (3, 4, 5):
            write(tmp_path, step)
    left = {path.name for path in tmp_path.glob(".partial*")}
    assert left == {f".partial-old-step-{step:08d}" for step in (1, 2, 3)}
    warned = [f"warning: {tmp_path}: {count} old checkpoint(s)" for count in (1, 2, 3)]
    assert [line.partition(", ")[0] for line in capsys.readouterr().err.splitlines()] == warned
    write(tmp_path, 6)
    assert not capsys.readouterr().err
    assert not list(tmp_path.glob(".partial*"))
    assert {path.name for path in tmp_path.glob("step-*")} == {"step-00000005", "step-00000006"}


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.yaml"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damage_to_any_file_is_found_and_the_one_before_is_taken(name: str, damage: str, tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    file = tmp_path / "step-00000002" / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[len(content) // 2] ^= 4
        file.write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(ValueError, match=f"{name}: damaged"):
        read_checkpoint(tmp_path / "step-00000002")
    warnings: list[str] = []
    newest = find_newest(tmp_path, warnings.append)
    assert newest is not None
    assert newest.step == 1
    assert len(warnings) == 1
    assert name in warnings[0]


def test_nothing_is_nothing_but_only_damaged_ones_are_an_error(tmp_path: Path) -> None:
    assert find_newest(tmp_path, pytest.fail) is None
    write(tmp_path, 1)
    (tmp_path / "step-00000001" / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="none of the 1 checkpoints is whole"):
        find_newest(tmp_path, lambda text: None)


def test_failure_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)

    def no_room(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoints, "_sync", no_room)
    with pytest.raises(OSError, match=r"step-00000002: the checkpoint could not be written \(.*No space left"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and not path.is_symlink()] == ["step-00000001"]
    assert read_checkpoint(tmp_path / "last").step == 1


def test_failure_after_writing_says_that_the_checkpoint_is_whole(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / ".partial-last").mkdir()  # where the new link is made
    with pytest.raises(LinksError, match=r"step-00000002: the checkpoint is written, but .*\.partial-last"):
        write(tmp_path, 2)
    newest = find_newest(tmp_path, pytest.fail)
    assert newest is not None
    assert newest.step == 2


def test_lack_of_memory_while_writing_leaves_nothing_and_a_fault_of_ours_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "to_yaml", lambda config: str(torch.empty(2**55)))
    with pytest.raises(OSError, match=r"step-00000001: the checkpoint could not be written \(.*DefaultCPUAllocator"):
        write(tmp_path, 1)
    monkeypatch.setattr(checkpoints, "to_yaml", lambda config: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_links_lost_in_a_crash_are_set_again(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step, best_step=2)
    (tmp_path / "best").unlink()
    (tmp_path / "last").unlink()
    newest = find_newest(tmp_path, pytest.fail)
    assert newest is not None
    point_links(tmp_path, newest.state)
    assert (tmp_path / "best").readlink() == Path("step-00000002")
    assert (tmp_path / "last").readlink() == Path("step-00000003")


def test_users_path_may_be_a_run_or_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path / "checkpoints", 1, best_step=1)
    write(tmp_path / "checkpoints", 2)
    assert find_checkpoint(tmp_path).name == "step-00000001"
    assert find_checkpoint(tmp_path / "checkpoints" / "last").name == "step-00000002"
    (tmp_path / "checkpoints" / "best").unlink()
    assert find_checkpoint(tmp_path).name == "step-00000002"
    with pytest.raises(ValueError, match="neither a checkpoint .* it does not exist"):
        find_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["flipped", "no manifest"])
def test_damaged_best_of_a_run_is_passed_over_for_the_newest_whole_one(tmp_path: Path, damage: str) -> None:
    for step in (1, 2, 3):
        write(tmp_path / "checkpoints", step, best_step=1)
    best = tmp_path / "checkpoints" / "step-00000001"
    if damage == "flipped":
        content = bytearray((best / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (best / "model.safetensors").write_bytes(content)
    else:
        (best / "manifest.json").unlink()
    warnings: list[str] = []
    assert open_checkpoint(tmp_path, warnings.append).step == 3
    assert len(warnings) == 1
    assert str(best) in warnings[0]
    assert warnings[0].endswith("; taking the newest whole one")
    with pytest.raises(ValueError, match="step-00000001|neither a checkpoint"):  # it was named itself
        open_checkpoint(best, pytest.fail)


def test_every_rank_reads_the_checkpoint_that_rank_0_has_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 1):  # when rank 1 looks, another one is the best
        for step in (1, 2):
            write(tmp_path / str(rank) / "checkpoints", step, best_step=1 + rank)
    found = on_ranks(2, lambda comm: open_on_all_ranks(tmp_path / str(comm.rank), comm, pytest.fail))
    assert [checkpoint.path for checkpoint in found] == [tmp_path / "0" / "checkpoints" / "step-00000001"] * 2

    # The same path on another host, with other weights in it.
    keep(tmp_path / "1" / "checkpoints", engine_of(seed=1), TrainingState(1, 24, 1.5))
    monkeypatch.setattr(
        evaluation_run,
        "read_checkpoint",
        lambda path: read_checkpoint(tmp_path / "1" / path.relative_to(tmp_path / "0")),
    )

    def open_differing(comm: Communicator) -> None:
        with pytest.raises(JobError, match=r"the checkpoint step-00000001 is not the same on all ranks \(rank 0: \w+,"):
            open_on_all_ranks(tmp_path / "0", comm, pytest.fail)

    on_ranks(2, open_differing)


class Second(Alone):
    """Another rank than the first."""

    rank, size = 1, 2


def test_checkpoint_that_is_gone_since_it_was_chosen_is_said_to_be(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = tmp_path / "step-00000001"
    checkpoint = read_checkpoint(path)
    shutil.rmtree(path)
    message = f"{path} is not there any more: a run that is still training replaces its checkpoints"
    with pytest.raises(ValueError, match=message):
        load_network(checkpoint, torch.device("cpu"))
    message = f"{path} is not there on rank 1: all ranks must see the same files, or a run that is still training"
    with pytest.raises(ValueError, match=message):
        open_on_all_ranks(path, Second(), pytest.fail)


@pytest.mark.parametrize(
    "state",
    [
        '{"step": "7"}',
        '{"step": -1}',
        '{"step": true}',
        '{"num_replaced": -1}',
        '{"train_seconds": NaN}',
        '{"data_digest": 1}',
        '{"spikes": {"losses": [1, "x"]}}',
        '{"spikes": {"losses": 7}}',
        '{"spikes": [1]}',
        '{"plan": 7}',
        '{"plan": {"split": {}}}',
        '{"plan": {"split": {"strategy": "sideways"}, "bubble_share": 0.1, "made_for": {}}}',
        '{"plan": {"split": {"micro_batches": 2}, "bubble_share": 0.1, "made_for": {}}}',
        '{"plan": {"split": {"strategy": "auto"}, "bubble_share": 0.1, "made_for": {}}}',
        '{"plan": {"split": {"strategy": "kernel"}, "bubble_share": null, "made_for": {}}}',
        '{"plan": {"split": {"strategy": "pipeline", "micro_batches": 2}, "bubble_share": 0.1, "made_for": {}}}',
        '{"plan": {"split": {}, "bubble_share": "x", "made_for": {}}}',
        "[" * 100_000,
        "7",
    ],
)
def test_state_that_is_none_is_refused(tmp_path: Path, state: str) -> None:
    write(tmp_path, 1)
    path = tmp_path / "step-00000001"
    if state.startswith("{"):
        state = json.dumps(json.loads((path / "state.json").read_text()) | json.loads(state))
    rewrite_state(path, state)
    with pytest.raises(ValueError, match="state.json"):
        read_checkpoint(path)


def test_foreign_folder_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a checkpoint: manifest.json cannot be read"):
        read_checkpoint(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"weights.pt": {}}))
    with pytest.raises(ValueError, match="model.safetensors, .* are needed, it lists weights.pt"):
        read_checkpoint(tmp_path)


def test_optimizer_of_another_network_does_not_fit(tmp_path: Path) -> None:
    write(tmp_path / "small", 1)
    wide = load_config(None, ["model.name=3d-gru-1", "model.width=0.0625"])
    engine = engine_of(wide)
    move(engine)
    keep(tmp_path / "wide", engine, TrainingState(1, 24, 0.0), wide)
    checkpoint = read_checkpoint(tmp_path / "wide" / "step-00000001")
    with pytest.raises(ValueError, match="model.safetensors"):
        restore(checkpoint, engine_of())
    shutil.copy(tmp_path / "small" / "last" / "model.safetensors", checkpoint.weights_path)
    with pytest.raises(ValueError, match=r"optimizer.safetensors: .* has shape"):
        restore(checkpoint, engine_of())
