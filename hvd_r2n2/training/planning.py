"""Interim."""
from hvd_r2n2.split import Plan
def make_plan(config, model, loss_stage, devices, threads, communicator, report):  # type: ignore
    s = config.split
    return Plan(s.strategy, s.micro_batch_sizes or s.micro_batches or 1, s.cut or (("recurrence.projection",) if s.strategy=="pipeline" else ()), s.view_chunks or 1, s.schedule or "1f1b")
