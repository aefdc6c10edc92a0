"""Lowered operators of dynamic quantization equal their reference bit for bit."""

import numpy as np
import pytest
from compute_tools import assert_same, few, seeds
from hypothesis import given
from hypothesis import strategies as st
from run_relax import build_module, const, execute, run, schedule

from tvmquant import reference as ref
from tvmquant.ops.dynamic import dynamic_quantize, dynamic_rescale, padding_info
from tvmquant.schedules.compute import dynamic_quantize as kernel
from tvmquant.targets import get_device

shapes = st.sampled_from([(1,), (3, 7), (2, 64), (5, 130), (2, 3, 100), (1, 8, 9, 33), (40, 300)])
ATTRS = [(8, False, False), (8, True, False), (4, True, True), (8, False, True)]


def check(x, bits, per_row, symmetric, device=None):
    attrs = {"bits": bits, "per_row": per_row, "symmetric": symmetric}
    mod = schedule(build_module([x], lambda _, v: dynamic_quantize(v, **attrs)), device)
    for made, want in zip(execute(mod, [x], device), ref.dynamic_quantize(x, **attrs), strict=True):
        assert_same(made, want)
    return mod


@few
@given(seeds, shapes, st.sampled_from(ATTRS), st.sampled_from([-50.0, 0.0, 1.0]))
def test_quantize(seed, shape, attrs, offset):
    rng = np.random.default_rng(seed)
    x = (rng.normal(0, 3, shape) * np.exp(rng.normal(0, 2)) + offset).astype(np.float32)
    check(x, *attrs)


@pytest.mark.parametrize("attrs", ATTRS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 0.0, 1e-40, 3e38])
def test_odd_values(bad, attrs):
    x = np.random.default_rng(0).normal(0, 1, (4, 37)).astype(np.float32)
    x[1, 5] = bad
    x[2] = bad
    x[3] = 0
    check(x, *attrs)
    check(np.full((2, 33), bad, np.float32), *attrs)


@pytest.mark.parametrize("attrs", ATTRS[:2])
def test_threads_change_nothing(attrs):
    x = np.random.default_rng(0).normal(0, 3, (61, 77, 17)).astype(np.float32)
    for cores in (1, 3):
        device = get_device({"kind": "llvm", "num-cores": cores})
        with device.target:
            assert ("T.parallel" in check(x, *attrs, device).script()) == (cores > 1)


@pytest.mark.parametrize("attrs", ATTRS)
def test_processors_without_wide_vectors(attrs):
    x = np.random.default_rng(0).normal(0, 3, (5, 130)).astype(np.float32)
    device = get_device({"kind": "llvm"})
    with device.target:
        check(x, *attrs, device)


def test_an_empty_tensor():
    check(np.zeros((0, 5), np.float32), 8, False, False)


def test_names_tell_rows_from_tensors():
    for per_row, name in ((True, "dynamic_quantize_rows"), (False, "dynamic_quantize")):
        made = kernel.DynamicQuantizeKernel((2, 3), 8, per_row, False, get_device())
        assert made.name == name


@few
@given(seeds, st.booleans(), st.sampled_from([(5, 33), (2, 4, 64)]))
def test_rescale(seed, per_row, shape):
    rng = np.random.default_rng(seed)
    params = (*shape[:-1], 1) if per_row else ()
    acc = rng.integers(-(2**31), 2**31, shape).astype(np.int32)
    zero = np.asarray(rng.integers(0, 256, params), np.uint8)
    scale = np.asarray(rng.uniform(1e-4, 1, params), np.float32)
    sums = rng.integers(-10000, 10000, shape[-1]).astype(np.int32)
    w_scale = rng.uniform(1e-4, 1, shape[-1]).astype(np.float32)
    bias = rng.normal(0, 1e5, shape[-1]).astype(np.float32)
    got = run(
        [acc, zero, scale],
        lambda _, a, z, s: dynamic_rescale(a, z, const(sums), s, const(w_scale), const(bias)),
    )
    assert_same(got, ref.dynamic_rescale(acc, zero, sums, scale, w_scale, bias))
    got = run([acc, zero], lambda _, a, z: dynamic_rescale(a, z, const(sums)))
    assert_same(got, ref.dynamic_rescale(acc, zero, sums))


def test_padding_info():
    got = run([np.asarray(7, np.uint8)], lambda _, z: padding_info(z))
    np.testing.assert_array_equal(got, [7, 0, 0, 255])
