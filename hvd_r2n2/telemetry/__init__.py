"""What a run shows and records: console, log file, metrics.jsonl, TensorBoard, pictures."""

from hvd_r2n2.telemetry.run_log import RunLog
from hvd_r2n2.telemetry.throughput import StepTimes, memory_bytes, over_ranks

__all__ = ["RunLog", "StepTimes", "memory_bytes", "over_ranks"]
