"""Which bits pay on a device: what its kernels expect of one typical layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmquant.precision import parse_bits
from tvmquant.schedules.selection import KernelTable, label_of
from tvmquant.schedules.space import TuningDatabase
from tvmquant.schedules.winograd import weight_bound
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets import Device

PRECISIONS = ("w8a8", "w4a8", "w4a4", "w2a2", "w1a1")
# Less than this share of the 8-bit layer's work is worth the loss of accuracy.
_PAYS = 0.97


@dataclass(frozen=True)
class Payoff:
    """What one precision gives on a device.

    Attributes
    ----------
    precision : str
        For example ``w4a4``.
    kernel : str
        Label of the kernel that is chosen.
    work : float or None
        Share of the work of the layer at w8a8, by the kernels' own models: cycles, on ARM
        instructions. ``None`` where the models cannot be compared.
    """

    precision: str
    kernel: str
    work: float | None

    @property
    def pays(self) -> bool:
        """Whether fewer bits are expected to save time, not only memory."""
        return self.work is not None and self.work < _PAYS


def payoffs(device: Device, database: TuningDatabase | None = None) -> list[Payoff]:
    """Compare the precisions on a 3×3 convolution of 64 to 64 channels at 28×28."""
    table = KernelTable(device, database=database)
    kernels = {name: table[typical_layer(name)] for name in PRECISIONS}
    unit, whole = _work(kernels["w8a8"])
    found = []
    for name, kernel in kernels.items():
        own_unit, own = _work(kernel)
        comparable = own_unit == unit and whole > 0
        found.append(Payoff(name, label_of(kernel), own / whole if comparable else None))
    return found


def _work(kernel: Kernel) -> tuple[str, float]:
    """What a kernel's model expects, and its unit."""
    cycles = getattr(kernel, "cycles", None)
    if cycles is not None:
        return "cycles", float(cycles)
    estimate = getattr(kernel, "estimate", None)
    if estimate is None:
        return "", 0.0
    family = "instructions" if ".neon." in type(kernel).__module__ else type(kernel).__module__
    return family, float(estimate(kernel.configs()[0]))


def typical_layer(precision: str) -> Workload:
    """The layer of :func:`payoffs`, with weights as a trained network has them."""
    w_bits, x_bits = parse_bits(precision)
    weight = np.random.default_rng(0).standard_normal((64, 3, 3, 64))
    limit = max(1, (1 << w_bits - 1) - 1)
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / limit
    integers = np.clip(np.rint(weight / scale), -limit, limit).astype(np.int8)
    return Workload(
        "conv2d",
        (1, 28, 28, 64),
        weight.shape,
        (1, 1),
        (1, 1, 1, 1),
        (1, 1),
        x_bits=x_bits,
        w_bits=w_bits,
        max_abs_sum=weight_bound(integers),
    )
