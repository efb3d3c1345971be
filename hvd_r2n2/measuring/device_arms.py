"""The arms of `benchmark device`: the network as the paper reads, one optimisation after the other, the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hvd_r2n2.config import Config
from hvd_r2n2.measuring.arms import ArmSpec, check_names
from hvd_r2n2.models import REWRITES

PLAIN, DEFAULT_FLOAT32, DEFAULT_BFLOAT16 = "plain", "default-float32", "default-bfloat16"
ALWAYS = (PLAIN, DEFAULT_FLOAT32, DEFAULT_BFLOAT16)
MATRIX = "matrix-"
"""Before a type: the arm that measures the machine's rate in it."""


@dataclass(frozen=True)
class Optimisation:
    """Something that makes a step faster and changes no number beyond rounding."""

    name: str
    without: str
    """How it is switched off: section.key=value."""
    with_it: str
    """How it is switched on; a later one may set the same key anew."""


_OF_GPUS = (
    Optimisation("+tf32", "train.tf32=false", "train.tf32=true"),
    Optimisation("+cuda-graphs", "train.cuda_graphs=false", "train.cuda_graphs=true"),
)
"""Those that only a GPU has, after all others."""


def optimisations(config: Config, device_type: str) -> tuple[Optimisation, ...]:
    """Return those that a network has on a kind of device, `cpu` or `cuda`, in the order in which they are added."""
    forms = [*("+".join(REWRITES[: number + 1]) for number in range(len(REWRITES) - 1)), "fast"]
    rewrites = [
        Optimisation(f"+{name}", "model.form=plain", f"model.form={form}")
        for name, form in zip(REWRITES, forms, strict=True)
    ]
    of_device = _OF_GPUS if device_type == "cuda" else ()
    return (*(() if config.model.classifies else rewrites), *of_device)


def device_arms(
    config: Config,
    names: Sequence[str] | None = None,
    changes: Sequence[Sequence[str]] = (),
    device_type: str = "cpu",
) -> tuple[ArmSpec, ...]:
    """Return the arms, the plain one first and the defaults last; all but the last compute in float32.

    An optimisation with which everything is as in default-float32 has no arm of its own.

    Args:
        config: the settings that the defaults have; each arm has its own `train.dtype`.
        names: which of the optimisations to show; None for all. `ALWAYS` are there in any case.
        changes: NAME SECTION.KEY=VALUE …: settings of one of the arms, or a new arm that differs from default-float32.
        device_type: where they run, `cpu` or `cuda`.

    Raises:
        ValueError: an unknown name, or settings that are not possible.
    """
    added = _cumulative(config, device_type)
    check_names(names, (*ALWAYS, *added))
    shown = [name for name in added if names is None or name in names]
    arms = {PLAIN: ArmSpec(PLAIN, overrides=tuple(_switched_off(config, device_type).values()))}
    arms |= {name: added[name] for name in shown if added[name].config(config) != config}
    arms |= {name: ArmSpec(name) for name in (DEFAULT_FLOAT32, DEFAULT_BFLOAT16)}
    for name, *overrides in changes:
        if not overrides:
            raise ValueError(f"--arm {name}: write NAME SECTION.KEY=VALUE …, such as {name} train.accumulation=2")
        arms[name] = arms.get(name, ArmSpec(name)).with_overrides(*overrides)
    return tuple(_with_dtype(arm, config) for arm in arms.values())


def same_as_defaults(config: Config, arms: Sequence[ArmSpec], device_type: str = "cpu") -> list[str]:
    """Return the optimisations that have no arm of their own since default-float32 is the same."""
    known = {arm.name for arm in arms}
    cumulative = _cumulative(config, device_type)
    return [name for name, arm in cumulative.items() if name not in known and arm.config(config) == config]


def _switched_off(config: Config, device_type: str) -> dict[str, str]:
    """Return by key how all optimisations are switched off."""
    return {_key(one.without): one.without for one in optimisations(config, device_type)}


def _cumulative(config: Config, device_type: str) -> dict[str, ArmSpec]:
    """Return by name an arm for each optimisation, in which those before it are on and those after it off."""
    settings, arms = _switched_off(config, device_type), {}
    for one in optimisations(config, device_type):
        settings[_key(one.with_it)] = one.with_it
        arms[one.name] = ArmSpec(one.name, overrides=tuple(settings.values()))
    return arms


def matrix_arms(arms: Sequence[ArmSpec], config: Config) -> tuple[ArmSpec, ...]:
    """Return an arm for the machine's rate in each of the types that the arms compute in."""
    dtypes = dict.fromkeys(arm.config(config).train.dtype for arm in arms)
    return tuple(ArmSpec(MATRIX + dtype, kind="matrix", overrides=(f"train.dtype={dtype}",)) for dtype in dtypes)


def for_inference(arm: ArmSpec) -> ArmSpec:
    """Return the arm that runs the network of another one forward alone."""
    return replace(arm, kind="inference")


def _with_dtype(arm: ArmSpec, config: Config) -> ArmSpec:
    if any(_key(override) == "train.dtype" for override in arm.overrides):
        own = arm
    else:
        own = arm.with_overrides(f"train.dtype={'bfloat16' if arm.name == DEFAULT_BFLOAT16 else 'float32'}")
    if own.config(config).split.strategy != "none":
        raise ValueError(f"arm {arm.name}: split.strategy must be none, this benchmark has one device")
    return own


def _key(override: str) -> str:
    return override.partition("=")[0]
