"""The pass marks what it schedules, lists what it cannot, and never fails a compilation."""

import dataclasses
from unittest import mock

import numpy as np
import pytest
import tvm
from run_relax import build_module, const, execute, schedule
from tvm import relax, s_tir, tirx

from tvmquant.passes.schedule import SCHEDULED, UNSCHEDULED, ScheduleFunctions
from tvmquant.schedules.default import contraction
from tvmquant.targets import get_device

R = relax.op
rng = np.random.default_rng(0)


def f32(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def at_least_three(_, x):
    return R.maximum(x, const(np.uint8(3)))


def test_functions_with_a_schedule_stay():
    mod = schedule(build_module([np.zeros((4, 64), np.uint8)], at_least_three))
    again = ScheduleFunctions(get_device())(mod)
    tvm.ir.assert_structural_equal(again, mod)
    marks = [f.attrs[SCHEDULED] for f in again.functions.values() if isinstance(f, tirx.PrimFunc)]
    assert marks and all(marks)


def test_what_no_rule_fits_is_listed_and_still_runs():
    x, updates = f32(8, 64), f32(1, 2)
    mod = schedule(
        build_module(
            [x],
            lambda _, v: R.scatter_elements(v, const(np.array([[1, 5]])), const(updates), 1),
        )
    )
    assert [str(name) for name in mod.attrs[UNSCHEDULED]] == ["scatter_elements"]
    want = x.copy()
    want[0, [1, 5]] = updates
    np.testing.assert_array_equal(execute(mod, [x]), want)


def test_scalars_need_no_rule():
    mod = schedule(build_module([np.float32(3)], lambda _, v: R.multiply(v, v)))
    assert list(mod.attrs[UNSCHEDULED]) == []
    assert execute(mod, [np.float32(3)]) == 9


@pytest.mark.parametrize("error", [s_tir.ScheduleError, tvm.error.InternalError])
def test_a_refused_primitive_leaves_the_function_unchanged(error):
    inputs = [f32(48, 64), f32(64, 80)]
    with mock.patch.object(contraction, "parallelize", side_effect=error("refused")):
        mod = schedule(build_module(inputs, lambda _, a, b: R.matmul(a, b)))
    assert [str(name) for name in mod.attrs[UNSCHEDULED]] == ["matmul"]
    np.testing.assert_allclose(execute(mod, inputs), inputs[0] @ inputs[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape,threads", [((1, 8, 8, 64), False), ((8, 512, 512, 3), True)])
def test_only_large_work_runs_in_parallel(shape, threads):
    device = dataclasses.replace(get_device(), num_cores=2)
    mod = schedule(build_module([np.zeros(shape, np.uint8)], at_least_three), device)
    assert ("T.parallel" in mod.script()) == threads
