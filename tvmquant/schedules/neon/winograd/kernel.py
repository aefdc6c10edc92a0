"""The NEON Winograd kernel and its rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from tvm import tirx

from tvmquant.schedules.emitted import PlannedKernel
from tvmquant.schedules.linear.packing import pack_outputs
from tvmquant.schedules.neon.direct import direct
from tvmquant.schedules.neon.winograd.emit import emit_prim_func
from tvmquant.schedules.neon.winograd.plan import Plan, cycles, method, methods, space
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.winograd.expand import make_expansion
from tvmquant.schedules.winograd.packing import pack_weights
from tvmquant.schedules.workload import Expansion, Workload
from tvmquant.targets.device import Device

# The direct kernel needs no memory for transformed weights: it wins where it is nearly as fast.
_GAIN = 1.1


@dataclass(frozen=True)
class NeonWinogradKernel(PlannedKernel):
    """Exact integer Winograd convolution with its whole epilogue.

    Attributes
    ----------
    plan : Plan
        Everything that decides the code.
    isa : str
        ``neon``, ``neon_dotprod`` or ``neon_i8mm``.
    """

    plan: Plan
    isa: str = "neon"

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and instructions."""
        w = self.workload
        shapes = ["x".join(map(str, shape)) for shape in (w.x_shape, w.w_shape)]
        bits, padding = f"w{w.w_bits}a{w.x_bits}", "_".join(map(str, w.padding))
        parts = ["winograd", *shapes, padding, bits, w.requantize, *self._method]
        return "_".join([*parts, f"add_{w.residual}"] if w.residual else parts)

    @property
    def label(self) -> str:
        """Tile, sums and register block, for profiles."""
        return " ".join(["winograd", *self._method, f"{self.plan.rows}x{self.plan.vectors}"])

    @property
    def cycles(self) -> float:
        """Estimate, comparable among kernels of one processor."""
        return cycles(self.plan, self.isa)

    @property
    def _method(self) -> tuple[str, str, str]:
        chunks = f"{self.plan.chunks}" if self.plan.chunks > 1 else ""
        return (f"f{self.plan.algorithm.size}", self.plan.operands.name + chunks, "neon")

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Weights for the expansion, then centre, bias and requantize parameters."""
        plan = self.plan
        padded = [pack_outputs(p, plan.outputs, 1, plan.padded_outputs) for p in params]
        return [pack_weights(weight, plan), *plan.biases(weight, bias), *padded]

    def emit(self) -> tirx.PrimFunc:
        """Make ``(x, weights, centre, bias, *params, qinfo, out)``."""
        return emit_prim_func(self.plan, self.name)

    @cached_property
    def _expansion(self) -> Expansion:
        return make_expansion(self.plan, f"{self.name}_expand")

    def expansion(self) -> Expansion:
        """Transformed weights, made at load time."""
        return self._expansion

    @cached_property
    def _space(self) -> dict[tuple[object, ...], Plan]:
        plans = [self.plan, *space(self.workload, self.isa)]
        return {tuple(_config(plan).values()): plan for plan in plans}

    def configs(self) -> list[Config]:
        """Tile sizes, sums and blocks worth trying, this kernel's own first."""
        return [_config(plan) for plan in self._space.values()]

    def with_config(self, config: Config) -> NeonWinogradKernel:
        """The same kernel with these sizes; ``ConfigError`` if they do not fit."""
        numbers = dict(config)
        kind = str(numbers.pop("sums", ""))
        names = [name for name in _config(self.plan) if name != "sums"]
        size, rows, vectors, block = integers(numbers, *names)
        known = (size, kind) in methods(self.isa)
        smallest = method(self.workload, size, kind) if known else None
        if smallest is None or block % rows:
            raise ConfigError(f"{self.name} cannot have the sizes {dict(config)}")
        return replace(self, plan=replace(smallest, rows=rows, vectors=vectors, block=block))

    def estimate(self, config: Config) -> float:
        """Cost that the model expects."""
        return cycles(self.with_config(config).plan, self.isa)


def _config(plan: Plan) -> Config:
    return {
        "size": plan.algorithm.size,
        "sums": plan.operands.name,
        "rows": plan.rows,
        "vectors": plan.vectors,
        "block": plan.block,
    }


@register_rule("conv2d", 15)
def winograd(workload: Workload, device: Device) -> NeonWinogradKernel | None:
    """The Winograd kernel where it is proven exact and expected to be faster."""
    other = direct(workload, device)
    plans = space(workload, device.isa) if other is not None else []
    if not plans or cycles(plans[0], device.isa) * _GAIN >= other.cost:
        return None
    return NeonWinogradKernel(plans[0], device.isa)
