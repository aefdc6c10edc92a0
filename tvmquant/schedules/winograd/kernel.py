"""The Winograd kernel and its rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from tvm import tirx

from tvmquant.schedules.emitted import PlannedKernel
from tvmquant.schedules.linear.packing import pack_outputs
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.winograd.choose import METHODS, applies, fastest, method, space
from tvmquant.schedules.winograd.cost import cycles, direct_cycles
from tvmquant.schedules.winograd.emit import emit_prim_func
from tvmquant.schedules.winograd.expand import make_expansion
from tvmquant.schedules.winograd.operands import instruction_set
from tvmquant.schedules.winograd.packing import pack_biases, pack_weights
from tvmquant.schedules.winograd.plan import Plan
from tvmquant.schedules.workload import Expansion, Workload
from tvmquant.targets.device import Device

# The direct kernel needs no memory for transformed weights: it wins where it is nearly as fast.
_GAIN = 1.1


@dataclass(frozen=True)
class WinogradKernel(PlannedKernel):
    """Exact integer Winograd convolution with its whole epilogue.

    Attributes
    ----------
    plan : Plan
        Everything that decides the code, see :mod:`tvmquant.schedules.winograd.choose`.
    """

    plan: Plan

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and instruction set."""
        w = self.workload
        shapes = ["x".join(map(str, shape)) for shape in (w.x_shape, w.w_shape)]
        bits = f"w{w.w_bits}a{w.x_bits}"
        padding = "_".join(map(str, w.padding))
        parts = ["winograd", *shapes, padding, bits, w.requantize, *self._method]
        return "_".join([*parts, f"add_{w.residual}"] if w.residual else parts)

    @property
    def label(self) -> str:
        """Tile, operands, instruction set and register block, for profiles."""
        return " ".join(["winograd", *self._method, f"{self.plan.rows}x{self.plan.vectors}"])

    @property
    def _method(self) -> tuple[str, str, str]:
        operands = self.plan.operands
        return (self.plan.algorithm.label, operands.name, operands.isa)

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Weights for the expansion, then centre, bias and requantize parameters."""
        plan = self.plan
        padded = [pack_outputs(p, plan.outputs, 1, plan.padded_outputs) for p in params]
        return [pack_weights(weight, plan), *pack_biases(weight, bias, plan), *padded]

    def emit(self) -> tirx.PrimFunc:
        """Make ``(x, weights, [offsets], centre, bias, *params, qinfo, [other], out)``."""
        return emit_prim_func(self.plan, self.name)

    @cached_property
    def _expansion(self) -> Expansion:
        return make_expansion(self.plan, f"{self.name}_expand")

    def expansion(self) -> Expansion:
        """Transformed weights (and, for bytes, what sums start from), made at load time."""
        return self._expansion

    @cached_property
    def _space(self) -> dict[tuple[int, ...], Plan]:
        plans = [self.plan, *space(self.workload, self.plan.operands.isa)]
        return {tuple(_config(plan).values()): plan for plan in plans}

    def configs(self) -> list[Config]:
        """Tile sizes, operands and blocks worth trying, this kernel's own first."""
        return [_config(plan) for plan in self._space.values()]

    def with_config(self, config: Config) -> WinogradKernel:
        """The same kernel with these sizes; ``ConfigError`` if they do not fit."""
        size, operand_bytes, rows, vectors, block = integers(config, *_config(self.plan))
        kind = {1: "bytes", 2: "words"}.get(operand_bytes, "")
        smallest = None
        if (size, kind) in METHODS:
            smallest = method(self.workload, self.plan.operands.isa, size, kind)
        if smallest is None or block % rows:
            raise ConfigError(f"{self.name} cannot have the sizes {dict(config)}")
        return replace(self, plan=replace(smallest, rows=rows, vectors=vectors, block=block))

    @property
    def cycles(self) -> float:
        """Expected cycles of the whole layer on one core."""
        return cycles(self.plan)

    def estimate(self, config: Config) -> float:
        """Cycles that the model expects."""
        return cycles(self.with_config(config).plan)


def _config(plan: Plan) -> Config:
    return {
        "size": plan.algorithm.size,
        "operand_bytes": plan.x_bytes,
        "rows": plan.rows,
        "vectors": plan.vectors,
        "block": plan.block,
    }


def any_winograd(workload: Workload, device: Device) -> WinogradKernel | None:
    """The Winograd kernel wherever it is proven to be exact, fast or not."""
    isa = instruction_set(device)
    if isa is None or not applies(workload):
        return None
    plan = fastest(workload, isa, METHODS)
    return None if plan is None else WinogradKernel(plan)


@register_rule("conv2d", 10, consider=any_winograd)
def winograd(workload: Workload, device: Device) -> WinogradKernel | None:
    """The Winograd kernel where it is proven to be exact and expected to be faster than direct."""
    kernel = any_winograd(workload, device)
    if kernel is None:
        return None
    worthwhile = cycles(kernel.plan) * _GAIN < direct_cycles(workload, device)
    return kernel if worthwhile else None
