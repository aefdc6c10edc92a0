"""Rules of the weight-only matrix product."""

from __future__ import annotations

from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.weight_only.integer import IntegerKernel, vector_lanes
from tvmquant.schedules.weight_only.kernel import WeightOnlyKernel
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device

# A group of integers ends with some ten instructions, so that it must not be short.
_SHORTEST = 16


@register_rule("matmul_weight_only", 0)
def weight_only(workload: Workload, device: Device) -> Kernel | None:
    """Any shape on any processor."""
    return WeightOnlyKernel(workload, device)


@register_rule("matmul_weight_only", 10)
def digits(workload: Workload, device: Device) -> Kernel | None:
    """Where a byte dot product is one instruction."""
    outputs, depth = workload.w_shape
    group = min(workload.group_size or depth, depth)
    exact = group * (2**workload.w_bits - 1) * 128 < 1 << 31
    if not exact or group < _SHORTEST or not vector_lanes(device, outputs):
        return None
    return IntegerKernel(workload, device)
