"""The direct kernel and its rules."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import numpy as np
from tvm import tirx

from tvmquant.schedules.emitted import FusedKernel
from tvmquant.schedules.linear.geometry import Geometry
from tvmquant.schedules.linear.tiling import Sizes
from tvmquant.schedules.neon import tiling
from tvmquant.schedules.neon.bits import MOST_PAIRS, BitSource, Count
from tvmquant.schedules.neon.emit import emit_prim_func
from tvmquant.schedules.neon.expand import make_expansion
from tvmquant.schedules.neon.lookup import Lookup, TableSource, make_index_expansion
from tvmquant.schedules.neon.packing import pack_codes
from tvmquant.schedules.neon.pairs import DEPTH, Pairs, PairSource
from tvmquant.schedules.neon.plan import Plan
from tvmquant.schedules.neon.short import Byte, Half
from tvmquant.schedules.neon.source import Source
from tvmquant.schedules.neon.steps import Dot, Long, Matrix, Step
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.workload import Expansion, Kernel, Workload
from tvmquant.targets.device import Device

# Instruction sets of ``Device.isa``, and the steps of each that are worth trying at all.
_STEPS = {
    "neon": ("smlal", "sadalp", "mla", "mla8", "cnt", "tbl"),
    "neon_dotprod": ("sdot", "mla", "cnt", "tbl"),
    "neon_i8mm": ("usmmla", "sdot", "mla", "cnt", "tbl"),
}

# So many weights of 8 bits may take two bytes each in memory.
_FEW = 1 << 18
# Multiplications that keep the width of their operands take as long as two of the others. Before
# there were dot products, a look-up in two registers took as long as five additions.
_SLOW = {("mla", ""): 1.9, ("mla8", ""): 1.9, ("tbl", "neon"): 2.6}


def make_step(name: str, workload: Workload, compact: bool = False) -> Step | None:
    """The step of that name, None where its sums are not proven exact."""
    if name == "smlal":
        return Long(workload.w_bits, math.prod(workload.w_shape) <= _FEW and not compact)
    if name == "mla":
        step = Half(workload.x_bits, workload.w_bits)
        narrow = workload.w_bits < 8 and step.limit >= 2 * step.turn
        return step if narrow else None
    if name == "mla8":
        step = Byte(workload.x_bits, workload.w_bits)
        exact = math.prod(workload.w_shape[1:]) <= step.total and step.limit >= step.turn
        return step if workload.w_bits < 8 and exact else None
    if name == "cnt":
        if workload.w_bits * workload.x_bits > MOST_PAIRS:
            return None
        step = Count(workload.x_bits, workload.w_bits)
        return step if step.exact(math.prod(workload.w_shape[1:])) else None
    if name == "tbl":
        step = Lookup(workload.x_bits)
        exact = step.exact(math.prod(workload.w_shape[1:]))
        return step if workload.w_bits == 1 and exact else None
    steps = {"sdot": Dot, "usmmla": Matrix, "sadalp": Pairs}
    return steps[name](workload.w_bits)


@dataclass(frozen=True)
class DirectKernel(FusedKernel):
    """Register-tiled convolution or matmul with its whole epilogue.

    Attributes
    ----------
    workload : Workload
        ``conv2d`` or ``matmul``.
    isa : str
        ``neon``, ``neon_dotprod`` or ``neon_i8mm``.
    step_name : str
        Which multiply-add step; empty for the one that takes the fewest instructions.
    sizes : Sizes, optional
        Sizes that the tuner found.
    compact : bool
        Whether weights of 8 bits must not be widened at load time.
    """

    workload: Workload
    isa: str
    step_name: str = ""
    sizes: Sizes | None = None
    compact: bool = False

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and instructions."""
        w = self.workload
        parts = [w.op, "x".join(map(str, w.x_shape)), "x".join(map(str, w.w_shape))]
        if w.op != "matmul":
            numbers = (*w.strides, *w.padding, *w.dilation, w.groups)
            parts.append("_".join(map(str, numbers)))
        parts += [f"w{w.w_bits}a{w.x_bits}", w.requantize, self.plan.step.name]
        parts += ["compact"] * self.compact + [f"add_{w.residual}"] * bool(w.residual)
        return "_".join(parts)

    @property
    def label(self) -> str:
        """Instruction and register tile, for profiles."""
        s = self.plan.tiling.sizes
        return f"direct {self.plan.step.name} {s.rows}x{s.columns}x{s.vectors}"

    @cached_property
    def _steps(self) -> dict[str, tuple[Step, Source]]:
        geometry = Geometry.of(self.workload)
        found = {}
        for name in _STEPS[self.isa]:
            step = make_step(name, self.workload, self.compact)
            odd = geometry.out[0] * geometry.out[1] < (step.pixels if step else 1)
            if step is None or odd:
                continue
            source: Source | None = Source(geometry, step.x_dtype)
            if isinstance(step, Count):
                source = BitSource.of(self.workload)
            if isinstance(step, Lookup):
                source = TableSource.of(self.workload)
            if isinstance(step, Pairs):
                whole = geometry.group_channels % DEPTH == 0
                source = PairSource(geometry, step.x_dtype) if whole else None
            if source is not None:
                found[name] = (step, source)
        return found

    def has_step(self, name: str) -> bool:
        """Whether the workload can be computed with this step."""
        return name in self._steps

    @cached_property
    def plan(self) -> Plan:
        """Everything that decides the code."""
        name = self.step_name
        if not name:
            steps = self._steps
            name = min(steps, key=lambda key: self._cost(*steps[key]))
        step, source = self._steps[name]
        return Plan(self.workload, step, source, tiling.choose(source, step, self.sizes))

    def _cost(self, step: Step, source: Source) -> float:
        return self._cycles(step, source, min(tiling.candidates(source, step))[0])

    def _cycles(self, step: Step, source: Source, instructions: float) -> float:
        slow = _SLOW.get((step.name, self.isa), _SLOW.get((step.name, ""), 1.0))
        return slow * instructions + source.geometry.images * source.making

    @property
    def cost(self) -> float:
        """Estimate in cycles of a core that starts one vector operation in each."""
        plan = replace(self, sizes=None).plan
        return self._cost(plan.step, plan.source)

    @property
    def cycles(self) -> float:
        """As :attr:`cost`; comparable among kernels of one processor."""
        return self.cost

    @cached_property
    def _space(self) -> dict[tuple[str, Sizes], float]:
        first = replace(self, sizes=None).plan.step.name
        found: dict[tuple[str, Sizes], float] = {}
        for name in sorted(self._steps, key=lambda key: key != first):
            step, source = self._steps[name]
            for sizes, cost in tiling.space(source, step).items():
                found[name, sizes] = self._cycles(step, source, cost)
        return found

    def configs(self) -> list[Config]:
        """Steps, tiles and chunks worth trying, the default first."""
        return [{"step": name, **asdict(sizes)} for name, sizes in self._space]

    def with_config(self, config: Config) -> DirectKernel:
        """The same kernel with this step and sizes; ``ConfigError`` if they do not fit."""
        numbers = dict(config)
        name = numbers.pop("step", "")
        if name not in self._steps:
            raise ConfigError(f"{self.name} cannot have the step {name!r}")
        values = integers(numbers, *(field.name for field in fields(Sizes)))
        kernel = replace(self, step_name=name, sizes=Sizes(*values))
        kernel.plan  # noqa: B018  (checks the sizes)
        return kernel

    def estimate(self, config: Config) -> float:
        """Cycles that the model expects, see :attr:`cost`."""
        numbers = dict(config)
        name = numbers.pop("step")
        return self._space.get((name, Sizes(**numbers)), float("inf"))

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Constants of :meth:`prim_func`: weights, bias, requantize parameters."""
        plan = self.plan
        packed = plan.order(weight)
        if plan.expands:
            packed = pack_codes(packed, plan.stored_bits)
        return [packed, plan.bias(weight, bias), *(plan.outputs(values) for values in params)]

    def emit(self) -> tirx.PrimFunc:
        """Make ``(x, weights, bias, *params, qinfo, out)``."""
        return emit_prim_func(self.plan, self.name)

    @cached_property
    def _expansion(self) -> Expansion | None:
        plan = self.plan
        if not plan.expands:
            return None
        name = f"{self.name}_expand"
        if plan.looks_up:
            return make_index_expansion(name, plan.padded_outputs * plan.channel_weights)
        return make_expansion(name, plan.weight_count, plan.stored_bits, plan.step.w_dtype)

    def expansion(self) -> Expansion | None:
        """Sub-byte weights, unpacked at load time."""
        return self._expansion


@register_rule("conv2d", 5)
@register_rule("matmul", 5)
def direct(workload: Workload, device: Device) -> DirectKernel | None:
    """Direct kernel for every dense integer layer on 64-bit ARM."""
    return DirectKernel(workload, device.isa) if device.isa in _STEPS else None


@register_rule("conv2d", 4)
@register_rule("matmul", 4)
def direct_compact(workload: Workload, device: Device) -> Kernel | None:
    """The same without expanded weights, where that is another kernel."""
    kernel = direct(workload, device)
    if kernel is None or kernel.expansion() is None:
        return None
    if workload.w_bits < 8:
        return replace(kernel, step_name="cnt") if kernel.has_step("cnt") else None
    return replace(kernel, compact=True)
