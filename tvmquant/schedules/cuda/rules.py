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
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device


@register_rule("cuda/conv2d", 10)
@register_rule("cuda/matmul", 10)
def tensor_cores(workload: Workload, device: Device) -> TensorCoreKernel | None:
    """Tensor cores, for any shape."""
    return None if device.cuda is None else tensor_core_kernel(workload, device.cuda)


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
