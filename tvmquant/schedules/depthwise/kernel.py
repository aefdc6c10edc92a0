"""The integer depthwise kernel and its rule."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from tvmquant.schedules.depthwise.dots import dot_class
from tvmquant.schedules.depthwise.emit import DepthwiseEmitter
from tvmquant.schedules.depthwise.packing import pack_channels, pack_weight
from tvmquant.schedules.depthwise.plan import Sizes, make_plan, space
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.space import Config, integers
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device


class DepthwiseKernel:
    """Depthwise convolution on integers, any kernel, stride, dilation, padding, multiplier.

    Parameters
    ----------
    workload : Workload
        ``depthwise_conv2d``; the output channels are a multiple of the input channels.
    device : Device
    sizes : Sizes, optional
        Block and tile that the tuner found.
    """

    def __init__(self, workload: Workload, device: Device, sizes: Sizes | None = None) -> None:
        make_dot, widths = dot_class(device.isa, workload.x_bits, workload.w_bits)
        self.workload, self.device, self._widths = workload, device, widths
        self.plan = make_plan(workload, widths, make_dot.group, device.num_cores, sizes)
        self.dot = make_dot(self.plan.width)
        kh, kw = workload.w_shape[1:3]
        self.name = f"depthwise_conv2d_{kh}x{kw}_w{workload.w_bits}_{device.isa}"

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """``[weight, bias, *params]`` by channel blocks; see :mod:`.packing`."""
        order = self.dot.channel_order()
        constants = [pack_channels(values, self.plan, order) for values in (bias, *params)]
        return [pack_weight(weight, self.workload.w_bits, self.plan), *constants]

    def prim_func(self) -> Any:
        """PrimFunc ``(x, weight, bias, *params, qinfo, out)``."""
        return DepthwiseEmitter(self.workload, self.plan, self.dot).prim_func(self.name)

    def configs(self) -> list[Config]:
        """Channel blocks and tiles worth trying, the default first."""
        return [asdict(sizes) for sizes in space(self.workload, self._widths, self.dot.group)]

    def with_config(self, config: Config) -> DepthwiseKernel:
        """The same kernel with these sizes; ``ConfigError`` if they do not fit."""
        names = [field.name for field in fields(Sizes)]
        return DepthwiseKernel(self.workload, self.device, Sizes(*integers(config, *names)))


@register_rule("depthwise_conv2d", 10)
def depthwise(workload: Workload, device: Device) -> Kernel | None:
    """Rule for every depthwise convolution on a CPU."""
    if workload.w_shape[3] != 1 or workload.groups != workload.x_shape[3]:
        return None
    return DepthwiseKernel(workload, device)
