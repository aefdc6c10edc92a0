"""MetaSchedule: traces as data, its search on our workers, and its kernels in compilations."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tvm
from test_tuning_spaces import expected
from tuning_tools import CONV, HOST, FakeBuilders, record
from tvm import te

from tvmquant.passes.schedule import ScheduleFunctions, unscheduled
from tvmquant.schedules.registry import named_rules
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.tensorized import TensorizedKernel
from tvmquant.schedules.tensorized.intrinsic import lanes_of
from tvmquant.schedules.traces import DEFAULT, TRACE, function_workload, replay
from tvmquant.schedules.workload import Workload
from tvmquant.tuning import Database, Trials, trace_tuner
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.functions import FunctionJob, random_arguments
from tvmquant.tuning.metaschedule import search_traces
from tvmquant.tuning.pool import InProcess, Outcome
from tvmquant.tuning.session import Job
from tvmquant.tuning.ship import device_with
from tvmquant.tuning.trace_tuner import (
    Subject,
    TraceTuner,
    convolution_subject,
    function_subject,
)

RULE = "tvmquant.schedules.tensorized.kernel.tensorized"
COVERED = Workload("conv2d", (1, 6, 7, 8), (32, 3, 3, 8), (2, 1), (1, 0, 1, 2), (1, 1))
HAS_INTRINSIC = pytest.mark.skipif(not lanes_of(HOST.isa), reason="no tensor intrinsic")


def product(scale=2.0, size=24, name="product"):
    """``relu(a @ b) * scale`` as a TE function."""
    a, b = (te.placeholder((size, size), "float32", name=n) for n in "ab")
    k = te.reduce_axis((0, size), "k")
    c = te.compute((size, size), lambda i, j: te.sum(a[i, k] * b[k, j], k), name="c")
    d = te.compute((size, size), lambda i, j: te.max(c[i, j], 0.0) * scale, name="d")
    func = te.create_prim_func([a, b, d])
    return func.with_attr("global_symbol", name)


@pytest.fixture(scope="module")
def found():
    """Some traces of :func:`product`, with invented times."""
    seconds = iter(range(1, 100))
    traces = search_traces(
        product(), HOST, 4, lambda batch: [next(seconds) * 1e-3 for _ in batch], learned=False
    )
    return list(traces)


def run(func):
    func = func.with_attr({"global_symbol": "main", "tvmquant.scheduled": True})
    module = tvm.compile(tvm.IRModule({"main": func}), target=HOST.target)
    args = random_arguments(func)
    module["main"](*args)
    return args[-1].numpy()


def test_the_key_is_what_the_function_computes():
    key = function_workload(product())
    assert key.op.startswith("function:") and key.x_shape == key.w_shape == (24, 24)
    assert function_workload(product(name="other")) == key
    # A schedule does not depend on a scale.
    assert function_workload(product(scale=3.5)) == key
    assert function_workload(product(size=32)) != key


def test_a_search_gives_traces_that_replay(found):
    assert 0 < len(found) <= 4
    wanted = run(product())
    for trace, seconds in found:
        assert json.loads(json.dumps(trace)) == trace and seconds > 0
        scheduled = replay(product(), json.loads(json.dumps(trace)))
        assert str(scheduled.attrs["global_symbol"]) == "product"
        assert scheduled.script() != product().script()
        np.testing.assert_allclose(run(scheduled), wanted, rtol=1e-5, atol=1e-5)


def test_failed_candidates_do_not_end_a_search():
    times = iter([None, 1e-3, None, None, 2e-3] * 9)
    results = list(
        search_traces(product(), HOST, 5, lambda batch: [next(times) for _ in batch], learned=False)
    )
    assert 0 < len(results) <= 5 and results[0][1] is None


def test_a_trace_of_another_function_is_refused(found):
    a = te.placeholder((4,), name="a")
    other = te.create_prim_func([a, te.compute((4,), lambda i: a[i] + 1.0, name="x")])
    with pytest.raises(ConfigError, match="the trace does not fit"):
        replay(other, found[0][0])


def test_compilations_use_a_measured_schedule_and_else_the_default(found):
    module = tvm.IRModule({"product": product()})
    key = function_workload(product())
    assert len(unscheduled(module)) == 1

    def rules(*records):
        database = Database()
        for seconds, rule, config in records:
            database.add(record(seconds, key, rule=rule, config=config))
        scheduled = ScheduleFunctions(HOST, database)(module)
        assert unscheduled(scheduled) == []
        return [str(r) for r in scheduled["product"].attrs["tvmquant.rules"]]

    default = rules()
    assert default != [TRACE]
    traced = {"trace": found[0][0]}
    assert rules((1e-3, DEFAULT, {}), (1e-4, TRACE, traced)) == [TRACE]
    assert rules((1e-5, DEFAULT, {}), (1e-4, TRACE, traced)) == default
    assert rules((1e-3, TRACE, {"trace": [[["Nonsense", [], [], []]], []]})) == default


class FakeTracer(FakeBuilders):
    """The default takes 1 ms, a trace 1 µs less than the one before it."""

    def time(self, handle, best):
        super_timings = self.timings = self.timings + 1
        return Outcome(1e-3 - super_timings * 1e-6)


def tuner(database, builders, count=3):
    return TraceTuner(HOST, Trials(count, cost_model="analytic"), database, builders)


def test_the_loop_resumes_and_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    subject = function_subject(product(), HOST)
    first = tuner(Database(path), FakeTracer()).run([subject, subject])
    assert first.measured == 3 and len(first.layers) == 1
    assert first.layers[0].default == pytest.approx(0.999e-3)
    assert first.layers[0].rule == TRACE and first.layers[0].ratio > 1
    again = FakeTracer()
    second = tuner(Database(path), again).run([subject])
    assert again.timings == 0 and second.measured == 0 and second.layers == first.layers
    assert tuner(Database(path), FakeTracer(), 5).run([subject]).measured == 2
    # A search that ran dry is not started again.
    database = Database()
    database.add(record(None, subject.workload, rule=TRACE, config={"searched": 9}))
    assert tuner(database, again, 9).run([subject]).measured == 0 == again.timings


def test_short_functions_are_left_alone():
    class Quick(FakeBuilders):
        def time(self, handle, best):
            self.timings += 1
            return Outcome(1e-6)

    database, builders = Database(), Quick()
    report = tuner(database, builders).run([function_subject(product(), HOST)])
    assert report.measured == 0 and builders.timings == 1 and report.layers[0].rule == DEFAULT
    assert tuner(database, builders).run([function_subject(product(), HOST)]).measured == 0
    assert builders.timings == 1


def test_real_measurements_of_a_function(monkeypatch):
    monkeypatch.setattr(trace_tuner, "_WORTH_SECONDS", 0)
    database = Database()
    report = tuner(database, InProcess(), 2).run([function_subject(product(), HOST)])
    assert report.measured == 2 and report.failed == 0 and report.layers[0].best > 0


def test_a_function_job_refuses_a_schedule_that_changes_the_result(found, tmp_path):
    text, other = (tvm.ir.save_json(product(s).without_attr("global_symbol")) for s in (2.0, 2.5))
    path = str(tmp_path / "r.npz")
    inside = InProcess()
    jobs = [FunctionJob(t, HOST, trace, path) for t, trace in ((text, None), (other, found[0][0]))]
    (_, first), (_, second) = inside.build(jobs)
    assert first == "" and "wrong output: differs by up to" in second


@HAS_INTRINSIC
@pytest.mark.parametrize("isa", ["host", "avx2"])
def test_tensorized_convolutions_equal_the_reference(isa, tmp_path):
    device = device_with(isa)
    workload = replace(COVERED, no_saturation=True)
    path = tmp_path / "reference.npz"
    np.savez(path, expected(workload))
    subject, inside = convolution_subject(workload, device), InProcess()
    assert subject.rule == RULE
    jobs = [Job(workload, device, RULE, {}, str(path))]

    def measure(traces):
        jobs.extend(subject.job(trace, str(path)) for trace in traces)
        return [1e-3 + len(str(trace)) * 1e-9 for trace in traces]

    kernel = TensorizedKernel(workload, device.isa)
    options = {"intrinsic": kernel.intrinsic, "learned": False}
    traces = list(search_traces(kernel.definition, device, 3, measure, **options))
    assert [error for _, error in inside.build(jobs)] == [""] * (1 + len(traces))
    assert any(kernel.intrinsic in str(trace) for trace, _ in traces)
    database = Database()
    default = candidates(workload, device)[0]
    processor = {"workload": workload, "device": device}
    database.add(record(2e-3, rule=default.rule, config=default.config, **processor))
    database.add(record(1e-3, rule=RULE, config={"trace": traces[0][0]}, **processor))
    chosen = KernelTable(device, database=database)[workload]
    assert isinstance(chosen, TensorizedKernel) and chosen.trace


@HAS_INTRINSIC
def test_without_a_trace_the_tensorized_kernel_takes_no_part():
    kernel = named_rules("conv2d")[RULE](COVERED, HOST)
    assert kernel is None or kernel.configs() == []
    assert not any(c.rule == RULE for c in candidates(COVERED, HOST))
    assert not isinstance(KernelTable(HOST)[COVERED], TensorizedKernel)
    proven = TensorizedKernel(COVERED, HOST.isa)
    for bad in ({"rows": 1}, {"trace": [[["Nonsense", [], [], []]], []]}):
        with pytest.raises(ConfigError):
            proven.with_config(bad)


def test_only_what_the_intrinsic_covers():
    device = device_with("avx2") if "avx2" in HOST.features else HOST
    proven = replace(COVERED, no_saturation=True)
    refused = [
        COVERED if device.isa == "avx2" else replace(proven, w_bits=4),
        replace(proven, w_bits=4),
        replace(proven, groups=2, w_shape=(32, 3, 3, 4)),
        replace(proven, w_shape=(30, 3, 3, 8)),
        replace(proven, x_shape=(1, 6, 7, 6), w_shape=(32, 3, 3, 6)),
        replace(proven, requantize="dequantize"),
        Workload("matmul", (8, 32), (32, 32)),
    ]
    assert [convolution_subject(w, device) for w in refused] == [None] * len(refused)
    found = convolution_subject(proven, device)
    assert found is None or isinstance(found, Subject)
    assert CONV.w_shape[0] % 8 == 0
