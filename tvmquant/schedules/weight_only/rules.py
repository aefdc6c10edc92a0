"""Rules of the weight-only matrix product."""

from __future__ import annotations

from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.weight_only.dots import byte_dot
from tvmquant.schedules.weight_only.integer import IntegerKernel
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
    """Where byte dot products cost less than float weights."""
    (outputs, depth), bits = workload.w_shape, workload.w_bits
    group = min(workload.group_size or depth, depth)
    exact = group * (2**bits - 1) * 128 < 1 << 31
    dot = byte_dot(device, outputs, bits)
    if dot is None or not exact or group < _SHORTEST:
        return None
    # Two instructions a product pay while each weight is used once or twice.
    if dot.flush and workload.x_shape[0] > (2 if bits == 4 else 1):
        return None
    return IntegerKernel(workload, device)
