"""Which bits pay on a device: what its kernels expect of one typical layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmquant.recipe import parse_bits
from tvmquant.schedules.selection import KernelTable, label_of
from tvmquant.schedules.space import TuningDatabase
from tvmquant.schedules.winograd import weight_bound
from tvmquant.schedules.workload import Workload
from tvmquant.targets import Device

PRECISIONS = ("w8a8", "w4a8", "w4a4", "w2a2", "w1a1")
# Less than this share of the 8-bit layer's cycles is worth the loss of accuracy.
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
    cycles : float or None
        Share of the cycles that the layer takes at w8a8, by the kernels' own models; ``None`` where
        one has none.
    """

    precision: str
    kernel: str
    cycles: float | None

    @property
    def pays(self) -> bool:
        """Whether fewer bits are expected to save time, not only memory."""
        return self.cycles is not None and self.cycles < _PAYS


def payoffs(device: Device, database: TuningDatabase | None = None) -> list[Payoff]:
    """Compare the precisions on a 3×3 convolution of 64 to 64 channels at 28×28."""
    table = KernelTable(device, database=database)
    kernels = {name: table[typical_layer(name)] for name in PRECISIONS}
    cycles = {name: getattr(kernel, "cycles", None) for name, kernel in kernels.items()}
    whole = cycles["w8a8"]
    return [
        Payoff(name, label_of(kernel), cycles[name] / whole if whole and cycles[name] else None)
        for name, kernel in kernels.items()
    ]


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
