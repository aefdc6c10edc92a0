"""Rules of the float operators that remain."""

from __future__ import annotations

from tvmquant.schedules.floating.dense import DenseKernel
from tvmquant.schedules.floating.depthwise import DepthwiseFloatKernel
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device


@register_rule("conv2d_float", 0)
@register_rule("matmul_float", 0)
def dense(workload: Workload, device: Device) -> Kernel | None:
    """Convolution and matrix product."""
    return DenseKernel(workload, device)


@register_rule("depthwise_conv2d_float", 0)
def depthwise(workload: Workload, device: Device) -> Kernel | None:
    """Depthwise convolution; with a channel multiplier it is a grouped convolution."""
    if workload.w_shape[0] == workload.x_shape[3]:
        return DepthwiseFloatKernel(workload, device)
    return DenseKernel(workload, device)
