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
    """How it is switched on; later ones may set the same key anew."""
    only_reconstructs: bool = False
    """Whether networks that classify do not have it."""


_FURTHER: tuple[Optimisation, ...] = ()
"""Those besides the rewrites of the network, in the order in which they are added."""


def optimisations() -> tuple[Optimisation, ...]:
    """Return all, in the order in which they are added."""
    rewrites = (
        Optimisation(name, "model.form=plain", f"model.form={'+'.join(REWRITES[: number + 1])}", only_reconstructs=True)
        for number, name in enumerate(REWRITES)
    )
    return (*rewrites, *_FURTHER)


def device_arms(
    config: Config, names: Sequence[str] | None = None, changes: Sequence[Sequence[str]] = ()
) -> tuple[ArmSpec, ...]:
    """Return the arms, the plain one first and the defaults last; all but the last compute in float32.

    An arm that would be one of the defaults under another name is left out.

    Args:
        config: the settings that the defaults have; each arm has its own `train.dtype` and `model.form`.
        names: which of the optimisations to show; None for all. `ALWAYS` are there in any case.
        changes: NAME SECTION.KEY=VALUE …: settings of one of the arms, or a new arm that differs from default-float32.

    Raises:
        ValueError: an unknown name, or settings that are not possible.
    """
    is_plain_known = not config.model.classifies
    arms = {PLAIN: ArmSpec(PLAIN, overrides=("model.form=plain",) if is_plain_known else ())}
    added = [one for one in optimisations() if is_plain_known or not one.only_reconstructs]
    off = {_key(one.without): one.without for one in added}
    arms[PLAIN] = arms[PLAIN].with_overrides(*off.values())
    for number, one in enumerate(added):
        on = {_key(earlier.with_it): earlier.with_it for earlier in added[: number + 1]}
        arms[f"+{one.name}"] = ArmSpec(f"+{one.name}", overrides=tuple((off | on).values()))
    defaults = {name: ArmSpec(name) for name in (DEFAULT_FLOAT32, DEFAULT_BFLOAT16)}
    steps = {name: arm for name, arm in arms.items() if name != PLAIN and arm.config(config) != config}
    check_names(names, (*ALWAYS, *steps))
    if names is not None:
        steps = {name: arm for name, arm in steps.items() if name in names}
    arms = {PLAIN: arms[PLAIN], **steps, **defaults}
    for name, *overrides in changes:
        if not overrides:
            raise ValueError(f"--arm {name}: write NAME SECTION.KEY=VALUE …, such as {name} train.accumulation=2")
        arms[name] = arms.get(name, ArmSpec(name)).with_overrides(*overrides)
    return tuple(_with_dtype(arm, config) for arm in arms.values())


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
