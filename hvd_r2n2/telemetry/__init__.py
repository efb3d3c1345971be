"""What a run shows and records: console, log file, metrics.jsonl, TensorBoard, pictures."""

from hvd_r2n2.telemetry.baseline import Baseline, load_baseline
from hvd_r2n2.telemetry.projection import Projection
from hvd_r2n2.telemetry.run_log import RunLog
from hvd_r2n2.telemetry.throughput import StepTimes, memory_bytes, over_ranks
from hvd_r2n2.telemetry.trace import write_trace

__all__ = [
    "Baseline",
    "Projection",
    "RunLog",
    "StepTimes",
    "load_baseline",
    "memory_bytes",
    "over_ranks",
    "write_trace",
]
