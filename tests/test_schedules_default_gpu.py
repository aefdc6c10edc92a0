"""Default schedules on a GPU: all in threads, and the same results, in an emulator of the GPU."""

import numpy as np
import pytest
from gpu_light_tools import run_light
from run_relax import build_module, const, execute, lower, rules_of
from test_schedules_default_contraction import OTHERS, TILED
from test_schedules_default_injective import CASES as MOVES
from test_schedules_default_injective import depth_to_space, u8
from test_schedules_default_reduction import CASES as REDUCTIONS
from test_schedules_default_reduction import f32
from tvm import relax, tirx

from tvmquant import reference
from tvmquant.errors import TvmQuantError
from tvmquant.ops import waist
from tvmquant.ops.dynamic import dynamic_quantize
from tvmquant.passes.schedule import ScheduleFunctions
from tvmquant.schedules.default import gpu
from tvmquant.schedules.default.threads import all_on_device
from tvmquant.targets import get_device

GPU = get_device("cuda-sm_80")
R = relax.op


def quantized_picture(emit, x):
    """A layout change fused with what follows: two blocks."""
    moved = emit(R.reshape(x, [2, 9, 11, 1]))
    zero = const(np.uint8(128))
    given = {"bits": 8, "qmin": 0, "qmax": 255, "dtype": "uint8"}
    return waist.quantize(moved, const(np.float32(0.02)), zero, **given)


def gated(emit, x):
    """A reduction that its own input meets again."""
    mean = emit(R.mean(x, [-1], keepdims=True))
    return R.subtract(x, mean)


OWN = {
    "quantized_picture": ([f32(2, 1, 9, 11)], quantized_picture, "gpu"),
    "depth_to_space": ([u8(1, 6, 8, 16)], depth_to_space, "gpu"),
    "gated": ([f32(2, 5, 70)], gated, "gpu-rows"),
    "gated_alone": ([f32(1, 700)], gated, "gpu-rows"),
    "sum_of_few": ([f32(2, 5)], lambda _, x: R.sum(x), "gpu-reduction"),
    "roi_align": (
        [f32(2, 4, 6, 6), np.array([[1, 0, 0, 4, 5]], np.float32)],
        lambda _, x, boxes: R.vision.roi_align(x, boxes, (2, 2), 1.0),
        "gpu",
    ),
    "sort": ([f32(3, 50)], lambda _, x: R.sort(x, -1), "own"),
    "cumsum": ([f32(3, 50)], lambda _, x: R.cumsum(x, 1), None),
}
MATMULS = {
    name: ([f32(*a), f32(*b)], body, None) for name, (a, b, body, *_) in {**TILED, **OTHERS}.items()
}
CASES = {**REDUCTIONS, **MOVES, **MATMULS, **OWN}


class NoMeasurements:
    """A database that may not be asked: functions may have shapes that are not known."""


def scheduled(inputs, body):
    with GPU.target:
        mod = relax.backend.DispatchSortScan()(build_module(inputs, body))
        return ScheduleFunctions(GPU, NoMeasurements())(lower(mod))


def functions(mod):
    return [f for f in mod.functions.values() if isinstance(f, tirx.PrimFunc)]


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_left_to_the_host(name):
    inputs, body, rule = CASES[name]
    mod = scheduled(inputs, body)
    assert all(all_on_device(func) for func in functions(mod))
    if rule and name in OWN:
        assert rule in rules_of(mod)


@pytest.mark.parametrize(
    "name, rule",
    [
        ("quantized_picture", "gpu"),
        ("softmax_rows", "gpu-rows"),
        ("layer_norm", "gpu-rows"),
        ("mean_odd", "gpu-shared-reduction"),
        ("sum_everything", "gpu-shared-reduction"),
        ("mean_everything", "gpu-shared-reduction"),
        ("sum_of_few", "gpu-reduction"),
        ("max_pool_bytes", "gpu-reduction"),
        ("conv_nhwc", "gpu-shared-reduction"),
    ],
)
def test_results_are_those_of_the_host(name, rule, tmp_path):
    inputs, body, _ = CASES[name]
    mod = scheduled(inputs, body)
    (func,) = functions(mod)
    assert rule in rules_of(mod)
    want = execute(lower(build_module(inputs, body)), inputs)
    out = np.full_like(want, 77)
    run_light(func, GPU.target, tmp_path, *inputs, out)
    np.testing.assert_allclose(out, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("bits, per_row, symmetric", [(8, False, False), (4, True, True)])
def test_activations_are_quantized_at_run_time(bits, per_row, symmetric, tmp_path):
    attrs = {"bits": bits, "per_row": per_row, "symmetric": symmetric}
    x = f32(5, 37)
    x[1, 3], x[2], x[3, 1] = 1e-40, 0, 3e38 if per_row else 5
    x[4, 0] = np.nan if per_row else -7
    mod = scheduled([x], lambda _, v: dynamic_quantize(v, **attrs))
    (func,) = functions(mod)
    assert all_on_device(func) and ("gpu-rows" in rules_of(mod)) == per_row
    want = reference.dynamic_quantize(x, **attrs)
    outs = [np.full_like(part, 77) for part in want]
    run_light(func, GPU.target, tmp_path, x, *outs)
    for got, meant in zip(outs, want):
        np.testing.assert_array_equal(got, meant)


def test_what_would_stay_on_the_host_is_refused(monkeypatch):
    def refuse(func, target):
        return func, ["none"]

    monkeypatch.setattr(gpu, "_ATTEMPTS", (refuse,))
    with pytest.raises(TvmQuantError, match=r"for fused_mean_subtract: compile .* for a processor"):
        scheduled(*OWN["gated"][:2])
