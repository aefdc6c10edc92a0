"""Readings on processors and on GPUs, from a clock that tells what it is told."""

from types import SimpleNamespace

import pytest
import tvm

from tvmquant.tuning.timing import is_gpu, is_healthy, seconds_of


class Clock:
    """A module whose runs take ``times``, again and again."""

    def __init__(self, *times):
        self.times, self.calls = times, []

    def time_evaluator(self, name, device, number, repeat, **options):
        self.calls.append((number, repeat, options))
        taken = [self.times[i % len(self.times)] for i in range(repeat)]
        return lambda *arguments: SimpleNamespace(results=taken)


def test_a_gpu_is_timed_run_by_run_with_cold_caches():
    # One run in four is disturbed, one is too good to be true.
    clock = Clock(10e-6, 30e-6, 2e-6, 11e-6)
    seconds = seconds_of(clock, "kernel", [], tvm.cuda(0), 1.0, "flush")
    assert seconds == pytest.approx(10.5e-6)
    assert {(number, options["f_preproc"]) for number, _, options in clock.calls} == {(1, "flush")}
    # What takes long is run less often.
    slow = Clock(0.05)
    assert seconds_of(slow, "kernel", [], tvm.cuda(0), 1.0, "flush") == pytest.approx(0.05)
    assert max(repeat for _, repeat, _ in slow.calls) == 3


def test_a_processor_is_timed_over_many_runs():
    clock = Clock(10e-6)
    assert seconds_of(clock, "kernel", [], tvm.cpu(), 1.0) == pytest.approx(10e-6)
    assert max(number for number, _, _ in clock.calls) == 100
    assert all(options == {} for _, _, options in clock.calls)


@pytest.mark.parametrize("device", [tvm.cpu(), tvm.cuda(0)])
def test_hopeless_candidates_are_not_measured_to_the_end(device):
    good, bad = Clock(10e-6), Clock(10e-6)
    seconds_of(good, "kernel", [], device, 9e-6)
    seconds_of(bad, "kernel", [], device, 5e-6)
    assert len(bad.calls) < len(good.calls)


def test_health_is_an_answer():
    assert is_healthy(tvm.cpu()) and not is_gpu(tvm.cpu()) and is_gpu(tvm.cuda(0))
    if not tvm.cuda(0).exist:
        assert not is_healthy(tvm.cuda(0))
