"""Rules of the weight-only matrix product."""

from __future__ import annotations

from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.weight_only.kernel import WeightOnlyKernel
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device


@register_rule("matmul_weight_only", 0)
def weight_only(workload: Workload, device: Device) -> Kernel | None:
    """Any shape on any processor."""
    return WeightOnlyKernel(workload, device)
