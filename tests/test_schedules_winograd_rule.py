"""What is proven about Winograd kernels, when the rule takes them, what they store and offer."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_tools import make_data
from winograd_tools import DEVICES, HOST, check, conv, make_kernel

from tvmquant.schedules.linear import DenseKernel
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.winograd import WinogradKernel, weight_bound
from tvmquant.schedules.winograd.algorithms import ALGORITHMS, SMALL_ALGORITHMS
from tvmquant.schedules.winograd.bounds import Ranges
from tvmquant.schedules.winograd.choose import METHODS, method
from tvmquant.schedules.winograd.kernel import winograd
from tvmquant.targets import Device

EVERY = {**ALGORITHMS, **{f"small {size}": a for size, a in SMALL_ALGORITHMS.items()}}


with_every_algorithm = pytest.mark.parametrize("algorithm", EVERY.values(), ids=map(str, EVERY))


@with_every_algorithm
def test_transforms_compute_the_scaled_convolution(algorithm):
    rng = np.random.default_rng(algorithm.size)
    axes = (algorithm.rows, algorithm.columns)
    d = rng.integers(0, 256, [axis.points for axis in axes])
    g = rng.integers(-128, 128, (3, 3))
    u, v = g, d
    for axis in axes:  # the second time on the transposed result of the first
        u = (np.array(axis.filter_matrix) @ u).T
        v = (axis.input_matrix @ v).T
    got = u * v
    for axis in axes:
        got = (axis.output_matrix @ got).T
    height, width = (axis.size for axis in axes)
    plain = [[(d[i : i + 3, j : j + 3] * g).sum() for j in range(width)] for i in range(height)]
    np.testing.assert_array_equal(got, (algorithm.odd << algorithm.shift) * np.array(plain))
    gains = np.outer(*(axis.output_matrix[:, 1] for axis in axes))
    assert (gains == algorithm.gain).all() and algorithm.outputs == height * width
    for bits in (16, 32):
        assert algorithm.odd * algorithm.inverse(bits) % 2**bits == 1
        assert -(2 ** (bits - 1)) <= algorithm.inverse(bits) < 2 ** (bits - 1)


@with_every_algorithm
@pytest.mark.parametrize("bits", [8, 4, 1])
def test_ranges_are_tight(algorithm, bits):
    ranges = Ranges.of(conv(1, 8, 8, 8, 8, x_bits=bits, w_bits=bits), algorithm)
    axes, x_max = (algorithm.rows, algorithm.columns), 2**bits - 1
    g = [np.array(axis.filter_matrix) for axis in axes]
    for i, row in enumerate(axes[0].input_matrix):
        for j, column in enumerate(axes[1].input_matrix):
            factors = np.outer(row, column)
            assert ranges.x_high[i, j] == (factors * np.where(factors > 0, x_max, 0)).sum()
            assert ranges.x_low[i, j] == (factors * np.where(factors < 0, x_max, 0)).sum()
            size = np.abs(np.outer(g[0][i], g[1][j])).sum()
            assert ranges.w_size[i, j] == size * (1 if bits == 1 else 2 ** (bits - 1))


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
    assert isinstance(KernelTable(device)[layer], WinogradKernel)
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
        assert isinstance(KernelTable(device)[other], DenseKernel)
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
    assert {config["size"] for config in configs} <= set(ALGORITHMS)
    costs = [kernel.estimate(config) for config in configs]
    assert costs == sorted(costs) and costs[0] > 0
    check(kernel.with_config(configs[-1]), isa, seed=5)
    for change in ({"size": 5}, {"operand_bytes": 4}, {"block": 7, "rows": 2}, {"rows": 0}):
        with pytest.raises(ConfigError):
            kernel.with_config({**configs[0], **change})
    with pytest.raises(ConfigError):
        kernel.with_config({**configs[0], "size": 4, "operand_bytes": 1})
