"""The direct kernel on weights that were widened to bytes when the model was loaded.

The file holds the packed weights; the integers that are multiplied are the same, so the result is
the same bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from tvm import tirx

from tvmquant.schedules.emitted import EmittedKernel
from tvmquant.schedules.linear.kernel import DenseKernel, dense
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.space import Config
from tvmquant.schedules.widened.codes import make_widen, pack_codes
from tvmquant.schedules.workload import Expansion, Workload
from tvmquant.targets.device import Device

# Memory for the wider weights must buy something.
_GAIN = 1.03
# Weights that are used less often come from memory each time: fewer bytes are faster.
_LEAST_PIXELS = 8


@dataclass(frozen=True)
class WidenedKernel(EmittedKernel):
    """A direct kernel of 8-bit weights for a layer of fewer bits.

    Attributes
    ----------
    workload : Workload
        ``conv2d`` or ``matmul`` with weights of 4, 2 or 1 bits.
    inner : DenseKernel
        The kernel that runs.
    """

    workload: Workload
    inner: DenseKernel

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and instruction set."""
        return f"{self.inner.name}_widened_w{self.workload.w_bits}"

    @property
    def label(self) -> str:
        """That of the inner kernel, for profiles."""
        return f"{self.inner.label} w8"

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Packed weights for the expansion, then the other constants of the inner kernel."""
        weights, *others = self.inner.pack(weight, bias, params)
        return [pack_codes(weights, self.workload.w_bits), *others]

    def emit(self) -> tirx.PrimFunc:
        """The inner kernel's PrimFunc."""
        return self.inner.prim_func().with_attr("global_symbol", self.name)

    @cached_property
    def _expansion(self) -> Expansion:
        count = self.inner.plan.weight_count
        func = make_widen(f"{self.name}_expand", count, self.workload.w_bits)
        return Expansion(func, 1, (((count,), "int8"),))

    def expansion(self) -> Expansion:
        """Weights of a byte each, made at load time."""
        return self._expansion

    def with_residual(self, form: str) -> WidenedKernel:
        """The same kernel with a residual addition in its epilogue."""
        workload = replace(self.workload, residual=form)
        return replace(self, workload=workload, inner=self.inner.with_residual(form))

    def configs(self) -> list[Config]:
        """Those of the inner kernel."""
        return self.inner.configs()

    def with_config(self, config: Config) -> WidenedKernel:
        """The same kernel with these sizes; ``ConfigError`` if they do not fit."""
        return replace(self, inner=self.inner.with_config(config))

    def estimate(self, config: Config) -> float:
        """Half cycles that the model of the inner loop expects."""
        return self.inner.estimate(config)

    @property
    def cycles(self) -> float:
        """Cycles of the whole layer, see :func:`tvmquant.schedules.linear.cost.cycles`."""
        return self.inner.cycles


def widen(workload: Workload, device: Device) -> WidenedKernel | None:
    """The kernel wherever it is possible, whether it pays or not."""
    if workload.w_bits not in (4, 2, 1):
        return None
    # Two neighbouring products of weights within ±8 always fit into 16 bits.
    whole = replace(workload, w_bits=8, no_saturation=True, max_abs_sum=None)
    inner = dense(whole, device)
    if not isinstance(inner, DenseKernel) or inner.plan.isa.name == "generic":
        return None
    if workload.w_bits == 1 and (inner.plan.input.weight_index < 0).any():
        return None  # zeros fill the last step up, and one bit has none
    return WidenedKernel(workload, inner)


@register_rule("conv2d", 1, consider=widen)
@register_rule("matmul", 1, consider=widen)
def widened(workload: Workload, device: Device) -> WidenedKernel | None:
    """Kernel of 8-bit weights where unpacking fewer bits is expected to be slower."""
    pixels = int(np.prod(workload.out_shape[:-1]))
    kernel = widen(workload, device) if pixels >= _LEAST_PIXELS else None
    packed = dense(workload, device) if kernel else None
    if not isinstance(packed, DenseKernel):
        return None
    return kernel if kernel.cycles * _GAIN < packed.cycles else None
