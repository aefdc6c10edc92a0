"""The dense integer kernel and its rules."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import numpy as np
from tvm import tirx

from tvmquant.schedules.emitted import FusedKernel
from tvmquant.schedules.linear import isa as instruction_sets
from tvmquant.schedules.linear import tiling
from tvmquant.schedules.linear.cost import cycles
from tvmquant.schedules.linear.emit import emit_prim_func
from tvmquant.schedules.linear.gathered import GatheredInput
from tvmquant.schedules.linear.geometry import Geometry, InputPlan
from tvmquant.schedules.linear.packing import border_sums, pack_outputs, pack_weights
from tvmquant.schedules.linear.plan import Plan
from tvmquant.schedules.linear.tiling import Sizes
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.space import Config, integers
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device


@dataclass(frozen=True)
class DenseKernel(FusedKernel):
    """Register-tiled convolution or matmul with its whole epilogue.

    Attributes
    ----------
    workload : Workload
        ``conv2d`` or ``matmul``.
    isa : str
        See :func:`tvmquant.schedules.linear.isa.choose`.
    sizes : Sizes, optional
        Sizes that the tuner found; by default a model of the inner loop chooses them.
    """

    workload: Workload
    isa: str
    sizes: Sizes | None = None

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and instruction set."""
        w = self.workload
        parts = [w.op, "x".join(map(str, w.x_shape)), "x".join(map(str, w.w_shape))]
        if w.op != "matmul":
            numbers = (*w.strides, *w.padding, *w.dilation, w.groups)
            parts.append("_".join(map(str, numbers)))
        parts += [f"w{w.w_bits}a{w.x_bits}", w.requantize, self.plan.isa.name]
        return "_".join([*parts, f"add_{w.residual}"] if w.residual else parts)

    @property
    def label(self) -> str:
        """Instruction set and register tile, for profiles."""
        t = self.plan.tiling
        return f"direct {self.plan.isa.name} {t.rows}x{t.columns}x{len(t.vectors)}"

    @cached_property
    def plan(self) -> Plan:
        """Everything that decides the code."""
        w = self.workload
        depth = int(np.prod(w.w_shape[1:]))
        isa = instruction_sets.choose(self.isa, w.w_bits, w.x_bits, depth, w.no_saturation)
        geometry = Geometry.of(w)
        source = InputPlan(geometry, isa.step, isa.x_dtype)
        if w.w_bits == 1 and source.run % isa.step:
            # There is no zero among ±1 weights to hide what does not belong to a run.
            if geometry.groups == 1:
                source = InputPlan(geometry, isa.step, isa.x_dtype, pad_channels=True)
            else:
                isa = instruction_sets.InstructionSet()
                source = InputPlan(geometry, isa.step, isa.x_dtype)
        best = None
        sources = [replace(source, trim=trim) for trim in source.trims(8 // w.w_bits)]
        gathered = GatheredInput.of(source)
        # Saturation was only ruled out for neighbours within a row of the filter.
        if gathered and not (w.no_saturation and w.w_bits == 8):
            sources.append(gathered)
        for plan in sources:
            cost, tiles = tiling.priced(plan, isa, w.w_bits, self.sizes)
            if best is None or cost < best[0]:
                best = cost, Plan(w, isa, plan, tiles)
        return best[1]

    @property
    def cycles(self) -> float:
        """Expected cycles of the whole layer on one core."""
        return cycles(self.plan)

    @cached_property
    def _space(self) -> dict[Sizes, float]:
        plan = replace(self, sizes=None).plan
        priced = tiling.space(plan.input, plan.isa, self.workload.w_bits)
        return {sizes: cost for cost, sizes in priced}

    def configs(self) -> list[Config]:
        """Tile and chunk sizes worth trying, the default first."""
        return [asdict(sizes) for sizes in self._space]

    def with_config(self, config: Config) -> DenseKernel:
        """The same kernel with these sizes; ``ConfigError`` if they do not fit."""
        names = [field.name for field in fields(Sizes)]
        kernel = replace(self, sizes=Sizes(*integers(config, *names)))
        kernel.plan  # noqa: B018  (checks the sizes)
        return kernel

    def estimate(self, config: Config) -> float:
        """Half cycles that the model of the inner loop expects."""
        return self._space.get(Sizes(**config), float("inf"))

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Constants of :meth:`prim_func`, in its order."""
        plan = self.plan
        g = plan.input.geometry
        packed = pack_weights(weight, self.workload.w_bits, plan.input, plan.tiling.blocks)
        arrays = [packed]
        for values in (bias, *params):
            arrays.append(pack_outputs(values, g.out_channels, g.groups, plan.tiling.group_lanes))
        if plan.has_table:
            arrays.append(plan.offsets)
        if plan.border_count > 1:
            arrays.append(border_sums(weight, plan.input, plan.tiling.group_lanes))
        return arrays

    def emit(self) -> tirx.PrimFunc:
        """Of :func:`tvmquant.schedules.linear.emit.emit_prim_func`."""
        return emit_prim_func(self.plan, self.name)


@register_rule("conv2d", 0)
@register_rule("matmul", 0)
def dense(workload: Workload, device: Device) -> Kernel:
    """Kernel for every dense integer layer on every processor."""
    x86 = "ssse3" in device.features
    return DenseKernel(workload, "sse" if device.isa == "generic" and x86 else device.isa)
