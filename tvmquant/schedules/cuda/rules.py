"""Which kernel a layer has on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable

from tvmquant.schedules.cuda.kernel import TensorCoreKernel, tensor_core_kernel
from tvmquant.schedules.cuda.plain import (
    DepthwiseKernel,
    FloatKernel,
    PlainKernel,
    WeightOnlyKernel,
)
from tvmquant.schedules.cuda.warpgroup import WarpgroupKernel, warpgroup_kernel
from tvmquant.schedules.cuda.weight_only import (
    WeightOnlyTensorKernel,
    any_weight_only_tensor_kernel,
    weight_only_tensor_kernel,
)
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device


@register_rule("cuda/conv2d", 10)
@register_rule("cuda/matmul", 10)
def tensor_cores(workload: Workload, device: Device) -> TensorCoreKernel | None:
    """Tensor cores, for any shape."""
    return None if device.cuda is None else tensor_core_kernel(workload, device.cuda)


def _any_warpgroups(workload: Workload, device: Device) -> WarpgroupKernel | None:
    return None if device.cuda is None else warpgroup_kernel(workload, device.cuda)


@register_rule("cuda/conv2d", 20, consider=_any_warpgroups)
@register_rule("cuda/matmul", 20, consider=_any_warpgroups)
def warpgroups(workload: Workload, device: Device) -> WarpgroupKernel | None:
    """Hopper's products of four warps, where they should be faster: for layers large enough."""
    kernel = _any_warpgroups(workload, device)
    other = tensor_cores(workload, device) if kernel else None
    if kernel is None or other is None:
        return kernel
    faster = kernel.estimate(kernel.plan.config) < other.estimate(other.plan.config)
    return kernel if faster else None


def _any_weight_only(workload: Workload, device: Device) -> WeightOnlyTensorKernel | None:
    return None if device.cuda is None else any_weight_only_tensor_kernel(workload, device.cuda)


@register_rule("cuda/matmul_weight_only", 20, consider=_any_weight_only)
def weight_only_tensor_cores(workload: Workload, device: Device) -> WeightOnlyTensorKernel | None:
    """Tensor cores from sm_80 on, for layers that are not tiny."""
    return None if device.cuda is None else weight_only_tensor_kernel(workload, device.cuda)


def _plain(
    kind: type[PlainKernel],
) -> Callable[[Workload, Device], PlainKernel | None]:
    def rule(workload: Workload, device: Device) -> PlainKernel | None:
        return kind(workload)

    rule.__qualname__ = f"plain_{kind.__name__}"
    return rule


for _op, _kind in (
    ("depthwise_conv2d", DepthwiseKernel),
    ("conv2d_float", FloatKernel),
    ("depthwise_conv2d_float", FloatKernel),
    ("matmul_float", FloatKernel),
    ("matmul_weight_only", WeightOnlyKernel),
):
    register_rule(f"cuda/{_op}", 10)(_plain(_kind))
