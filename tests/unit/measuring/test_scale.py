"""`plan scale` from its words to its files."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from hvd_r2n2.config import load_config
from hvd_r2n2.measuring import step_costs
from hvd_r2n2.measuring.report import write_json
from hvd_r2n2.measuring.scale import assume_workload
from hvd_r2n2.models import create_model
from hvd_r2n2.plan import main
from hvd_r2n2.scaling.calibration import KIND, VERSION
from hvd_r2n2.scaling.comparison import PLAIN, Conditions, predict_row
from hvd_r2n2.scaling.links import find_cluster
from hvd_r2n2.scaling.overlap import Fusion
from hvd_r2n2.split.costs import Costs
from hvd_r2n2.split.planner import ONE_DEVICE, Job, Wanted
from hvd_r2n2.training import machine_costs, planning

SMALL = ("--set", "model.width=0.05", "--set", "train.batch_size=2", "--set", "train.max_views=2")
EFFORT = ("--measure-steps", "1", "--measure-seconds", "1", "--set", "train.device=cpu")


def test_counted_costs_are_the_arithmetic_over_the_rate() -> None:
    config = load_config(None, ["model.width=1", "train.min_views=3", "train.max_views=3", "train.tf32=false"])
    workload = assume_workload(config, "h100", 0.5)
    forward_s = sum(layer.forward_s for layer in workload.layers(1))
    assert forward_s == pytest.approx(2 * (10.54 + 3 * 4.26) * 1e9 / 33.5e12, rel=1e-3)
    parameters = create_model("res3d-gru-3", width=1).parameters()
    assert workload.gradient_bytes == 4 * sum(parameter.numel() for parameter in parameters)


@pytest.mark.parametrize(
    ("device", "settings", "kind", "peak"),
    [
        ("h100", (), "tf32", 494.7),
        ("a100", (), "tf32", 156),
        ("h100", ("train.tf32=false",), "float32", 67),
        ("v100", (), "float32", 15.7),
        ("h100", ("train.dtype=bfloat16",), "bfloat16", 989),
        ("h100", ("train.dtype=float64",), "float64", 34),
    ],
)
def test_arithmetic_is_that_of_the_settings(device: str, settings: tuple[str, ...], kind: str, peak: float) -> None:
    # NVIDIA's data sheets: dense TFLOP/s; GPUs before the A100 have no TF32.
    source = assume_workload(load_config(None, ("model.width=0.05", *settings)), device, 1.0).source
    assert source == f"counted; assumed: 100% of the published {kind} peak of {device}, {peak:.3g} TFLOP/s"


@pytest.mark.parametrize("setting", ["train.dtype=float64", "model.name=alexnet"])
def test_costs_are_counted_for_every_type_and_network(setting: str) -> None:
    workload = assume_workload(load_config(None, ["model.width=0.1", setting]), "h100", 0.5)
    assert all(layer.forward_s > 0 for layer in workload.layers(1) if layer.gradients)


def test_gradients_of_cuda_graphs_leave_after_the_whole_backward_pass() -> None:
    plain, graphed = (
        assume_workload(
            load_config(None, ("model.width=1", "train.batch_size=8", f"train.cuda_graphs={value}")), "p100", 0.5
        )
        for value in ("false", "true")
    )
    first, *others = graphed.layers(1)
    in_backward_order = [size for layer in reversed(plain.layers(1)) for size in layer.gradients]
    assert list(first.gradients) == in_backward_order
    assert not any(layer.gradients for layer in others)
    conditions = Conditions(find_cluster("nvlink4+ndr"), fusion=Fusion(0, 0.0))
    hidden, exposed = (predict_row(one, conditions, "strong", PLAIN, 8).step for one in (plain, graphed))
    assert hidden.exposed_s < 0.1 * hidden.communication_s
    assert exposed.exposed_s == pytest.approx(exposed.communication_s)


def test_costs_are_measured_written_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    costs, first, again = (str(tmp_path / name) for name in ("costs.json", "first.json", "again.json"))
    main(["scale", *SMALL, *EFFORT, "--ranks", "1..2", "--save-costs", costs, "--json", first])
    main(["scale", "--ranks", "1..2", "--costs", costs, "--json", again, "--price", "3"])
    found, read = (json.loads(Path(name).read_text()) for name in (first, again))
    assert [row["step"] for row in found["rows"]] == [row["step"] for row in read["rows"]]
    assert {row["arrangement"] for row in read["rows"]} == {"data parallel", "split ranks"}
    assert all(row["cost"] == pytest.approx(3 * row["device_hours"]) for row in read["rows"])
    assert "efficiency" in capsys.readouterr().out
    assert read["workload"] == found["workload"]
    assert (read["workload"]["batch_size"], read["workload"]["images_per_sample"]) == (2, 1.5)
    assert read["settings"].keys() == {"horovod"}
    written = json.loads(Path(costs).read_text())
    assert written["settings"] == found["settings"]
    assert all(content.keys() >= {"command", "date", "hardware", "versions"} for content in (found, read, written))


def test_costs_that_cannot_be_written_do_not_take_the_prediction_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, costs = tmp_path / "found.json", tmp_path / ("c" * 250)  # with .partial too long
    with pytest.raises(OSError, match="File name too long"):
        main(["scale", *SMALL, "--device", "h100", "--ranks", "2", "--save-costs", str(costs), "--json", str(found)])
    assert json.loads(found.read_text())["rows"]
    assert "efficiency" in capsys.readouterr().out


def test_gain_of_a_split_is_that_of_the_fastest_that_the_settings_allow_and_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[Wanted] = []

    def ranked(job: Job, costs: Costs, given: Wanted) -> SimpleNamespace:
        wanted.append(given)
        found = ((ONE_DEVICE, 3.0, True), ("spatial", 1.0, False), ("spatial", 2.0, True))
        names = ("name", "step_s", "fits")
        return SimpleNamespace(predictions=[SimpleNamespace(**dict(zip(names, one, strict=True))) for one in found])

    monkeypatch.setattr(step_costs, "rank", ranked)
    monkeypatch.setattr(planning, "rank", None)  # nothing is ranked that is not used
    path = tmp_path / "found.json"
    split = ("--set", "split.strategy=spatial", "--set", "split.micro_batches=1")
    main(["scale", *SMALL, *EFFORT, *split, "--ranks", "1..2", "--json", str(path)])
    assert json.loads(path.read_text())["workload"]["split_speedups"] == {"1": 1.5, "2": 1.5}
    assert [(one.strategies, one.micro_batches) for one in wanted] == [(("spatial",), 1)] * 2


def why_not_split(path: Path, *words: str) -> str:
    main(["scale", *SMALL, *words, "--ranks", "2", "--json", str(path)])
    return str(json.loads(path.read_text())["left_out"]["strong, split ranks, 2 device(s)"])


def test_costs_with_cuda_graphs_are_of_one_device_and_stay_so_in_their_file(tmp_path: Path) -> None:
    costs, found = str(tmp_path / "costs.json"), tmp_path / "found.json"
    graphs = ("--set", "train.cuda_graphs=true", "--measure-steps", "1", "--measure-seconds", "1")
    assert why_not_split(found, *graphs, "--save-costs", costs) == "train.cuda_graphs is for one device a rank"
    content = json.loads(found.read_text())["workload"]
    assert re.match(r"measured on (cpu|cuda):0 of .*, without CUDA graphs$", content["source"])
    assert content["cuda_graphs"]
    for words in (("--costs", costs), (*SMALL, *graphs)):
        with pytest.raises(ValueError, match=r"--split-speedup: train\.cuda_graphs is for one device a rank"):
            main(["scale", *words, "--split-speedup", "1.5"])
    main(["scale", "--costs", costs, "--ranks", "2", "--json", str(found)])
    left_out = json.loads(found.read_text())["left_out"]
    assert left_out["strong, split ranks, 2 device(s)"] == "train.cuda_graphs is for one device a rank"


def test_why_no_split_is_predicted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "found.json"
    assert why_not_split(path, "--device", "h100").startswith("what a split gains is not known: measure it here, or")
    monkeypatch.setattr(machine_costs, "memory_of", lambda devices, ranks_of_host: (1, True))
    assert why_not_split(path, *EFFORT).startswith("no split of 2 sample(s) fits into the memory that was found (give")


def test_settings_that_costs_of_a_file_do_not_go_by_are_refused(tmp_path: Path) -> None:
    costs, found = str(tmp_path / "costs.json"), tmp_path / "found.json"
    main(["scale", *SMALL, "--device", "h100", "--ranks", "2", "--save-costs", costs])
    with pytest.raises(ValueError, match=r"--costs: .*, --set train\.batch_size=36 would be ignored"):
        main(["scale", "--costs", costs, "--set", "train.batch_size=36"])
    with pytest.raises(ValueError, match=r"--costs: .*, --config demo\.yaml, --set model\.width=1 would be ignored"):
        main(["scale", "--costs", costs, "--config", "demo.yaml", "--set", "model.width=1"])
    main(["scale", "--costs", costs, "--set", "horovod.cycle_time_ms=5", "--ranks", "2", "--json", str(found)])
    content = json.loads(found.read_text())
    assert content["assumptions"]["fusion"]["cycle_s"] == 5e-3
    assert content["settings"]["horovod"]["cycle_time_ms"] == 5


def fusion_and_rows(path: Path, *words: str) -> tuple[dict[str, float], list[dict[str, object]]]:
    main(["scale", *SMALL, "--device", "h100", "--ranks", "16", "--json", str(path), *words])
    content = json.loads(path.read_text())
    return content["assumptions"]["fusion"], content["rows"]


def test_fusion_and_cycles_are_those_of_the_settings(tmp_path: Path) -> None:
    default, rows = fusion_and_rows(tmp_path / "default.json")
    assert default == {"threshold_bytes": 128 * 2**20, "cycle_s": 1e-3}
    given = ("--set", "horovod.fusion_threshold_mib=0", "--set", "horovod.cycle_time_ms=5")
    found, others = fusion_and_rows(tmp_path / "given.json", *given)
    assert found == {"threshold_bytes": 0, "cycle_s": 5e-3}
    assert others != rows


def test_fusion_and_cycles_are_by_default_those_of_the_calibrated_ranks(tmp_path: Path) -> None:
    links = {"memory": {"latency_s": 1e-5, "line_bytes_per_s": 1e9, "call_s": 0, "lanes": 2, "processor_share": 1}}
    links["memory"]["hop_s"] = 1e-4
    path = tmp_path / "calibration.json"
    fusion = {"threshold_bytes": 0, "cycle_s": 2e-3}
    path.write_text(json.dumps({"kind": KIND, "version": VERSION, "links": links, "fusion": fusion}))
    words = ("--network", "memory+memory", "--calibration", str(path))
    assert fusion_and_rows(tmp_path / "found.json", *words)[0] == fusion
    found, _ = fusion_and_rows(tmp_path / "found.json", *words, "--set", "horovod.fusion_threshold_mib=8")
    assert found == {"threshold_bytes": 8 * 2**20, "cycle_s": 2e-3}


def no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_what_is_written_is_json(tmp_path: Path) -> None:
    path = tmp_path / "scale.json"
    main(["scale", *SMALL, "--device", "h100", "--ranks", "16", "--json", str(path)])
    content = json.loads(path.read_text(), parse_constant=no_json)
    assert content["assumptions"]["cluster"]["inside"]["lanes"] is None


def test_infinite_figure_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"found\.json: .*not JSON compliant"):
        write_json(tmp_path / "found.json", {"step_s": math.inf})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--device", "h100"], ["--check"], ["--calibrate"], []])
def test_ranks_that_would_all_do_the_same_are_refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("SIZE", "2"), ("LOCAL_RANK", "1"), ("LOCAL_SIZE", "2")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    with pytest.raises(ValueError, match="start it without mpirun, horovodrun or srun"):
        main(["scale", *SMALL, *words])


def test_check_prints_published_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["scale", "--check", "--json", str(tmp_path / "check.json")])
    assert "VGG-16" in capsys.readouterr().out
    content = json.loads((tmp_path / "check.json").read_text())
    assert len(content["checks"]) == 12
    assert content.keys() >= {"command", "date", "hardware", "versions"}


def test_mixture_is_said_to_be_a_prediction_only(capsys: pytest.CaptureFixture[str]) -> None:
    main(["scale", *SMALL, "--device", "h100", "--split-speedup", "1.5", "--ranks", "2"])
    assert "mixture: a prediction only" not in capsys.readouterr().out
    main(["scale", *SMALL, "--device", "h100", "--split-speedup", "1.5", "--ranks", "4"])
    assert "mixture: a prediction only" in capsys.readouterr().out


def test_picture_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "scale.png"
    main(["scale", *SMALL, "--device", "h100", "--ranks", "1..4", "--picture", str(picture)])
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "words", [("--rounds", "3"), ("--device-share", "0.5"), ("--networks", "tcp"), ("--warmup", "2")]
)
def test_words_that_would_be_ignored_are_refused_by_a_measurement(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"{words[0]}: would be ignored, it only goes with --(calibrate|device) "):
        main(["scale", *SMALL, *words])


@pytest.mark.parametrize("mode", [("--check",), ("--calibrate",)])
@pytest.mark.parametrize(
    "words",
    [
        ("--save-costs", "costs.json"),
        ("--network", "nvlink4+ndr"),
        ("--split-speedup", "1.5"),
        ("--spread", "0.02"),
        ("--price", "0"),
        ("--calibration", "calibration.json"),
    ],
)
def test_words_of_a_prediction_are_refused_where_nothing_is_predicted(
    mode: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{words[0]}: would be ignored, it only goes with costs measured here or "):
        main(["scale", *mode, *words])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "h101"], r"device 'h101' is not known, did you mean h"),
        (["--device", "p100", "--set", "train.dtype=bfloat16"], r"no published peak for train\.dtype=bfloat16"),
        (["--device", "h100", "--device-share", "2"], r"--device-share 2 is not possible"),
        (["--device", "h100", "--spread", "-1"], r"--spread -1 is not possible"),
        (["--device", "h100", "--price", "0"], r"--price 0 is not possible"),
        (["--device", "h100", "--algorithm", "rings"], r"algorithm 'rings' is not known, did you mean ring"),
        (["--device", "h100", "--network", "shm+loopback", "--algorithm", "tree"], r"tree: is NCCL's, .* \(use ring\)"),
        (
            ["--device", "h100", "--split-speedup", "1.5", "--set", "train.cuda_graphs=true"],
            r"--split-speedup: train\.cuda_graphs is for one device a rank",
        ),
        (["--device", "h100", "--network", "nvlink4+ndrr"], r"did you mean ndr"),
        (["--device", "h100", "--devices-per-node", "0"], r"0 devices per node"),
        (["--device", "h100", "--costs", "x.json"], r"leave the other out"),
        (["--device", "h100", "--json", "nowhere/x.json"], r"nowhere/x\.json cannot be written: there is no directory"),
        (
            ["--device", "h100", "--measure-steps", "2"],
            r"--measure-steps: would be ignored, .* or --calibrate \(leave it",
        ),
        (
            ["--device", "h100", "--set", "split.strategy=spatial"],
            r"--device: measures no split, split\.strategy would be",
        ),
        (
            ["--calibrate", "--set", "split.strategy=kernel"],
            r"--calibrate: measures no split, split\.strategy would be",
        ),
        (
            ["--costs", "x.json", "--device-share", "0.5"],
            r"--device-share: would be ignored, it only goes with --device",
        ),
        (["--calibrate", "--check"], r"--check and --calibrate: .* leave the other out"),
        (["--calibrate", "--device", "h100"], r"--calibrate and --device: .* leave the other out"),
        (["--check", "--ranks", "1..8"], r"--ranks: would be ignored"),
        (["--check", "--set", "train.steps=3"], r"--set: would be ignored"),
        (["--check", "--picture", "x.png"], r"--picture: draws a prediction, not what --check"),
        (["--calibrate", "--ranks", "1"], r"--ranks: calibrating needs 2 ranks or more"),
        (["--calibrate", "--networks", "memory,ib"], r"network 'ib': write memory, tcp, or the rate of a line"),
        (["--calibrate", "--rounds", "0"], r"--rounds 0 is not possible"),
        (["--calibrate", "--set", "train.batch_size=6"], r"6 cannot be divided evenly over 4 rank"),
        (
            ["--calibrate", "--set", "horovod.fusion_threshold_mib=8"],
            r"horovod\.fusion_threshold_mib=8 is not possible",
        ),
    ],
)
def test_wrong_words_are_named(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        main(["scale", *words])


def test_calibration_refuses_variables_that_go_before_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOROVOD_FUSION_THRESHOLD", "0")
    with pytest.raises(ValueError, match=r"--calibrate: HOROVOD_FUSION_THRESHOLD: would go before .* horovod"):
        main(["scale", "--calibrate"])
