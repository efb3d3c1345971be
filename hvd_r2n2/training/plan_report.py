"""Plans and their predictions in words, as a table, as YAML to train with, and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.table import Table

from hvd_r2n2.config import Config, SplitConfig, to_yaml
from hvd_r2n2.split import STRATEGIES, Plan
from hvd_r2n2.split.costs import Costs
from hvd_r2n2.split.planner import DATA_PARALLEL, ONE_DEVICE, Prediction, Ranking

_MOST_ROWS = 15


def describe(prediction: Prediction) -> str:
    """Say what a candidate is."""
    return in_words(prediction.name, prediction.plan, prediction.micro_batches)


def in_words(name: str, plan: Plan | None, micro_batches: Sequence[int]) -> str:
    """Say what a plan is, or what has none, with the samples of each micro-batch."""
    count, words = len(micro_batches), [name]
    if plan is not None and plan.cut:
        words.append(f"cut at {' '.join(plan.cut)}")
    words.append(f"{_sizes(micro_batches)} samples in turn" if count > 1 else "the whole batch at once")
    if plan is not None and plan.view_chunks > 1:
        words.append(f"views in {plan.view_chunks} chunks")
    if plan is not None and plan.strategy == "pipeline" and count > 1:
        words.append(plan.schedule)
    return ", ".join(words)


def explain(ranking: Ranking) -> str:
    """Say which candidate is best and why, against one device and against data parallelism."""
    best, one, parallel = ranking.choice, ranking.best(ONE_DEVICE), ranking.best(DATA_PARALLEL)
    assert one is not None, "one device is always a candidate"
    sentences = []
    if best.name == ONE_DEVICE:
        other = next((p for p in ranking.predictions if p.name in STRATEGIES), None)
        against = f"; the best split ({describe(other)}) would take {_seconds(other)}" if other else ""
        sentences.append(f"one device alone is best, {_seconds(best)} a step and {_size(best.peak_bytes)}{against}.")
    else:
        sentences.append(
            f"{describe(best)} is best: {_seconds(best)} a step, {one.step_s / best.step_s:.2f} times as fast as one "
            f"device ({_seconds(one)}{_misfit(one)}), with {best.bubble:.0%} of the devices' time idle and at most "
            f"{_size(best.peak_bytes)} a device instead of {_size(one.peak_bytes)}."
        )
    if not best.fits:
        whose = "the devices together have" if best.machine.memory_is_shared else "a device has"
        sentences.append(f"Yet {whose} only {_size(best.machine.memory_bytes or 0)}: nothing fits.")
    if parallel is not None:
        ratio = parallel.step_s / best.step_s - 1
        speed = f"{abs(ratio):.0%} {'slower' if ratio > 0 else 'faster'}"
        sentences.append(
            f"Data parallelism over the same {len(parallel.memory)} devices would be {speed} "
            f"({_seconds(parallel)}{_misfit(parallel)}), with all weights, gradients and optimizer state "
            f"({_size(_fixed(parallel))}) on each device instead of at most {_size(_fixed(best))}; in all "
            f"{_size(parallel.peak_bytes)} a device."
        )
    return " ".join(sentences)


def to_table(ranking: Ranking, title: str) -> Table:
    """Show the best candidates in their order, and the best of every strategy and cut."""
    table = Table(title=title, caption=_caption(ranking))
    for name in ("", "split", "cut at", "samples in turn", "view chunks", "schedule"):
        table.add_column(name, overflow="fold")
    for name in ("step", "of one device", "bubble", "memory a device", "moved a step"):
        table.add_column(name, justify="right")
    one, seen = ranking.best(ONE_DEVICE), set[tuple[str, ...]]()
    for place, prediction in enumerate(ranking.predictions, 1):
        kind = (prediction.name, *(prediction.plan.cut if prediction.plan else ()))
        if place <= _MOST_ROWS or kind not in seen:
            speed = f"{one.step_s / prediction.step_s:.2f} ×" if one is not None and prediction.step_s else ""
            style = "bold" if prediction is ranking.choice else "dim" if not prediction.fits else None
            table.add_row(*_cells(place, prediction, speed), style=style)
        seen.add(kind)
    return table


def _cells(place: int, prediction: Prediction, speed: str) -> Iterator[str]:
    plan = prediction.plan
    is_pipeline = plan is not None and plan.strategy == "pipeline"
    yield from (str(place), prediction.name, " ".join(plan.cut) if plan else "", _sizes(prediction.micro_batches))
    yield from (str(plan.view_chunks), plan.schedule) if plan and is_pipeline else ("", "")
    yield from (_seconds(prediction), speed, f"{prediction.bubble:.0%}")
    yield " ".join(_size(device.peak_bytes) for device in prediction.memory) + (
        "" if prediction.fits else " (too much)"
    )
    yield _size(prediction.bytes_moved)


def _caption(ranking: Ranking) -> str:
    views = list(ranking.predictions[0].step_s_by_views)
    mean = f"; a step is the mean of steps with {views[0]} to {views[-1]} views" if len(views) > 1 else ""
    lines = [f"{len(ranking.predictions)} candidates; all figures are predicted{mean}."]
    lines += [f"Not possible: {reason}" for reason in ranking.impossible.values()]
    return "\n".join(lines)


def chosen_config(config: Config, plan: Plan | None) -> Config:
    """Return the settings with a plan as their split."""
    split = config.split
    model = config.model if split.cross is None else replace(config.model, cross=split.cross)
    if plan is None:
        return replace(config, model=model, split=SplitConfig(hang_timeout_s=split.hang_timeout_s))
    is_pipeline = plan.strategy == "pipeline"
    chosen = SplitConfig(
        strategy=plan.strategy,  # type: ignore[arg-type]
        devices=split.devices,
        cut=plan.cut if is_pipeline else None,
        micro_batches=plan.micro_batches if isinstance(plan.micro_batches, int) else None,
        micro_batch_sizes=None if isinstance(plan.micro_batches, int) else plan.micro_batches,
        view_chunks=plan.view_chunks if is_pipeline else None,
        schedule=plan.schedule if is_pipeline else None,  # type: ignore[arg-type]
        hang_timeout_s=split.hang_timeout_s,
    )
    return replace(config, model=model, split=chosen)


def to_plan_yaml(config: Config, ranking: Ranking, command: str, machine: str) -> str:
    """Return settings to train with: those given, with the best split; what was predicted stands in comments."""
    header = ["Made by", f"  {command}", f"on {machine}.", *textwrap.wrap(explain(ranking), 110)]
    return "".join(f"# {line}\n" for line in header) + "\n" + to_yaml(chosen_config(config, ranking.choice.plan))


def to_json(ranking: Ranking, costs: Costs, about: dict[str, Any]) -> str:
    """Return everything that was measured and predicted, as JSON text."""
    content = about | {
        "explanation": explain(ranking),
        "choice": _as_dict(ranking.choice),
        "impossible": ranking.impossible,
        "machine_costs": asdict(costs.machine),
        "call_costs": [asdict(part) | asdict(cost) for part, cost in costs.parts.items()],
        "candidates": [_as_dict(prediction) for prediction in ranking.predictions],
    }
    return json.dumps(content, indent=1) + "\n"


def _as_dict(prediction: Prediction) -> dict[str, Any]:
    return {
        "name": prediction.name,
        "plan": None if prediction.plan is None else asdict(prediction.plan),
        "micro_batch_sizes": prediction.micro_batches,
        "step_s": prediction.step_s,
        "step_s_by_views": prediction.step_s_by_views,
        "bubble_share": prediction.bubble,
        "busy_shares": prediction.busy,
        "memory": [asdict(device) | {"peak_bytes": device.peak_bytes} for device in prediction.memory],
        "moved_bytes": prediction.bytes_moved,
        "fits": prediction.fits,
    }


def _fixed(prediction: Prediction) -> int:
    return max(device.peak_bytes - device.saved for device in prediction.memory)


def _sizes(micro_batches: Sequence[int]) -> str:
    return " ".join(map(str, micro_batches))


def _misfit(prediction: Prediction) -> str:
    return "" if prediction.fits else f", but {_size(prediction.peak_bytes)} a device do not fit"


def _seconds(prediction: Prediction) -> str:
    return f"{prediction.step_s:.3g} s"


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
