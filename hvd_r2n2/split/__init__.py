"""Splits a network's stages over the local devices of one rank: strategies, programs, executor."""

from hvd_r2n2.split.executor import Options as SplitOptions
from hvd_r2n2.split.network import STRATEGIES, Plan, SplitNetwork
from hvd_r2n2.split.program import TaskTime
from hvd_r2n2.split.shards import Shard, put, take
from hvd_r2n2.split.simulation import busy_shares

__all__ = ["STRATEGIES", "Plan", "Shard", "SplitNetwork", "SplitOptions", "TaskTime", "busy_shares", "put", "take"]
