"""Data for the kernels' tests, their meaning in NumPy, and a run that guards the output's ends."""

import numpy as np
import tvm

from tvmquant import reference
from tvmquant.schedules.meaning import integer_layer as expected  # noqa: F401  (for the tests)
from tvmquant.schedules.selection import expansion_of


def make_data(workload, seed=0, extreme=False):
    """Stored activations, weights, bias, requantize parameters and qinfo.

    ``extreme`` puts nearly all values at their limits: a third of the channels has only the
    largest weight, a third only the smallest, the others both.
    """
    rng = np.random.default_rng(seed)
    x_max, bits, outputs = 2**workload.x_bits - 1, workload.w_bits, workload.w_shape[0]
    x = rng.integers(0, x_max + 1, workload.x_shape)
    w = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), workload.w_shape)
    if bits == 1:
        w = rng.integers(0, 2, workload.w_shape) * 2 - 1
    if extreme:
        x = np.where(rng.random(x.shape) < 0.95, x_max, x)
        w = np.where(rng.random(w.shape) < 0.5, w.max(), w.min())
        w[: outputs // 3] = w.max()
        w[outputs // 3 : 2 * outputs // 3] = w.min()
    if workload.no_saturation:
        w = np.clip(w, -64, 64)
    spread = np.sqrt(np.prod(workload.w_shape[1:])) * 2.0 ** (workload.x_bits + bits - 2)
    reach = int(min(4000, 4 * spread)) + 1
    bias = rng.integers(-reach, reach, outputs).astype(np.int32)
    multiplier = 60 / spread * 2.0 ** rng.uniform(-4, 4, outputs if seed % 3 else 1)
    low, high = sorted(rng.integers(0, 256, 2).tolist())
    qinfo = np.array([rng.integers(0, x_max + 1), rng.integers(0, 256), low, high], np.int32)
    params = reference.make_requantize_params(multiplier, workload.requantize)
    return x.astype(np.uint8), w.astype(np.int8), bias, params, qinfo


def build(kernel, device):
    """Compile the kernel, and what expands its constants, for a device."""
    functions = {kernel.name: kernel.prim_func()}
    expansion = expansion_of(kernel)
    if expansion is not None:
        functions[str(expansion.func.attrs["global_symbol"])] = expansion.func
    return tvm.compile(tvm.IRModule(functions), target=device.target)


def run(kernel, device, x, w, bias, params, qinfo, *others):
    """Run into the middle of a larger buffer whose ends must stay as they were."""
    workload, built = kernel.workload, build(kernel, device)
    packed = [tvm.runtime.tensor(array) for array in kernel.pack(w, bias, params)]
    expansion = expansion_of(kernel)
    if expansion is not None:
        expanded = [tvm.runtime.empty(shape, dtype) for shape, dtype in expansion.outputs]
        stored, packed = packed[: expansion.inputs], packed[expansion.inputs :]
        built[str(expansion.func.attrs["global_symbol"])](*stored, *expanded)
        packed = [*expanded, *packed]
    size = int(np.prod(workload.out_shape)) * np.dtype(workload.out_dtype).itemsize
    memory = np.full(size + 256, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64 + 64
    inside = memory[start : start + size]
    out = inside.view(workload.out_dtype).reshape(workload.out_shape)
    arrays = [tvm.runtime.tensor(x), *packed, *map(tvm.runtime.tensor, (qinfo, *others))]
    built[kernel.name](*arrays, tvm.runtime.from_dlpack(out))
    assert (memory[:start] == 0xA5).all() and (memory[start + size :] == 0xA5).all()
    return out
