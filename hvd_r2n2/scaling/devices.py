"""Named devices that are not here: their published peak, of which an assumed share is reached.

Peaks are those of NVIDIA's data sheets for dense matrix products (P100, V100, A100, H100 and H200 of the SXM kind),
in FLOP/s. float32 is the ordinary arithmetic without TF32, which GPUs before the A100 do not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hvd_r2n2.common.names import known_hint


@dataclass(frozen=True)
class Device:
    """A processor."""

    name: str
    peak_flops: Mapping[str, float]
    """By dtype; `tf32` is that of float32 where `train.tf32` is on."""

    def rate(self, dtype: str, share: float) -> float:
        """Return the assumed rate in FLOP/s.

        Raises:
            ValueError: it has no published peak for this dtype, or the share is not between 0 and 1.
        """
        if not 0 < share <= 1:
            raise ValueError(f"--device-share {share:g} is not possible (above 0, at most 1)")
        if dtype not in self.peak_flops:
            known = ", ".join(self.peak_flops)
            raise ValueError(f"device {self.name} has no published peak for train.dtype={dtype} (known: {known})")
        return self.peak_flops[dtype] * share


DEVICES = {
    device.name: device
    for device in (
        Device("p100", {"float32": 10.6e12, "float64": 5.3e12}),
        Device("v100", {"float32": 15.7e12, "float64": 7.8e12}),
        Device("a100", {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12, "float64": 9.7e12}),
        Device("h100", {"bfloat16": 989e12, "tf32": 494.7e12, "float32": 67e12, "float64": 34e12}),
        Device("h200", {"bfloat16": 989e12, "tf32": 494.7e12, "float32": 67e12, "float64": 34e12}),
    )
}


def find_device(name: str) -> Device:
    """Return a device by its name.

    Raises:
        ValueError: it is not known; names the nearest.
    """
    if name not in DEVICES:
        raise ValueError(f"device {name!r} is not known{known_hint(name, DEVICES)}")
    return DEVICES[name]
