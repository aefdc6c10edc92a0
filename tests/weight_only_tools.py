"""Data for the tests of weight-only matrix products."""

from dataclasses import dataclass, replace

import numpy as np
import tvm
from kernel_tools import build

from tvmquant import reference
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import get_device

HOST = replace(get_device("host"), num_cores=4)
AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi")
DEVICES = {
    "host": HOST,
    "avx_vnni": HOST.without(*AVX512),
    "no_vnni": HOST.without("avx512vnni", "avxvnni"),
    "avx2": HOST.without(*AVX512, "avxvnni"),
    "generic": get_device({"kind": "llvm", "num-cores": 4}),
}


def weight_only_workload(rows, depth, outputs, bits, group_size=0, zero_points=False, **changes):
    return Workload(
        "matmul_weight_only",
        (rows, depth),
        (outputs, depth),
        x_bits=32,
        w_bits=bits,
        requantize="float32",
        group_size=group_size,
        zero_points=zero_points,
        **changes,
    )


@dataclass
class WeightOnlyData:
    """Operands of :func:`tvmquant.reference.weight_only_matmul`."""

    x: np.ndarray
    w: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    zero_point: np.ndarray | None
    group_size: int

    @classmethod
    def of(cls, workload, seed=0, spread=1.0):
        """Random operands; activations differ by a factor of about ``exp(2 * spread)``."""
        rng = np.random.default_rng(seed)
        outputs, depth = workload.w_shape
        group_size = workload.group_size or depth
        low, high = -(2 ** (workload.w_bits - 1)), 2 ** (workload.w_bits - 1)
        shape = (outputs, -(-depth // group_size))
        x = rng.standard_normal(workload.x_shape)
        x = x * np.exp(spread * rng.standard_normal(workload.x_shape))
        zero_point = rng.integers(low, high, shape).astype(np.int8)
        return cls(
            x.astype(np.float32),
            rng.integers(low, high, workload.w_shape).astype(np.int8),
            rng.uniform(0.001, 2.0, shape).astype(np.float32),
            rng.standard_normal(outputs).astype(np.float32),
            zero_point if workload.zero_points else None,
            group_size,
        )

    @property
    def params(self):
        """Third argument of ``Kernel.pack``."""
        return (self.scale,) if self.zero_point is None else (self.scale, self.zero_point)

    def expected(self):
        """The reference and the largest error of a kernel."""
        args = (self.x, self.w, self.scale, self.bias, self.zero_point)
        made = reference.weight_only_matmul(*args, group_size=self.group_size)
        return made, reference.weight_only_bound(*args, group_size=self.group_size)


def run_weight_only(kernel, device, data):
    """Output of a kernel, written into the middle of a buffer whose ends must stay as they were."""
    module = build(kernel, device)
    shape = kernel.workload.out_shape
    memory = np.full(int(np.prod(shape)) + 64, 7.0, np.float32)
    start = (-memory.ctypes.data % 64 + 64) // 4
    inside = memory[start : start + int(np.prod(shape))]
    packed = kernel.pack(data.w, data.bias, data.params)
    out = tvm.runtime.from_dlpack(inside.reshape(shape))
    module[kernel.name](*map(tvm.runtime.tensor, (data.x, *packed)), out)
    assert (memory[:start] == 7).all() and (memory[start + inside.size :] == 7).all()
    return inside.reshape(shape)
