"""Rules of the float operators that remain."""

from __future__ import annotations

from tvmquant.precision import HALF_BITS
from tvmquant.schedules.floating.dense import DenseKernel
from tvmquant.schedules.floating.depthwise import DepthwiseFloatKernel
from tvmquant.schedules.floating.half import ExpandedHalfKernel, at_32_bits, converts_half
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device


@register_rule("conv2d_float", 0)
@register_rule("matmul_float", 0)
def dense(workload: Workload, device: Device) -> Kernel | None:
    """Convolution and matrix product."""
    return DenseKernel(workload, device)


def _expanded(workload: Workload, device: Device) -> Kernel | None:
    if workload.w_bits != HALF_BITS:
        return None
    make = depthwise if workload.op.startswith("depthwise") else dense
    return ExpandedHalfKernel(workload, device, make(at_32_bits(workload), device))


@register_rule("conv2d_float", 10, consider=_expanded)
@register_rule("matmul_float", 10, consider=_expanded)
@register_rule("depthwise_conv2d_float", 10, consider=_expanded)
def expanded(workload: Workload, device: Device) -> Kernel | None:
    """float16 weights as float32 in memory, where no instruction widens them."""
    return None if converts_half(device) else _expanded(workload, device)


@register_rule("depthwise_conv2d_float", 0)
def depthwise(workload: Workload, device: Device) -> Kernel | None:
    """Depthwise convolution; with a channel multiplier it is a grouped convolution."""
    if workload.w_shape[0] == workload.x_shape[3]:
        return DepthwiseFloatKernel(workload, device)
    return DenseKernel(workload, device)
