"""The NEON depthwise kernel and its rule."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property

import numpy as np
from tvm import tirx

from tvmquant.schedules.depthwise.packing import pack_channels, pack_weight
from tvmquant.schedules.neon.depthwise.chains import Form
from tvmquant.schedules.neon.depthwise.emit import emit_prim_func
from tvmquant.schedules.neon.depthwise.plan import WIDTH, Plan, Sizes, make_plan, space
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.space import Config, integers
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

_SETS = ("neon", "neon_dotprod", "neon_i8mm")


@dataclass(frozen=True)
class DepthwiseNeonKernel:
    """Depthwise convolution on blocks of 16 channels.

    Attributes
    ----------
    workload : Workload
        ``depthwise_conv2d`` with one output channel for each of at least 16 input channels.
    isa : str
        ``neon``, ``neon_dotprod`` or ``neon_i8mm``.
    cores : int
        Of the device.
    sizes : Sizes, optional
        Sizes that the tuner found.
    """

    workload: Workload
    isa: str
    cores: int = 1
    sizes: Sizes | None = None

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and instructions."""
        w = self.workload
        numbers = (*w.strides, *w.padding, *w.dilation)
        parts = [w.op, "x".join(map(str, w.x_shape)), "x".join(map(str, w.w_shape[1:3]))]
        parts += ["_".join(map(str, numbers)), f"w{w.w_bits}a{w.x_bits}", w.requantize, "smlal8"]
        return "_".join(parts)

    @property
    def label(self) -> str:
        """Instruction and tile, for profiles."""
        return f"depthwise smlal8 {self.plan.sizes.band}x{self.plan.sizes.columns}"

    @cached_property
    def form(self) -> Form:
        """How activations are stored and multiplied."""
        return Form(self.workload)

    @cached_property
    def plan(self) -> Plan:
        """Every size of the code."""
        return make_plan(self.workload, self.cores, self.sizes)

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Constants of :meth:`prim_func`: weights, bias of both colours, requantize parameters.

        Parameters
        ----------
        weight : np.ndarray
            int8, shape ``workload.w_shape``, values within ``workload.w_bits`` bits.
        bias : np.ndarray
            int32 ``[O]``.
        params : tuple of np.ndarray
            Requantize parameters, each ``[O]`` or ``[1]``.
        """
        order = np.arange(WIDTH)
        biases = []
        for colour in range(self.form.colours):
            total = bias.astype(np.int64) + self.form.correction(weight, colour)
            wrapped = (total & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
            biases.append(pack_channels(wrapped, self.plan, order))
        constants = [pack_channels(values, self.plan, order) for values in params]
        packed = pack_weight(weight, self.workload.w_bits, self.plan)
        return [packed, np.stack(biases), *constants]

    @cached_property
    def _prim_func(self) -> tirx.PrimFunc:
        return emit_prim_func(self.plan, self.form, self.name)

    def prim_func(self) -> tirx.PrimFunc:
        """Return the PrimFunc ``(x, weight, bias, *params, qinfo, out)``."""
        return self._prim_func

    def configs(self) -> list[Config]:
        """Bands and tiles worth trying, the default first."""
        return [asdict(sizes) for sizes in space(replace(self, sizes=None).plan)]

    def with_config(self, config: Config) -> DepthwiseNeonKernel:
        """The same kernel at these sizes; ``ConfigError`` if they do not fit."""
        names = [field.name for field in fields(Sizes)]
        kernel = replace(self, sizes=Sizes(*integers(config, *names)))
        kernel.plan  # noqa: B018  (checks the sizes)
        return kernel


@register_rule("depthwise_conv2d", 20)
def depthwise(workload: Workload, device: Device) -> DepthwiseNeonKernel | None:
    """Depthwise layers of 64-bit ARM with at least 16 channels."""
    single = workload.w_shape[0] == workload.groups == workload.x_shape[3]
    if device.isa not in _SETS or not single or workload.x_shape[3] < WIDTH:
        return None
    return DepthwiseNeonKernel(workload, device.isa, device.num_cores)
