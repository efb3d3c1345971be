"""What a step costs on one device, to predict clusters from: measured here, or counted for a device elsewhere."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hvd_r2n2.common.stages import Stage, run_stages
from hvd_r2n2.config import Config
from hvd_r2n2.data.camera import IMAGE_SIZE
from hvd_r2n2.data.decode import CHANNELS
from hvd_r2n2.measuring.arithmetic import count_arithmetic, with_counted_form
from hvd_r2n2.models import Network
from hvd_r2n2.scaling.overlap import Layer
from hvd_r2n2.scaling.workload import GRAPHED, Profile, Workload
from hvd_r2n2.split import STRATEGIES
from hvd_r2n2.split.costs import Costs
from hvd_r2n2.split.planner import ONE_DEVICE, Job, Wanted, rank
from hvd_r2n2.split.program import Program, Task
from hvd_r2n2.split.rehearsal import unit_program
from hvd_r2n2.training.inputs import random_inputs
from hvd_r2n2.training.planning import make_job, wanted_of
from hvd_r2n2.training.precision import weights_dtype
from hvd_r2n2.training.setup import build_model
from hvd_r2n2.training.tasks import create_task

_PICTURE_BYTES = 256 * 256 * 3
"""Assumed of a picture with a class: 256×256 pixels, not compressed. Settings do not say how large the files of a
folder are, which are read and decoded anew each time; renderings with a class are cached and have less than half."""
_RENDERING_BYTES = IMAGE_SIZE**2 * CHANNELS
"""Of a rendering in the cache, at most: the rectangle around the object is kept."""


def measured_workload(config: Config, job: Job, costs: Costs, source: str) -> Workload:
    """Return a step's costs by samples, as the planner's measurements of calls have them.

    Args:
        config: the settings.
        job: what was planned, of which the number of samples is the most that is asked for.
        costs: what was measured.
        source: where, for people.
    """
    sizes = _sizes(job.num_samples)
    weights_bytes = sum(tensor.numel() * tensor.element_size() for tensor in job.model.parameters())
    machine = costs.machine
    workload = replace(
        _empty(config, job),
        source=source,
        profiles=tuple(Profile(size, _layers(config, job, costs, size)) for size in sizes),
        other_s=weights_bytes * (machine.norm_s_per_byte + machine.update_s_per_byte),
    )
    return workload if config.train.cuda_graphs else _with_splits(workload, job, costs, wanted_of(config.split))


def counted_workload(config: Config, flops_per_s: float, source: str) -> Workload:
    """Return a step's costs from its arithmetic alone, at an assumed rate; in proportion to the samples.

    Only multiplications and additions of products are counted, as `benchmark device` counts them. Nothing is computed
    and nothing is measured; the optimizer is left out.
    """
    network = with_counted_form(config.model)
    nowhere = torch.device("meta")
    model = build_model(network, config.train.seed).to(nowhere, weights_dtype(config.train.dtype))
    job = make_job(replace(config, model=network), model, create_task(config).loss_stage(), 1, 1)
    counts = [_flops(config, model, views) for views in job.view_counts]
    totals = [count_arithmetic(network, 1, views) for views in job.view_counts]
    factor = sum(total.backward for total in totals) / sum(total.forward for total in totals)
    layers = []
    for name, gradients in _pieces(config, job):
        stages = [stage for stage in name.split() if stage in counts[0]]
        forward_s = fmean(sum(of_views[stage] for stage in stages) for of_views in counts) / flops_per_s
        layers.append(Layer(name, forward_s, factor * forward_s, gradients))
    return replace(_empty(config, job), source=source, profiles=(Profile(1, tuple(layers)),))


def _empty(config: Config, job: Job) -> Workload:
    model, train = config.model, config.train
    views = "" if model.classifies else f", {train.min_views} to {train.max_views} view(s)"
    return Workload(
        name=f"{model.name}, width {model.width:g}{views}, {train.dtype}",
        source="",
        profiles=(),
        batch_size=train.batch_size,
        steps=train.steps,
        accumulation=train.accumulation,
        images_per_sample=fmean(config.view_counts),
        bytes_per_image=float(_PICTURE_BYTES if model.classifies else _RENDERING_BYTES),
        why_not_split=GRAPHED if train.cuda_graphs else Workload.why_not_split,
        cuda_graphs=train.cuda_graphs,
    )


def _sizes(most: int) -> tuple[int, ...]:
    sizes = [1]
    while 2 * sizes[-1] < most:
        sizes.append(2 * sizes[-1])
    return (*sizes, most) if most > 1 else (1,)


def _layers(config: Config, job: Job, costs: Costs, size: int) -> tuple[Layer, ...]:
    """Give what the layers take with so many samples, as the mean over all numbers of views."""
    programs = [unit_program(job.stages, (size,), views) for views in job.view_counts]
    gradients = dict(_pieces(config, job))
    layers = []
    for number, call in enumerate(programs[0].calls):
        name = " ".join(call.piece.stages)
        forward_s = fmean(costs.of(program, Task(number, "forward")).seconds for program in programs)
        backward_s = fmean(_backward_s(costs, program, number) for program in programs)
        layers.append(Layer(name, forward_s, backward_s, gradients[name]))
    return tuple(layers)


def _backward_s(costs: Costs, program: Program, number: int) -> float:
    return costs.of(program, Task(number, "backward")).seconds


def _pieces(config: Config, job: Job) -> list[tuple[str, tuple[int, ...]]]:
    """Give the pieces that have a backward run each, in order, with the bytes of the gradients complete after it.

    Of weights that several pieces have, that is the first one's. Stages that are run once a view are one piece. With
    CUDA graphs all gradients leave after the whole backward pass, which ends with the first piece.
    """
    stages = {stage.name: stage for stage in job.stages}
    seen, found = set[int](), []
    for call in unit_program(job.stages, (1,), 1).calls:
        own: list[int] = []
        for name in call.piece.stages:
            for tensor in stages[name].module.parameters():
                if id(tensor) not in seen and tensor.requires_grad:
                    own.append(tensor.numel() * tensor.element_size())
                    seen.add(id(tensor))
        found.append((" ".join(call.piece.stages), tuple(reversed(own))))
    if config.train.cuda_graphs:
        every = tuple(size for _, sizes in reversed(found) for size in sizes)
        found = [(name, () if number else every) for number, (name, _) in enumerate(found)]
    return found


def _with_splits(workload: Workload, job: Job, costs: Costs, wanted: Wanted) -> Workload:
    """Give, by samples, how much faster than one device the best split wanted is that memory allows, or why none is."""
    if job.num_devices == 1:
        return replace(workload, why_not_split="one device alone was measured (give --split-speedup)")
    found, why_not = {}, ""
    for size in (profile.samples for profile in workload.profiles):
        try:
            predictions = rank(replace(job, num_samples=size, accumulation=1), costs, wanted).predictions
        except ValueError as error:  # no split is possible, or none for so few
            why_not = str(error)
            continue
        splits = [one.step_s for one in predictions if one.name in STRATEGIES and one.fits]
        if splits:
            found[size] = min(one.step_s for one in predictions if one.name == ONE_DEVICE) / min(splits)
        else:
            why_not = f"no split of {size} sample(s) fits into the memory that was found (give --split-speedup)"
    return replace(workload, split_speedups=found, why_not_split=why_not, split_devices=job.num_devices)


class _Counted(nn.Module):
    """A stage's module that adds up its arithmetic."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.flops = 0

    def forward(self, *inputs: Any) -> Any:
        with FlopCounterMode(display=False) as counter:
            outputs = self.module(*inputs)
        self.flops += counter.get_total_flops()
        return outputs


def _flops(config: Config, model: Network, num_views: int) -> dict[str, int]:
    """Count a forward pass of one sample, by stage; the loss, which is no product, is left out."""
    counted = {stage.name: _Counted(stage.module) for stage in model.stages()}
    stages: list[Stage] = [replace(stage, module=counted[stage.name]) for stage in model.stages()]
    inputs = random_inputs(config, model, 1, num_views, torch.device("meta"))
    with torch.no_grad():
        run_stages(stages, inputs, {"logits"})
    return {name: module.flops for name, module in counted.items()}
