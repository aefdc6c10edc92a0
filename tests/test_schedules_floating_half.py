"""Kernels of float16 weights compute what the float32 kernels compute with the rounded weights."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from kernel_tools import build
from test_schedules_floating import DEVICES, expected, float_workload, make_data

from tvmquant.schedules.floating.dense import DenseKernel
from tvmquant.schedules.floating.depthwise import DepthwiseFloatKernel
from tvmquant.schedules.floating.half import ExpandedHalfKernel, at_32_bits, converts_half
from tvmquant.schedules.selection import KernelTable, expansion_of
from tvmquant.targets.device import get_device

LAYERS = {
    "one_row": float_workload("matmul_float", (1, 130), (70, 130)),
    "rows": float_workload("matmul_float", (37, 64), (33, 64)),
    "narrow": float_workload("matmul_float", (5, 9), (3, 9)),
    "conv": float_workload(
        "conv2d_float", (1, 9, 8, 5), (20, 3, 3, 5), (1, 1), (1, 1, 1, 1), (1, 1), 1
    ),
    "groups": float_workload(
        "conv2d_float", (2, 9, 8, 12), (24, 3, 3, 4), (2, 2), (1, 1, 1, 1), (1, 1), 3
    ),
    "depthwise": float_workload(
        "depthwise_conv2d_float", (1, 9, 8, 20), (20, 3, 3, 1), (1, 1), (1, 1, 1, 1), (1, 1), 20
    ),
}


def half(name):
    return replace(LAYERS[name], w_bits=16)


def run_kernel(kernel, device, x, w, bias):
    module = build(kernel, device)
    arrays = [tvm.runtime.tensor(array) for array in kernel.pack(w, bias, ())]
    expansion = expansion_of(kernel)
    if expansion is not None:
        ((shape, dtype),) = expansion.outputs
        expanded = tvm.runtime.tensor(np.full(shape, np.nan, dtype))
        module["widen_half"](arrays[0], expanded)
        arrays[0] = expanded
    out = tvm.runtime.tensor(np.zeros(kernel.workload.out_shape, np.float32))
    module[kernel.name](tvm.runtime.tensor(x), *arrays, out)
    return out.numpy()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("device", ["host", "generic"])
def test_both_kinds_equal_the_float_kernel(layer, device):
    device = DEVICES[device]
    workload = half(layer)
    x, w, bias = make_data(workload, 0)
    w[w > 1.5] *= 1e-6  # below the normal range of float16
    rounded = w.astype(np.float16).astype(np.float32)
    make = DepthwiseFloatKernel if layer == "depthwise" else DenseKernel
    plain = make(at_32_bits(workload), device)
    want = run_kernel(plain, device, x, rounded, bias)
    np.testing.assert_allclose(want, expected(workload, x, rounded, bias), rtol=1e-4, atol=1e-4)
    for kernel in (make(workload, device), ExpandedHalfKernel(workload, device, plain)):
        stored = kernel.pack(w, bias, ())[0]
        assert stored.dtype == np.uint16
        np.testing.assert_array_equal(run_kernel(kernel, device, x, w, bias), want)


def test_expanding_is_for_processors_without_the_conversion():
    for device, native in ((DEVICES["generic"], False), (get_device("rpi4"), True)):
        assert converts_half(device) == native
        for layer in LAYERS:
            assert (expansion_of(KernelTable(device)[half(layer)]) is None) == native
            table = KernelTable(device, expand=False)
            assert expansion_of(table[half(layer)]) is None
    assert converts_half(DEVICES["host"]) == ("f16c" in DEVICES["host"].features)
    assert not converts_half(get_device("armv7l"))


def test_sizes_can_be_tuned():
    kernel = KernelTable(DEVICES["generic"])[half("conv")]
    assert isinstance(kernel, ExpandedHalfKernel)
    other = kernel.with_config(kernel.configs()[-1])
    x, w, bias = make_data(kernel.workload, 0)
    rounded = w.astype(np.float16).astype(np.float32)
    made = run_kernel(other, DEVICES["generic"], x, w, bias)
    want = expected(kernel.workload, x, rounded, bias)
    np.testing.assert_allclose(made, want, rtol=1e-4, atol=1e-4)


def test_the_conversion_is_one_instruction():
    device = get_device("rpi4")
    module = tvm.compile(DenseKernel(half("rows"), device).prim_func(), target=device.target)
    text = module.mod.inspect_source("asm") if hasattr(module, "mod") else ""
    assert "fcvtl" in text
