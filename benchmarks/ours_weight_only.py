"""One matrix product with float activations as tvmquant's own kernel, checked against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.layer_data import LayerData
from benchmarks.peer_layers import BLOCK


class OurWeightOnlyLayer:
    """Kernel of a layer, compiled, with its tensors; a scale for every block of inputs.

    Attributes
    ----------
    label : str
        Name of the kernel.
    exact : bool
        Whether the result is as close to the reference as float32 can be sure to be.
    """

    def __init__(self, data: LayerData) -> None:
        import tvm

        from benchmarks.ours_layer import compiled
        from tvmquant import reference
        from tvmquant.schedules.selection import KernelTable, label_of
        from tvmquant.schedules.workload import Workload
        from tvmquant.targets import get_device

        layer, device = data.layer, get_device("host")
        workload = Workload(
            "matmul_weight_only",
            layer.x_shape,
            layer.w_shape,
            x_bits=32,
            w_bits=data.w_bits,
            requantize="float32",
            group_size=BLOCK if BLOCK < layer.channels else 0,
        )
        kernel = KernelTable(device)[workload]
        self.label = label_of(kernel)
        rng = np.random.default_rng(4)
        x = rng.standard_normal(layer.x_shape).astype(np.float32)
        blocks = -(-layer.channels // BLOCK)
        scale = rng.uniform(0.005, 0.015, (layer.outputs, blocks)).astype(np.float32)
        bias = np.zeros(layer.outputs, np.float32)
        arrays = kernel.pack(data.w, bias, (scale,))
        self.out = tvm.runtime.empty(workload.out_shape, workload.out_dtype)
        self.arguments = [*map(tvm.runtime.tensor, (x, *arrays)), self.out]
        self.function = compiled(tvm, kernel.prim_func(), device)
        self.run()
        operands = (x, data.w, scale, bias)
        error = self.out.numpy() - reference.weight_only_matmul(*operands, group_size=BLOCK)
        bound = reference.weight_only_bound(*operands, group_size=BLOCK)
        self.exact = bool((np.abs(error) <= bound).all())

    def run(self) -> Any:
        self.function(*self.arguments)
