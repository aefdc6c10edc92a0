"""Kernels with a residual addition in their epilogue, against the two NumPy references."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernel_tools import expected, make_data, run
from test_schedules_linear import DEVICES, conv
from winograd_tools import DEVICES as WINOGRAD_DEVICES
from winograd_tools import make_kernel

from tvmquant import reference
from tvmquant.schedules.bits.kernel import BitsKernel, plans
from tvmquant.schedules.linear.addition import FMA_OTHER, FMA_OWN, INTEGER_FORMS, Sum
from tvmquant.schedules.linear.kernel import dense
from tvmquant.schedules.meaning import with_sum
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.winograd.choose import METHODS
from tvmquant.schedules.workload import Workload

on_every_device = pytest.mark.parametrize("isa", DEVICES)


def make_sum(qinfo, flavour="float", multipliers=(1 << 21, 1234567), seed=0, scale=None):
    rng = np.random.default_rng(seed)
    if scale is None:
        scale = rng.uniform(0.4, 1.6) / max(map(abs, multipliers))
    params = reference.make_requantize_params(np.array([scale]), flavour)
    low, high = sorted(rng.integers(0, 256, 2).tolist())
    points = int(rng.integers(0, 256)), int(rng.integers(0, 256))
    return Sum(flavour, params, int(qinfo[1]), points[0], *multipliers, points[1], low, high)


def check(kernel, device, total, seed=0, fma=True):
    """``kernel`` is the one without the addition."""
    *data, qinfo = make_data(kernel.workload, seed)
    total = replace(total, own_zero_point=int(qinfo[1]))
    form, numbers = total.encode(fma and "fma" in device.features)
    shape = kernel.workload.out_shape
    other = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    fused = kernel.with_residual(form)
    assert fused.workload == replace(kernel.workload, residual=form)
    assert fused.name != kernel.name and fused.label == kernel.label
    got = run(fused, device, *data, np.concatenate([qinfo, numbers]), other)
    own = expected(kernel.workload, *data, qinfo)
    np.testing.assert_array_equal(got, with_sum(own, other, total), err_msg=fused.name)
    return form


FLAVOURS = st.sampled_from(INTEGER_FORMS)
MULTIPLIERS = st.sampled_from(
    [(1 << 21, 1234567), (999999, 1 << 21), (1, 1), (1 << 21, -777777), (-5, 3), (1 << 21, 1 << 21)]
)


@st.composite
def layers(draw):
    if draw(st.booleans()):
        size = draw(st.integers(1, 9)), draw(st.integers(1, 40)), draw(st.integers(1, 50))
        workload = Workload("matmul", size[:2], size[:0:-1])
    else:
        kernel, step = draw(st.sampled_from([(1, 1), (3, 3)])), draw(st.integers(1, 2))
        pad = (kernel[0] // 2,) * 4
        channels = draw(st.integers(1, 40)), draw(st.integers(1, 70))
        workload = conv(draw(st.integers(1, 2)), 7, 9, *channels, kernel, (step, step), pad)
    bits = draw(st.sampled_from([8, 8, 4, 2, 1]))
    return replace(workload, x_bits=bits, w_bits=bits, requantize=draw(FLAVOURS))


@on_every_device
@settings(max_examples=10, deadline=None)
@given(layers(), FLAVOURS, MULTIPLIERS, st.integers(0, 99))
def test_dense_kernels(isa, workload, flavour, multipliers, seed):
    total = make_sum((0, 0), flavour, multipliers, seed)
    check(dense(workload, DEVICES[isa]), DEVICES[isa], total, seed)


@pytest.mark.parametrize("isa", WINOGRAD_DEVICES)
@pytest.mark.parametrize("size, kind", METHODS[::2])
def test_winograd_kernels(isa, size, kind):
    bits = 8 if kind == "words" else 2
    shape = {"x_shape": (1, 7, 9, 18), "w_shape": (37, 3, 3, 18), "x_bits": bits, "w_bits": bits}
    workload = Workload("conv2d", **shape, strides=(1, 1), padding=(1, 1, 1, 1), dilation=(1, 1))
    kernel = make_kernel(workload, isa, (size, kind))
    check(kernel, WINOGRAD_DEVICES[isa], make_sum((0, 0), seed=size), size)


@settings(max_examples=6, deadline=None)
@given(st.sampled_from([1, 2]), FLAVOURS, st.sampled_from([33, 64, 100]), st.integers(0, 9))
def test_kernels_of_few_bits(bits, flavour, outputs, seed):
    device = next(iter(DEVICES.values()))
    workload = conv(1, 5, 8, 64, outputs, (3, 3), x_bits=bits, w_bits=bits)
    made = list(plans(workload, device))
    assume(made)
    for plan in made:
        check(BitsKernel(workload, plan), device, make_sum((0, 0), flavour, seed=seed), seed)


@pytest.mark.parametrize("multipliers, form", [((1, 1), FMA_OTHER), ((77, 128), FMA_OWN)])
def test_a_power_of_two_becomes_a_multiply_add(multipliers, form):
    total = make_sum((0, 3), multipliers=multipliers)
    assert total.encode(True)[0] == form
    assert total.encode(False)[0] == "float"


@settings(max_examples=50, deadline=None)
@given(st.integers(1 << 20, 1 << 21), st.floats(0.25, 2), st.booleans(), st.integers(0, 255))
def test_multiply_add_rounds_like_the_integers(factor, scale, swap, zero_point):
    """The arithmetic of the FMA form, for every pair of values, in exact NumPy."""
    multipliers = (factor, 1 << 21) if swap else (1 << 21, factor)
    total = make_sum((0, 5), multipliers=multipliers, scale=scale / (1 << 21))
    total = replace(total, other_zero_point=zero_point)
    form, numbers = total.encode(True)
    multiplier, parameter = numbers[[3, 6]].view(np.float32)
    own, other = (v.reshape(-1) for v in np.mgrid[0:256, 0:256])
    a, b = own - 5, other - zero_point
    if form == FMA_OTHER:
        a, b = b, a
    # The sum is exact in float64, so one rounding to float32 is what an FMA does.
    fused = (a * np.float64(multiplier) + b).astype(np.float32) * parameter
    got = np.clip(np.rint(fused) + total.zero_point, total.low, total.high)
    np.testing.assert_array_equal(
        got, with_sum(own.astype(np.uint8), other.astype(np.uint8), total)
    )


def test_sums_that_kernels_cannot_hold_are_refused():
    total = make_sum((0, 0))
    per_channel = replace(total, params=(np.ones(3, np.float32),))
    far = replace(total, params=(np.ones(1, np.float32),))
    large = replace(total, own_multiplier=1 << 23)
    assert all(one.encode(fma) is None for one in (per_channel, far, large) for fma in (0, 1))
    assert replace(total, flavour="dequantize").encode(True) is None


def test_the_plain_workload_decides_the_kernel():
    workload = conv(1, 14, 14, 64, 64, (3, 3), padding=(1, 1, 1, 1))
    kernels = KernelTable(next(iter(DEVICES.values())))
    fused = kernels[replace(workload, residual=FMA_OTHER)]
    assert type(fused) is type(kernels[workload]) and fused.label == kernels[workload].label
