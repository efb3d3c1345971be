"""How ranks talk: names, what is missing for slow lines, and real lines, which leave nothing behind."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hvd_r2n2.measuring import networks
from hvd_r2n2.measuring.networks import check_network, rank_command, rank_environment, rate_of, why_not


def links() -> str:
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout


def test_rates_are_of_lines_alone() -> None:
    assert [rate_of(name) for name in ("memory", "tcp", "1gbit", "100mbit")] == [None, None, 125e6, 12.5e6]
    assert rank_environment("memory") == {}
    assert rank_environment("tcp")["OMPI_MCA_btl"] == "tcp,self"


@pytest.mark.parametrize("name", ["infiniband", "0gbit", "1gbit; true", "1kbit", "5mbit", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="write memory, tcp, or the rate of a line, such as 1gbit or 100mbit"):
        check_network(name)


def test_what_is_missing_for_lines_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not("memory", 8) is why_not("tcp", 8) is None
    monkeypatch.setattr(networks.os, "geteuid", lambda: 1000)
    assert "needs root" in str(why_not("1gbit", 2))
    monkeypatch.setattr(networks.os, "geteuid", lambda: 0)
    monkeypatch.setattr(networks.shutil, "which", lambda tool: None if tool == "tc" else tool)
    assert str(why_not("1gbit", 2)).startswith("tc not found")


def test_each_rank_has_a_slow_line_and_nothing_is_left(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("slow lines need root and iproute2")
    reason = why_not("100mbit", 2)
    if reason is not None:
        pytest.skip(reason)
    before = links()
    for rank in range(2):
        # Stays until its rank has ended, as mpirun does: the bridge goes with the last process of its network.
        mpirun = ("sh", "-c", f'OMPI_COMM_WORLD_RANK={rank} "$@"; exit $?', "mpirun")
        script = "ip -o -4 addr show dev eth0; tc qdisc show dev eth0"
        command = rank_command("100mbit", mpirun, 2, ("sh", "-c", script), tmp_path / "net")
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"10.77.1.{rank + 1}/16" in shown
        assert "tbf" in shown
        assert "rate 100Mbit" in shown
    assert links() == before
