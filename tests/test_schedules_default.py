"""The default schedules as a whole: processors, tables, instructions."""

import numpy as np
import pytest
import tvm
from run_relax import build_module, const, execute, lower, rules_of, run, schedule
from test_schedules_default_contraction import TILED
from test_schedules_default_injective import TABLE, quantize_image, u8
from test_schedules_default_reduction import CASES as REDUCTIONS
from tvm import tirx

from tvmquant.ops import make_call
from tvmquant.targets import get_device

HOST = get_device()


def lesser(mcpu):
    target = {**HOST.target.export(), "mcpu": mcpu}
    return get_device({key: target[key] for key in ("kind", "mcpu", "mtriple")})


def lookup(_, x):
    return make_call("tvmquant.lut", [x, const(TABLE)], axis=0)


@pytest.mark.parametrize("mcpu", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize("name", ["short_last_tile", "conv_nchw", "conv_nhwc"])
def test_tiles_of_lesser_processors(name, mcpu):
    a, b, body = TILED[name]
    inputs = [np.random.default_rng(1).standard_normal(s).astype(np.float32) for s in (a, b)]
    got = run(inputs, body, lesser(mcpu))
    want = execute(lower(build_module(inputs, body)), inputs)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("mcpu", ["x86-64", "x86-64-v3"])
@pytest.mark.parametrize("name", ["softmax_rows", "max_pool_bytes", "mean_odd"])
def test_reductions_of_lesser_processors(name, mcpu):
    inputs, body, _ = REDUCTIONS[name]
    got = run(inputs, body, lesser(mcpu))
    want = execute(lower(build_module(inputs, body)), inputs)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [(3, 7, 70), (64,), (5,), (2, 128)])
@pytest.mark.parametrize("device", [HOST, lesser("x86-64")], ids=["host", "plain"])
def test_table_of_bytes(shape, device):
    x = u8(*shape)
    np.testing.assert_array_equal(run([x], lookup, device), TABLE[x])


@pytest.mark.skipif("avx512vbmi" not in HOST.features, reason="needs AVX-512 VBMI")
def test_table_of_bytes_is_permutations():
    mod = schedule(build_module([u8(3, 7, 70)], lookup))
    assert rules_of(mod) == {"lut"}
    assert "vpermi2b" in assembly(mod) or "vpermt2b" in assembly(mod)


def assembly(mod):
    func = next(f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc))
    single = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    return tvm.compile(single, target=HOST.target).mod.inspect_source("asm")


def test_rounding_and_division_are_instructions():
    """No libm call an element, and the division of ONNX stays a division."""
    x = np.zeros((1, 3, 40, 40), np.float32)
    text = assembly(schedule(build_module([x], quantize_image)))
    assert "nearbyintf" not in text and "rintf" not in text
    assert "div" in text
