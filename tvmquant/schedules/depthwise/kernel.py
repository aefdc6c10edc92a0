"""The integer depthwise kernel and its rule."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvmquant.schedules.depthwise.dots import dot_class
from tvmquant.schedules.depthwise.emit import DepthwiseEmitter
from tvmquant.schedules.depthwise.packing import pack_channels, pack_weight
from tvmquant.schedules.depthwise.plan import make_plan
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device


class DepthwiseKernel:
    """Depthwise convolution on integers, any kernel, stride, dilation, padding, multiplier.

    Parameters
    ----------
    workload : Workload
        ``depthwise_conv2d``; the output channels are a multiple of the input channels.
    device : Device
    """

    def __init__(self, workload: Workload, device: Device) -> None:
        make_dot, widths = dot_class(device.isa, workload.x_bits, workload.w_bits)
        self.workload = workload
        self.plan = make_plan(workload, widths, make_dot.group, device.num_cores)
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


@register_rule("depthwise_conv2d", 10)
def depthwise(workload: Workload, device: Device) -> Kernel | None:
    """Rule for every depthwise convolution on a CPU."""
    if workload.w_shape[3] != 1 or workload.groups != workload.x_shape[3]:
        return None
    return DepthwiseKernel(workload, device)
