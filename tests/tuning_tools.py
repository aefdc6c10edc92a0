"""Workloads, builders that measure nothing, and rules that misbehave, for the tests of tuning."""

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass

from tvmquant.schedules import registry
from tvmquant.schedules.linear import DenseKernel
from tvmquant.schedules.registry import register_rule
from tvmquant.schedules.workload import Workload
from tvmquant.targets import get_device
from tvmquant.tuning.pool import Outcome
from tvmquant.tuning.record import Processor, Record

HOST = get_device()
MATMUL = Workload("matmul", (6, 32), (48, 32))
CONV = Workload("conv2d", (1, 6, 6, 8), (24, 3, 3, 8), (1, 1), (1, 1, 1, 1), (1, 1))
DENSE = "tvmquant.schedules.linear.kernel.dense"


def record(seconds=1e-3, workload=MATMUL, device=HOST, threads=1, rule=DENSE, config=(), **more):
    return Record(workload, Processor.of(device), threads, rule, dict(config), seconds, **more)


class FakeBuilders:
    """Times that only depend on the candidate; ``interrupt_at`` is the number of a timing."""

    def __init__(self, interrupt_at=None):
        self.jobs, self.timings, self.interrupt_at = [], 0, interrupt_at

    def build(self, jobs):
        self.jobs += jobs
        return [(len(self.jobs) - len(jobs) + i, "") for i in range(len(jobs))]

    def time(self, handle, best):
        self.timings += 1
        if self.timings == self.interrupt_at:
            raise KeyboardInterrupt
        return Outcome(fake_seconds(self.jobs[handle].config))

    def drop(self, handles):
        pass


def fake_seconds(config):
    """Large tiles are fast."""
    return 1e-3 / (1 + config.get("rows", 1) * config.get("columns", 1) * config["vectors"])


@dataclass(frozen=True)
class Misbehaving:
    """A dense kernel whose constants are not packed as they should be."""

    workload: Workload
    how: str

    @property
    def name(self):
        return f"matmul_{self.how}"

    @property
    def dense(self):
        return DenseKernel(self.workload, HOST.isa)

    def prim_func(self):
        return self.dense.prim_func()

    def pack(self, weight, bias, params):
        if self.how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.how == "hang":
            time.sleep(60)
        if self.how == "raise":
            raise RuntimeError("cannot\npack")
        return self.dense.pack(weight, bias + 1000, params)


def wrong(workload, _device):
    return Misbehaving(workload, "wrong")


def crash(workload, _device):
    return Misbehaving(workload, "crash")


def hang(workload, _device):
    return Misbehaving(workload, "hang")


def fail(workload, _device):
    return Misbehaving(workload, "raise")


def name_of(rule):
    return f"{rule.__module__}.{rule.__qualname__}"


@contextmanager
def registered(*rules, priority=-1):
    """The rules compete for ``matmul`` inside the block."""
    registry.rules_for("matmul")
    before = list(registry._RULES["matmul"])
    try:
        for rule in rules:
            register_rule("matmul", priority)(rule)
        yield
    finally:
        registry._RULES["matmul"] = before


# In a worker process the import alone makes them known.
if os.environ.get("TVMQUANT_TEST_RULES"):
    for _rule in (wrong, crash, hang, fail):
        register_rule("matmul", -1)(_rule)
