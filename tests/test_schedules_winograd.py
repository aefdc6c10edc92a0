"""Winograd kernels against the NumPy reference, on every instruction set that this CPU executes."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tvmquant import reference
from tvmquant.schedules.linear import DenseKernel
from tvmquant.schedules.registry import find_kernel
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.winograd import WinogradKernel, weight_bound
from tvmquant.schedules.winograd.algorithms import ALGORITHMS, SMALL_ALGORITHMS
from tvmquant.schedules.winograd.bounds import Ranges, largest_weight
from tvmquant.schedules.winograd.choose import METHODS, fastest, method
from tvmquant.schedules.winograd.kernel import winograd
from tvmquant.schedules.winograd.operands import instruction_set
from tvmquant.schedules.workload import Workload
from tvmquant.targets import Device, get_device

HOST = get_device()
_AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi", "avx512vpopcntdq")


def devices():
    """The host and ever lesser processors, by instruction set."""
    found = {}
    for missing in ((), ("avx512vnni", "avxvnni"), _AVX512, (*_AVX512, "avxvnni")):
        lesser = HOST.without(*missing) if missing else HOST
        if instruction_set(lesser) is not None:
            found.setdefault(instruction_set(lesser), lesser)
    return found


DEVICES = devices()
EVERY = {**ALGORITHMS, **{f"small {size}": a for size, a in SMALL_ALGORITHMS.items()}}
on_every_device = pytest.mark.parametrize("isa", DEVICES)
with_every_algorithm = pytest.mark.parametrize("algorithm", EVERY.values(), ids=map(str, EVERY))


def conv(n, h, w, c, o, padding=(1, 1, 1, 1), **more):
    return Workload("conv2d", (n, h, w, c), (o, 3, 3, c), (1, 1), padding, (1, 1), **more)


def make_kernel(workload, isa, *methods):
    plan = fastest(workload, isa, methods or METHODS)
    return None if plan is None else WinogradKernel(plan)


def make_data(workload, seed=0):
    """Stored activations, weights, bias, requantize parameters and qinfo."""
    rng = np.random.default_rng(seed)
    x_max, bits, outputs = 2**workload.x_bits - 1, workload.w_bits, workload.w_shape[0]
    x = rng.integers(0, x_max + 1, workload.x_shape)
    w = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), workload.w_shape)
    if bits == 1:
        w = rng.integers(0, 2, workload.w_shape) * 2 - 1
    bias = rng.integers(-4000, 4000, outputs).astype(np.int32)
    spread = np.sqrt(np.prod(workload.w_shape[1:])) * 2.0 ** (workload.x_bits + bits - 2)
    multiplier = 60 / spread * 2.0 ** rng.uniform(-4, 4, outputs if seed % 3 else 1)
    low, high = sorted(rng.integers(0, 256, 2).tolist())
    qinfo = np.array([rng.integers(0, x_max + 1), rng.integers(0, 256), low, high], np.int32)
    params = reference.make_requantize_params(multiplier, workload.requantize)
    return x.astype(np.uint8), w.astype(np.int8), bias, params, qinfo


def expected(workload, x, w, bias, params, qinfo):
    x_zero_point, out_zero_point, low, high = (int(v) for v in qinfo)
    return reference.conv2d(
        x,
        w,
        bias,
        params,
        padding=workload.padding,
        x_zero_point=x_zero_point,
        requantize_flavour=workload.requantize,
        out_zero_point=out_zero_point,
        out_min=low,
        out_max=high,
    )


def run(kernel, isa, x, w, bias, params, qinfo):
    """Expand the weights, then run into the middle of a buffer whose ends must not change."""
    workload, expansion, target = kernel.workload, kernel.expansion(), DEVICES[isa].target
    expand, main = expansion.func, kernel.prim_func()
    names = [str(func.attrs["global_symbol"]) for func in (expand, main)]
    built = tvm.compile(tvm.IRModule(dict(zip(names, (expand, main)))), target=target)
    packed = [tvm.runtime.tensor(array) for array in kernel.pack(w, bias, params)]
    expanded = [tvm.runtime.empty(shape, dtype) for shape, dtype in expansion.outputs]
    built[names[0]](*packed[: expansion.inputs], *expanded)
    size = int(np.prod(workload.out_shape)) * np.dtype(workload.out_dtype).itemsize
    memory = np.full(size + 256, 0xA5, np.uint8)
    start = -memory.ctypes.data % 64 + 64
    inside = memory[start : start + size]
    out = inside.view(workload.out_dtype).reshape(workload.out_shape)
    arrays = [*expanded, *packed[expansion.inputs :], tvm.runtime.tensor(qinfo)]
    built[names[1]](tvm.runtime.tensor(x), *arrays, tvm.runtime.from_dlpack(out))
    assert (memory[:start] == 0xA5).all() and (memory[start + size :] == 0xA5).all()
    return out


def check(kernel, isa, seed=0):
    data = make_data(kernel.workload, seed)
    got = run(kernel, isa, *data)
    np.testing.assert_array_equal(got, expected(kernel.workload, *data), err_msg=kernel.name)


@with_every_algorithm
def test_transforms_compute_the_scaled_convolution(algorithm):
    rng = np.random.default_rng(algorithm.size)
    points, size = algorithm.points, algorithm.size
    d, g = rng.integers(0, 256, (points, points)), rng.integers(-128, 128, (3, 3))
    a, b = algorithm.output_matrix, algorithm.input_matrix
    filters = np.array(algorithm.filter_matrix)
    got = a @ ((filters @ g @ filters.T) * (b @ d @ b.T)) @ a.T
    plain = [[(d[i : i + 3, j : j + 3] * g).sum() for j in range(size)] for i in range(size)]
    np.testing.assert_array_equal(got, (algorithm.odd << algorithm.shift) * np.array(plain))
    assert (a[:, 1] == algorithm.gain).all()
    assert algorithm.odd * algorithm.inverse % 2**32 == 1


@with_every_algorithm
@pytest.mark.parametrize("bits", [8, 4, 1])
def test_ranges_are_tight(algorithm, bits):
    ranges = Ranges.of(conv(1, 8, 8, 8, 8, x_bits=bits, w_bits=bits), algorithm)
    b, g = algorithm.input_matrix, np.array(algorithm.filter_matrix)
    x_max = 2**bits - 1
    for i, row in enumerate(b):
        for j, column in enumerate(b):
            factors = np.outer(row, column)
            assert ranges.x_high[i, j] == (factors * np.where(factors > 0, x_max, 0)).sum()
            assert ranges.x_low[i, j] == (factors * np.where(factors < 0, x_max, 0)).sum()
            size = np.abs(np.outer(g[i], g[j])).sum()
            assert ranges.w_size[i, j] == size * (1 if bits == 1 else 2 ** (bits - 1))


METHOD_BITS = {"words": (8, 8), "bytes2": (4, 4), "bytes3": (2, 2), "bytes4": (1, 1)}


@on_every_device
@pytest.mark.parametrize("size, kind", METHODS)
def test_every_method_equals_reference(isa, size, kind):
    x_bits, w_bits = METHOD_BITS.get(f"{kind}{size}", (8, 8))
    flavour = reference.FLAVOURS[size]
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
    workload = conv(4, size + 1, size + 1, channels, 6, requantize="none")
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
        got = run(make_kernel(workload, isa, (size, "words")), isa, *data)
        np.testing.assert_array_equal(got, expected(workload, *data))


@on_every_device
@pytest.mark.parametrize("size, bits", [(2, 4), (3, 2), (4, 1)])
def test_bytes_at_their_limits(isa, size, bits):
    """For every position the input and the filter that make its operands largest."""
    algorithm = SMALL_ALGORITHMS[size]
    points, positions = algorithm.points, algorithm.positions
    workload = conv(2 * positions, points, points, 9, 2 * positions, (0, 0, 0, 0))
    workload = replace(workload, x_bits=bits, w_bits=bits, requantize="none")
    x, w, bias, params, qinfo = make_data(workload)
    b, g = algorithm.input_matrix, np.array(algorithm.filter_matrix)
    low, high = (-1, 1) if bits == 1 else (-largest_weight(bits), largest_weight(bits) - 1)
    for position in range(positions):
        i, j = divmod(position, points)
        for sign, at in ((1, position), (-1, positions + position)):
            inputs, filters = sign * np.outer(b[i], b[j]), sign * np.outer(g[i], g[j])
            x[at] = np.where(inputs > 0, 2**bits - 1, 0)[..., None]
            w[at] = np.where(filters > 0, high, low)[..., None]
    kernel = make_kernel(workload, isa, (size, "bytes"))
    got = run(kernel, isa, x, w, bias, params, qinfo)
    np.testing.assert_array_equal(got, expected(workload, x, w, bias, params, qinfo))


def test_bias_wraps_like_the_reference():
    isa = next(iter(DEVICES))
    workload = conv(1, 6, 6, 16, 20, requantize="none")
    x, w, bias, params, qinfo = make_data(workload)
    bias[:] = np.resize([2**31 - 1, -(2**31), 2**31 - 30000], 20)
    got = run(make_kernel(workload, isa, (4, "words")), isa, x, w, bias, params, qinfo)
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


def test_what_is_not_proven_is_refused():
    isa = next(iter(DEVICES))
    deep = conv(1, 8, 8, 1024, 64)
    assert method(deep, isa, 4, "words") is None
    assert method(deep, isa, 3, "words") is not None
    assert method(replace(deep, max_abs_sum=1 << 18), isa, 4, "words") is not None
    assert method(replace(deep, max_abs_sum=1 << 19), isa, 4, "words") is None
    assert method(replace(deep, w_bits=4, x_bits=4), isa, 4, "words") is not None
    deepest = conv(1, 8, 8, 4000, 64)
    assert all(method(deepest, isa, *which) is None for which in METHODS)
    assert winograd(deepest, DEVICES[isa]) is None
    # Transformed 8-bit values are no bytes, and neither are those of larger tiles at 4 bits.
    shallow = conv(1, 8, 8, 16, 16)
    assert not any(method(shallow, isa, size, "bytes") for size in ALGORITHMS)
    assert method(replace(shallow, x_bits=4, w_bits=4), isa, 3, "bytes") is None


def test_the_rule_takes_only_what_it_covers():
    device = next(iter(DEVICES.values()))
    layer = conv(1, 56, 56, 64, 64)
    assert isinstance(find_kernel(layer, device), WinogradKernel)
    others = [
        replace(layer, strides=(2, 2)),
        replace(layer, dilation=(1, 2)),
        replace(layer, groups=2, w_shape=(64, 3, 3, 32)),
        replace(layer, w_shape=(64, 5, 5, 64)),
        replace(layer, w_shape=(64, 1, 3, 64)),
        # Too small to pay: the transforms cost more than they save.
        conv(1, 56, 56, 1, 1),
    ]
    for other in others:
        assert winograd(other, device) is None
        assert isinstance(find_kernel(other, device), DenseKernel)
    assert winograd(layer, Device("old", HOST.target_json, frozenset())) is None
    assert isinstance(KernelTable(device, expand=False)[layer], DenseKernel)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_weight_bound(outputs, channels, seed):
    shape = (outputs, 3, 3, channels)
    w = np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)
    bound, exact = weight_bound(w), np.abs(w.astype(int)).sum(axis=(1, 2, 3)).max()
    assert exact <= bound < 2 * exact and bound & (bound - 1) == 0
    assert weight_bound(np.full((1, 1), -128, np.int8)) == 128
    assert weight_bound(np.zeros((2, 9), np.int8)) == 1


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("kind", ["words", "bytes"])
def test_weights_are_stored_packed(bits, kind):
    workload = conv(1, 28, 28, 128, 128, w_bits=bits, x_bits=min(bits, 4))
    for isa in ("avx512_vnni", "avx2"):
        kernel = make_kernel(workload, isa, (2, kind))
        if bits == 8 and kind == "bytes":
            assert kernel is None
            continue
        _, w, bias, params, _ = make_data(workload)
        packed = kernel.pack(w, bias, params)
        assert packed[0].nbytes == w.size * bits // 8
        assert sum(array.nbytes for array in packed[1:]) == 3 * 4 * 128
        assert kernel.expansion().inputs == 1


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


def test_kernels_are_values():
    workload, isa = conv(1, 28, 28, 32, 24), next(iter(DEVICES))
    a, b = (make_kernel(workload, isa) for _ in range(2))
    assert a == b and hash(a) == hash(b) and a.name == b.name
    assert a.prim_func() is a.prim_func() and a.expansion() is a.expansion()
    tvm.ir.assert_structural_equal(a.prim_func(), b.prim_func())
    names = {make_kernel(workload, isa, which).name for which in METHODS[:3]}
    assert len(names) == 3
    for func in (a.prim_func(), a.expansion().func):
        assert bool(func.attrs["tvmquant.scheduled"]) and int(func.attrs["op_pattern"]) == 8


def test_the_tuner_may_change_the_sizes():
    workload, isa = conv(1, 13, 13, 24, 40, x_bits=4, w_bits=4), next(iter(DEVICES))
    kernel = make_kernel(workload, isa)
    configs = kernel.configs()
    assert kernel.with_config(configs[0]) == kernel
    assert len({tuple(config.values()) for config in configs}) == len(configs) > 20
    assert {config["size"] for config in configs} == {2, 3, 4}
    costs = [kernel.estimate(config) for config in configs]
    assert costs == sorted(costs) and costs[0] > 0
    check(kernel.with_config(configs[-1]), isa, seed=5)
    for change in ({"size": 5}, {"operand_bytes": 4}, {"block": 7, "rows": 2}, {"rows": 0}):
        with pytest.raises(ConfigError):
            kernel.with_config({**configs[0], **change})
    with pytest.raises(ConfigError):
        kernel.with_config({**configs[0], "size": 4, "operand_bytes": 1})
