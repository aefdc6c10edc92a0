"""Kernels of 1- and 2-bit values against the NumPy reference, on every instruction set here."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_tools import build, expected, make_data, run

from tvmquant import reference
from tvmquant.schedules.bits import BitsKernel
from tvmquant.schedules.bits.kernel import bits, plans
from tvmquant.schedules.bits.tables import Tables, byte_order
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.winograd.kernel import WinogradKernel
from tvmquant.schedules.workload import Workload
from tvmquant.targets import Device, get_device

HOST = get_device()
WIDE = ("avx512vnni", "avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vpopcntdq")
FLAVOUR = st.sampled_from(reference.FLAVOURS)


def devices():
    """The host, and the host as if it could do less and less."""
    found = {"host": HOST}
    for name, features in {
        "no_popcount": ("avx512vpopcntdq",),
        "no_vbmi": ("avx512vpopcntdq", "avx512vbmi"),
        "avx2": (*WIDE, "avxvnni"),
    }.items():
        lesser = HOST.without(*features)
        if lesser.features not in [device.features for device in found.values()]:
            found[name] = lesser
    return {name: device for name, device in found.items() if "avx2" in device.features}


DEVICES = devices()
if not DEVICES:
    pytest.skip("this processor has no AVX2", allow_module_level=True)
on_every_device = pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
BITS = [(1, 1), (2, 2), (1, 2), (2, 1)]


def conv(n, h, w, c, o, kernel, strides=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), **more):
    return Workload("conv2d", (n, h, w, c), (o, *kernel, c), strides, padding, dilation, **more)


def matmul(m, k, o, **more):
    return Workload("matmul", (m, k), (o, k), **more)


def check(workload, device, seed=0, extreme=False):
    """Every plan that the device can execute, whether or not the rule would choose it."""
    data = make_data(workload, seed, extreme)
    want = expected(workload, *data)
    kernels = [BitsKernel(workload, plan) for plan in plans(workload, device)]
    assert kernels
    for kernel in kernels:
        got = run(kernel, device, *data)
        np.testing.assert_array_equal(got, want, err_msg=kernel.name)
    return kernels


@st.composite
def convolutions(draw):
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    pair = st.tuples(st.integers(1, 2), st.integers(1, 2))
    dilation, strides = draw(pair), draw(pair)
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation)]
    h = draw(st.integers(max(1, reach[0] - padding[0] - padding[2]), 8))
    w = draw(st.integers(max(1, reach[1] - padding[1] - padding[3]), 12))
    x_bits, w_bits = draw(st.sampled_from(BITS))
    return conv(
        draw(st.integers(1, 2)),
        h,
        w,
        draw(st.sampled_from([32, 33, 36, 40, 47, 64, 80, 100])),
        draw(st.sampled_from([1, 3, 10, 16, 24, 40, 64, 72, 100, 130])),
        kernel,
        strides,
        padding,
        dilation,
        x_bits=x_bits,
        w_bits=w_bits,
        requantize=draw(FLAVOUR),
    )


@on_every_device
@settings(max_examples=8, deadline=None)
@given(workload=convolutions(), seed=st.integers(0, 99))
@example(workload=conv(1, 9, 9, 64, 64, (1, 1), (2, 2), x_bits=2, w_bits=2), seed=1)
@example(workload=conv(1, 7, 7, 33, 10, (3, 3), (1, 1), (1, 1, 1, 1), x_bits=2, w_bits=1), seed=2)
@example(workload=conv(2, 12, 1, 37, 9, (3, 1), (2, 1), (1, 0, 1, 0), x_bits=1, w_bits=1), seed=4)
@example(workload=conv(1, 6, 6, 32, 130, (2, 2), dilation=(2, 2), x_bits=1, w_bits=2), seed=5)
def test_conv2d_equals_reference(device, workload, seed):
    check(workload, device, seed)


@on_every_device
@settings(max_examples=5, deadline=None)
@given(
    m=st.integers(1, 20),
    k=st.integers(32, 200),
    o=st.sampled_from([1, 5, 16, 31, 64, 100, 200]),
    widths=st.sampled_from(BITS),
    flavour=FLAVOUR,
    seed=st.integers(0, 99),
)
@example(m=1, k=512, o=1000, widths=(1, 1), flavour="float", seed=1)
@example(m=12, k=32, o=16, widths=(2, 1), flavour="none", seed=0)  # once wrong code of LLVM's
def test_matmul_equals_reference(device, m, k, o, widths, flavour, seed):
    workload = matmul(m, k, o, x_bits=widths[0], w_bits=widths[1], requantize=flavour)
    check(workload, device, seed)


@on_every_device
@pytest.mark.parametrize("x_bits, w_bits", BITS)
def test_extreme_values_never_overflow_a_sum(device, x_bits, w_bits):
    workload = matmul(3, 3000, 40, x_bits=x_bits, w_bits=w_bits, requantize="none")
    check(workload, device, extreme=True)


@on_every_device
def test_layers_that_use_threads(device):
    for x_bits, w_bits in BITS[:2]:
        sizes = {"x_bits": x_bits, "w_bits": w_bits}
        pixels = conv(1, 28, 28, 96, 136, (3, 3), padding=(1, 1, 1, 1), **sizes)
        for kernel in check(pixels, device, seed=1):
            assert kernel.plan.tiling.parallel


@on_every_device
def test_sums_that_need_more_than_16_bits_are_left_to_others(device):
    deep = matmul(2, 8000, 16, x_bits=2, w_bits=2, requantize="none")
    names = [plan.isa.name for plan in plans(deep, device)]
    assert not any(name.startswith("vpshufb") for name in names)
    data = make_data(deep, 0, True)
    kernel = KernelTable(device)[deep]
    got = run(kernel, device, *data)
    np.testing.assert_array_equal(got, expected(deep, *data))


def test_the_rule_leaves_the_rest_to_others():
    device = DEVICES.get("avx2", HOST)
    layer = conv(1, 14, 14, 64, 64, (3, 3), padding=(1, 1, 1, 1), x_bits=1, w_bits=1)
    assert isinstance(bits(layer, device), BitsKernel)
    others = [
        replace(layer, x_bits=8),
        replace(layer, w_bits=4),
        replace(layer, x_shape=(1, 14, 14, 128), groups=2),
        replace(layer, x_shape=(1, 14, 14, 16), w_shape=(64, 3, 3, 16)),
    ]
    assert [bits(other, device) for other in others] == [None] * len(others)
    for missing in (HOST.features, {"avx2"}, {"avx2", "avx512f", "avx512vnni"}):
        lesser = Device("lesser", HOST.target_json, HOST.features - missing)
        assert bits(layer, lesser) is None


def test_the_faster_of_winograd_and_bits_comes_first():
    device = DEVICES.get("avx2", HOST)
    layer = conv(1, 14, 14, 256, 256, (3, 3), padding=(1, 1, 1, 1), x_bits=1, w_bits=1)
    assert isinstance(KernelTable(device)[layer], BitsKernel)
    layer = replace(layer, x_bits=2, w_bits=2)
    assert isinstance(KernelTable(device)[layer], WinogradKernel)
    # Winograd's kernel needs memory for its weights.
    assert isinstance(KernelTable(device, expand=False)[layer], BitsKernel)


@on_every_device
@pytest.mark.parametrize("x_bits, w_bits", BITS)
@pytest.mark.parametrize("outputs, channels", [(64, 64), (128, 96), (256, 256)])
def test_packed_weights_take_their_bits(device, outputs, channels, x_bits, w_bits):
    workload = conv(1, 8, 8, channels, outputs, (3, 3), x_bits=x_bits, w_bits=w_bits)
    _, w, bias, params, _ = make_data(workload, 1)
    for plan in plans(workload, device):
        packed = plan.pack(w)
        assert packed.nbytes <= 1.05 * w.size * w_bits / 8  # three at a time do not divide 64
        assert len(BitsKernel(workload, plan).pack(w, bias, params)[1]) == outputs


def test_code_keeps_to_the_instruction_set():
    layer = conv(1, 6, 6, 64, 64, (3, 3), padding=(1, 1, 1, 1), x_bits=1, w_bits=1)
    for name, device in DEVICES.items():
        for plan in plans(layer, device):
            text = build(BitsKernel(layer, plan), device).mod.inspect_source("asm")
            code = [line.split("\t")[1] for line in text.splitlines() if line.count("\t") > 1]
            assert ("vpopcntd" if "popcnt" in plan.isa.name else "vpshufb") in code
            assert name != "avx2" or "zmm" not in text


@on_every_device
def test_kernels_are_values(device):
    layer = conv(1, 8, 8, 256, 256, (1, 1), x_bits=1, w_bits=1)
    a, b = (KernelTable(device)[layer] for _ in range(2))
    assert isinstance(a, BitsKernel) and a == b and hash(a) == hash(b) and a.name == b.name
    assert a.prim_func() is a.prim_func()
    tvm.ir.assert_structural_equal(a.prim_func(), b.prim_func())
    attrs = a.prim_func().attrs
    assert bool(attrs["tvmquant.scheduled"]) and int(attrs["op_pattern"]) == 8


@on_every_device
def test_the_tuner_may_try_other_instructions(device):
    kernel = bits(conv(1, 8, 8, 256, 256, (3, 3), x_bits=1, w_bits=1), device)
    configs = kernel.configs()
    assert kernel.with_config(configs[0]) == kernel
    made = [kernel.with_config(config) for config in configs]
    assert len({other.name for other in made}) == len(configs)
    assert all(sorted(map(str, other.configs())) == sorted(map(str, configs)) for other in made)
    with pytest.raises(ConfigError):
        kernel.with_config({"instructions": "abacus"})


@pytest.mark.parametrize("entries", [16, 64])
@pytest.mark.parametrize("x_bits, w_bits", [(1, 1), (2, 2), (1, 2)])
def test_tables_hold_every_sum_in_a_byte(entries, x_bits, w_bits):
    tables = Tables(entries, (entries,), 32, x_bits, w_bits)
    values = tables.weight_values()
    x_max = (1 << x_bits) - 1
    low, high = (x_max * np.clip(values, *limits).sum(0) for limits in ((-2, 0), (0, 2)))
    assert low.min() + tables.shift == 0
    assert high.max() + tables.shift == tables.top
    assert 0 < tables.span * tables.steps * tables.top <= 255


def test_four_neighbouring_bytes_belong_to_four_vectors():
    assert byte_order(16).tolist() == [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
