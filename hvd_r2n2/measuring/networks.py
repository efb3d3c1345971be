"""How ranks on this machine talk: through its memory, over TCP, or each over a slow line of its own.

A line is a pair of `veth` interfaces whose rate a token bucket limits (`tc … tbf`), one in a network namespace of the
rank, the other at a bridge that all ranks share. Only the rate is shaped: latency would need `netem`, which not every
kernel has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hvd_r2n2.comm import SEGMENTED_RING

MEMORY, TCP = "memory", "tcp"
_RATE = re.compile(r"[1-9]\d{1,4}mbit|[1-9]\d{0,2}gbit")
_TOOLS = ("unshare", "nsenter", "ip", "tc", "sh")
_TCP = {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "tcp,self"}
_SECONDS_FOR_A_TRIAL = 20

# $1 ranks, $2 rate, $3 prefix of files that name their networks; the rest is run in a network that all of them reach.
# All of it is inside namespaces of this process: nothing outside changes, and all is gone when the last one ends.
_SETUP = """\
set -e
ranks=$1 rate=$2 files=$3; shift 3
ip link set lo up
ip link add br0 type bridge
ip addr add 10.77.0.1/16 dev br0
ip link set br0 up
rank=0
while [ $rank -lt $ranks ]; do
  touch $files$rank
  unshare --net=$files$rank true
  inside="nsenter --net=$files$rank"
  $inside ip link add eth0 type veth peer name veth$rank netns $$
  ip link set veth$rank master br0 up
  $inside ip link set lo up
  $inside ip addr add 10.77.1.$((rank + 1))/16 dev eth0
  $inside ip link set eth0 up
  $inside tc qdisc add dev eth0 root tbf rate $rate burst 256kb limit 4mb
  rank=$((rank + 1))
done
exec "$@"
"""
_ENTER = 'files=$0; exec nsenter --net="$files$OMPI_COMM_WORLD_RANK" "$@"'
_LINE = {
    **_TCP,
    **SEGMENTED_RING,  # as between hosts
    "OMPI_MCA_btl_tcp_if_include": "eth0",
    # mpirun is on the bridge, not on its ranks' loopback.
    "PMIX_MCA_ptl_tcp_remote_connections": "1",
    "PMIX_MCA_ptl_tcp_if_include": "br0",
}


def check_network(name: str) -> None:
    """Raise a ValueError unless ranks can be asked to talk so: `memory`, `tcp`, or a rate such as `100mbit`."""
    if name not in (MEMORY, TCP) and not _RATE.fullmatch(name):
        raise ValueError(
            f"network {name!r}: write {MEMORY}, {TCP}, or the rate of a line, such as 1gbit or 100mbit (from 10mbit)"
        )


def rate_of(name: str) -> float | None:
    """Return the rate of a slow line in bytes/s; None for what is as fast as it can be."""
    if name in (MEMORY, TCP):
        return None
    return int(name[:-4]) * {"m": 1e6, "g": 1e9}[name[-4]] / 8


def rank_environment(name: str) -> Mapping[str, str]:
    """Return the environment in which mpirun's ranks talk so; for memory that of mpirun's own choice."""
    return {MEMORY: {}, TCP: {**_TCP, "OMPI_MCA_btl_tcp_if_include": "lo"}}.get(name, _LINE)


def rank_command(name: str, mpirun: Sequence[str], num_ranks: int, rank: Sequence[str], files: Path) -> list[str]:
    """Return the command that starts ranks which talk so.

    Args:
        name: of the network.
        mpirun: with its options.
        num_ranks: how many it starts.
        rank: what each one runs.
        files: a path from which names of files are made, of which each stands for the network of a rank.
    """
    if rate_of(name) is None:
        return [*mpirun, *rank]
    return [*_with_lines(num_ranks, name, files), *mpirun, "sh", "-c", _ENTER, str(files), *rank]


def why_not(name: str, num_ranks: int) -> str | None:
    """Say why ranks cannot talk so on this machine; None if they can. Lines are tried."""
    if rate_of(name) is None:
        return None
    if os.geteuid() != 0:
        return "a line is made slow in network namespaces, which needs root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not found (Debian: apt-get install iproute2 util-linux)"
    with tempfile.TemporaryDirectory(prefix="hvd_r2n2-") as folder:
        command = [*_with_lines(num_ranks, name, Path(folder) / "net"), "true"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS_FOR_A_TRIAL, check=False)
        except subprocess.TimeoutExpired:
            return f"making {num_ranks} lines took more than {_SECONDS_FOR_A_TRIAL} s"
    if done.returncode:
        return (
            f"lines could not be made: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no reason'}"
        )
    return None


def _with_lines(num_ranks: int, rate: str, files: Path) -> list[str]:
    return ["unshare", "--net", "--mount", "sh", "-c", _SETUP, "sh", str(num_ranks), rate, str(files)]
