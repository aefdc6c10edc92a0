"""The NEON depthwise kernel and its rule."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import numpy as np
from tvm import tirx

from tvmquant.reference import wrap_int32
from tvmquant.schedules.depthwise.packing import pack_channels, pack_weight
from tvmquant.schedules.emitted import FusedKernel
from tvmquant.schedules.neon.depthwise.chains import Form
from tvmquant.schedules.neon.depthwise.cost import cost
from tvmquant.schedules.neon.depthwise.dots import Dots
from tvmquant.schedules.neon.depthwise.emit import emit_prim_func
from tvmquant.schedules.neon.depthwise.plan import WIDTH, Plan, Sizes, make_plan, space
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

# Instruction sets of ``Device.isa``, and the steps that each may take.
_STEPS = {
    "neon": ("smlal",),
    "neon_dotprod": ("sdot", "smlal"),
    "neon_i8mm": ("usdot", "smlal"),
}


@dataclass(frozen=True)
class DepthwiseNeonKernel(FusedKernel):
    """Depthwise convolution on blocks of 16 channels.

    Attributes
    ----------
    workload : Workload
        ``depthwise_conv2d`` with one output channel for each of at least 16 input channels.
    isa : str
        ``neon``, ``neon_dotprod`` or ``neon_i8mm``.
    cores : int
        Of the device.
    step_name : str
        Which multiply-add step; empty for the one that should take the fewest cycles.
    sizes : Sizes, optional
        Sizes that the tuner found.
    """

    workload: Workload
    isa: str
    cores: int = 1
    step_name: str = ""
    sizes: Sizes | None = None

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and instructions."""
        w = self.workload
        numbers = (*w.strides, *w.padding, *w.dilation)
        parts = [w.op, "x".join(map(str, w.x_shape)), "x".join(map(str, w.w_shape[1:3]))]
        parts += ["_".join(map(str, numbers)), f"w{w.w_bits}a{w.x_bits}", w.requantize, self.step]
        return "_".join(parts + [f"add_{w.residual}"] * bool(w.residual))

    @property
    def label(self) -> str:
        """Instruction and tile, for profiles."""
        plan = self.plan
        return f"depthwise {self.step} {plan.sizes.band}: {plan.rows}x{plan.sizes.columns}"

    @cached_property
    def step(self) -> str:
        """Which multiply-add step."""
        if self.step_name:
            return self.step_name
        return min(_STEPS[self.isa], key=lambda name: replace(self, step_name=name).cycles)

    @cached_property
    def form(self) -> Form | Dots:
        """How activations are stored and multiplied."""
        if self.step == "smlal":
            return Form(self.workload)
        return Dots(self.workload, mixed=self.step == "usdot")

    @cached_property
    def plan(self) -> Plan:
        """Every size of the code."""
        return make_plan(self.workload, self.form.rows, self.cores, self.sizes)

    @property
    def cycles(self) -> float:
        """Estimate for a core that starts one vector operation in each."""
        return cost(self.plan, self.form)

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Constants of :meth:`prim_func`: weights, bias of both colours, requantize parameters."""
        order = np.arange(WIDTH)
        biases = []
        for colour in range(self.form.colours):
            total = bias.astype(np.int64) + self.form.correction(weight, colour)
            biases.append(pack_channels(wrap_int32(total), self.plan, order))
        constants = [pack_channels(values, self.plan, order) for values in params]
        packed = pack_weight(weight, self.workload.w_bits, self.plan)
        return [packed, np.stack(biases), *constants]

    def emit(self) -> tirx.PrimFunc:
        """Make ``(x, weight, bias, *params, qinfo, [other], out)``."""
        return emit_prim_func(self.plan, self.form, self.name)

    def configs(self) -> list[Config]:
        """Steps, bands and tiles worth trying, the default first."""
        default = replace(self, step_name="", sizes=None)
        found = []
        for name in sorted(_STEPS[self.isa], key=lambda name: name != default.step):
            plan = replace(default, step_name=name).plan
            found += [{"step": name, **asdict(sizes)} for sizes in space(plan)]
        return found

    def estimate(self, config: Config) -> float:
        """Relative cost of a configuration, see :attr:`cycles`."""
        return self.with_config(config).cycles

    def with_config(self, config: Config) -> DepthwiseNeonKernel:
        """The same kernel with this step and sizes; ``ConfigError`` if they do not fit."""
        numbers = dict(config)
        name = numbers.pop("step", "")
        if name not in _STEPS[self.isa]:
            raise ConfigError(f"{self.name} cannot have the step {name!r}")
        names = [field.name for field in fields(Sizes)]
        kernel = replace(self, step_name=name, sizes=Sizes(*integers(numbers, *names)))
        kernel.plan  # noqa: B018  (checks the sizes)
        return kernel


@register_rule("depthwise_conv2d", 20)
def depthwise(workload: Workload, device: Device) -> DepthwiseNeonKernel | None:
    """Depthwise layers of 64-bit ARM with at least 16 channels."""
    single = workload.w_shape[0] == workload.groups == workload.x_shape[3]
    if device.isa not in _STEPS or not single or workload.x_shape[3] < WIDTH:
        return None
    return DepthwiseNeonKernel(workload, device.isa, device.num_cores)
