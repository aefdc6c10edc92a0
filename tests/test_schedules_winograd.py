"""Winograd kernels against the NumPy reference, on every instruction set that this CPU executes."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data
from winograd_tools import DEVICES, check, conv, make_kernel, on_every_device, run_on

from tvmquant import reference
from tvmquant.schedules.winograd.algorithms import ALGORITHMS, SMALL_ALGORITHMS
from tvmquant.schedules.winograd.bounds import largest_weight
from tvmquant.schedules.winograd.choose import METHODS, method

METHOD_BITS = {
    "bytes2": (4, 4),
    "bytes3": (2, 2),
    "bytes4": (1, 1),
    "bytes23": (4, 2),
    "bytes34": (2, 2),
}


@on_every_device
@pytest.mark.parametrize("size, kind", METHODS)
def test_every_method_equals_reference(isa, size, kind):
    x_bits, w_bits = METHOD_BITS.get(f"{kind}{size}", (8, 8))
    flavour = reference.FLAVOURS[size % 10]
    workload = conv(2, 9, 14, 37, 43, (0, 1, 2, 1), x_bits=x_bits, w_bits=w_bits)
    kernel = make_kernel(replace(workload, requantize=flavour), isa, (size, kind))
    assert kernel.plan.operands.name == kind and kernel.plan.algorithm.size == size
    check(kernel, isa, seed=size)


@st.composite
def convolutions(draw):
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    return conv(
        draw(st.integers(1, 3)),
        draw(st.integers(max(1, 3 - padding[0] - padding[2]), 13)),
        draw(st.integers(max(1, 3 - padding[1] - padding[3]), 18)),
        draw(st.sampled_from([1, 2, 3, 5, 8, 16, 24, 33, 40, 64])),
        draw(st.sampled_from([1, 3, 8, 10, 16, 24, 31, 48, 72, 112])),
        padding,
        x_bits=draw(st.sampled_from([8, 4, 2, 1])),
        w_bits=draw(st.sampled_from([8, 4, 2, 1])),
        requantize=draw(st.sampled_from(reference.FLAVOURS)),
    )


@on_every_device
@settings(max_examples=6, deadline=None)
@given(convolutions(), st.sampled_from(METHODS), st.integers(0, 99))
@example(conv(1, 1, 1, 1, 1), (4, "words"), 1)
@example(conv(3, 4, 4, 6, 20, (2, 2, 2, 2), w_bits=1), (3, "words"), 2)
@example(conv(1, 5, 30, 7, 9, (0, 0, 0, 0), x_bits=1, w_bits=1), (2, "bytes"), 3)
def test_equals_reference(isa, workload, which, seed):
    kernel = make_kernel(workload, isa, which)
    assume(kernel is not None)
    check(kernel, isa, seed)


@on_every_device
@pytest.mark.parametrize("size", ALGORITHMS)
def test_outputs_at_the_proven_bound(isa, size):
    """Every weight and activation at its limit, with as many channels as the proof allows."""
    channels = max(c for c in range(1, 4000) if method(conv(1, 4, 4, c, 4), isa, size, "words"))
    workload = conv(4, 5, 5, channels, 6, requantize="none")
    assert method(conv(1, 4, 4, channels + 1, 4), isa, size, "words") is None
    x, w, bias, params, _ = make_data(workload)
    rng = np.random.default_rng(size)
    x[:] = np.array([0, 255, 255, 255])[:, None, None, None]
    x[3] = rng.choice([0, 255], x[3].shape)
    w[:] = np.array([-128, 127, 0, 0, 1, -1])[:, None, None, None]
    w[2] = np.where(x[3, 0, 0, :] > 0, -128, 127)
    w[3] = rng.choice([-128, 127], w[3].shape)
    for zero_point in (0, 255):
        data = (x, w, bias, params, np.array([zero_point, 0, 0, 255], np.int32))
        got = run_on(make_kernel(workload, isa, (size, "words")), isa, data)
        np.testing.assert_array_equal(got, expected(workload, *data))


@on_every_device
@pytest.mark.parametrize("size, kind", [(2, "bytes"), (3, "bytes"), (4, "words"), (34, "bytes")])
def test_sums_of_16_bits_at_the_proven_bound(isa, size, kind):
    def plan(channels):
        return method(conv(1, 4, 4, channels, 4, x_bits=2, w_bits=2), isa, size, kind)

    channels = max(c for c in range(1, 500) if plan(c).sum_dtype == "int16")
    assert plan(channels + 1).sum_dtype == "int32"
    workload = conv(4, 5, 5, channels, 37, x_bits=2, w_bits=2, requantize="none")
    x, w, bias, params, _ = make_data(workload, size)
    x[0], x[1] = 0, 3
    w[:4] = np.array([-2, 1, 0, -1])[:, None, None, None]
    w[4] = np.where(x[2, 0, 0, :] > 1, -2, 1)
    bias[:3] = 2**31 - 1, -(2**31), 40000
    data = (x, w, bias, params, np.array([3, 0, 0, 255], np.int32))
    got = run_on(make_kernel(workload, isa, (size, kind)), isa, data)
    np.testing.assert_array_equal(got, expected(workload, *data))


@on_every_device
@pytest.mark.parametrize(
    "size, x_bits, w_bits", [(2, 4, 4), (3, 2, 2), (4, 1, 1), (34, 2, 2), (23, 4, 2)]
)
def test_bytes_at_their_limits(isa, size, x_bits, w_bits):
    """For every position the input and the filter that make its operands largest."""
    algorithm = SMALL_ALGORITHMS[size]
    axes, positions = (algorithm.rows, algorithm.columns), algorithm.positions
    points = [axis.points for axis in axes]
    workload = conv(2 * positions, *points, 9, 2 * positions, (0, 0, 0, 0))
    workload = replace(workload, x_bits=x_bits, w_bits=w_bits, requantize="none")
    x, w, bias, params, qinfo = make_data(workload)
    b = [axis.input_matrix for axis in axes]
    g = [np.array(axis.filter_matrix) for axis in axes]
    low, high = -largest_weight(w_bits), max(1, largest_weight(w_bits) - 1)
    for position in range(positions):
        i, j = divmod(position, points[1])
        for sign, at in ((1, position), (-1, positions + position)):
            inputs = sign * np.outer(b[0][i], b[1][j])
            filters = sign * np.outer(g[0][i], g[1][j])
            x[at] = np.where(inputs > 0, 2**x_bits - 1, 0)[..., None]
            w[at] = np.where(filters > 0, high, low)[..., None]
    kernel = make_kernel(workload, isa, (size, "bytes"))
    got = run_on(kernel, isa, (x, w, bias, params, qinfo))
    np.testing.assert_array_equal(got, expected(workload, x, w, bias, params, qinfo))


def test_bias_wraps_like_the_reference():
    isa = next(iter(DEVICES))
    workload = conv(1, 6, 6, 16, 20, requantize="none")
    x, w, bias, params, qinfo = make_data(workload)
    bias[:] = np.resize([2**31 - 1, -(2**31), 2**31 - 30000], 20)
    got = run_on(make_kernel(workload, isa, (4, "words")), isa, (x, w, bias, params, qinfo))
    np.testing.assert_array_equal(got, expected(workload, x, w, bias, params, qinfo))


@on_every_device
@pytest.mark.parametrize("block, shared", [(12, "tiles"), (96, "channels")])
def test_threads_share_tiles_or_channels(isa, block, shared):
    workload = conv(2, 27, 25, 16, 80, requantize="power_of_two")
    kernel = make_kernel(workload, isa)
    config = {"size": 4, "operand_bytes": 2, "rows": 4, "vectors": 2, "block": block}
    kernel = kernel.with_config(config)
    assert kernel.plan.parallel == shared
    check(kernel, isa, seed=3)


def test_code_keeps_to_the_instruction_set():
    layer = conv(1, 12, 12, 64, 64)
    dots = {"avx512_vnni": "vpdpwssd", "avx_vnni": "vpdpwssd"}
    for isa, device in DEVICES.items():
        kernel = make_kernel(layer, isa, (2, "words"))
        module = tvm.compile(tvm.IRModule({"k": kernel.prim_func()}), target=device.target)
        lines = module.mod.inspect_source("asm").splitlines()
        products = [line for line in lines if f"\t{dots.get(isa, 'vpmaddwd')}\t" in line]
        wide = isa.startswith("avx512")
        assert products and all(("zmm" in line) == wide for line in products)
        assert wide or not any("zmm" in line for line in lines)
        # The sums of a register block stay in registers.
        first, last = lines.index(products[0]), lines.index(products[-1])
        assert not any("mm" in line and "(%rsp)" in line for line in lines[first:last])
