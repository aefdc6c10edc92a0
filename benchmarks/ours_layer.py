"""One layer as tvmquant's own kernel, checked against the NumPy reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import limits
from benchmarks.layer_data import OUT_ZERO_POINT, X_ZERO_POINT, LayerData


class OurLayer:
    """Kernel of a layer, compiled, with its tensors.

    Attributes
    ----------
    label : str
        Name of the kernel.
    exact : bool
        Whether the result equals the reference bit for bit.
    """

    def __init__(self, data: LayerData) -> None:
        import tvm

        from tvmquant import reference
        from tvmquant.schedules.meaning import integer_layer
        from tvmquant.schedules.selection import KernelTable, expansion_of, label_of

        device = limits.device()
        workload = _workload(data)
        kernel = KernelTable(device)[workload]
        self.label = label_of(kernel)
        params = reference.make_requantize_params(
            np.full(data.layer.outputs, data.multiplier), "float"
        )
        arrays = kernel.pack(data.w, data.bias, params)
        constants = [tvm.runtime.tensor(array) for array in arrays]
        expansion = expansion_of(kernel)
        if expansion is not None:
            made = [tvm.runtime.empty(shape, dtype) for shape, dtype in expansion.outputs]
            expand = compiled(tvm, expansion.func, device)
            expand(*constants[: expansion.inputs], *made)
            constants = [*made, *constants[expansion.inputs :]]
        qinfo = np.array([X_ZERO_POINT, OUT_ZERO_POINT, 0, 255], np.int32)
        self.out = tvm.runtime.empty(workload.out_shape, workload.out_dtype)
        self.arguments = [
            *(tvm.runtime.tensor(data.x), *constants, tvm.runtime.tensor(qinfo)),
            self.out,
        ]
        self.function = compiled(tvm, kernel.prim_func(), device)
        self.run()
        wanted = integer_layer(workload, data.x, data.w, data.bias, params, qinfo)
        self.exact = bool(np.array_equal(self.out.numpy(), wanted))

    def run(self) -> Any:
        self.function(*self.arguments)


def _workload(data: LayerData) -> Any:
    from tvmquant.schedules.linear import cannot_saturate
    from tvmquant.schedules.workload import Workload

    layer = data.layer
    common = {
        "x_bits": data.x_bits,
        "w_bits": data.w_bits,
        "no_saturation": data.w_bits == 8 and cannot_saturate(data.w, data.x_bits),
    }
    if layer.is_matmul:
        return Workload("matmul", layer.x_shape, layer.w_shape, **common)
    return Workload(
        "depthwise_conv2d" if layer.groups > 1 else "conv2d",
        layer.x_shape,
        layer.w_shape,
        (layer.stride, layer.stride),
        layer.padding,
        (1, 1),
        layer.groups,
        **common,
    )


def compiled(tvm: Any, func: Any, device: Any) -> Any:
    """A kernel's function, built."""
    named = func.with_attr("global_symbol", "layer")
    return tvm.compile(tvm.IRModule({"layer": named}), target=device.target)["layer"]
