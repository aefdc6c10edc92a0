"""Timing by PyTorch's events and graphs, with a PyTorch that only keeps a record."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.gpu.bare import runtime, timing

MICROSECONDS = 20


class Output(np.ndarray):
    """An array with the methods of a tensor that are used."""

    def clone(self):
        return self.copy()

    def copy_(self, other):
        self[...] = other

    def fill_(self, value):
        self[...] = value


class Torch:
    """Launches take 20 us each; what is captured is done when the graph is replayed."""

    def __init__(self, capture_fails=False):
        self.clock, self.captured, self.capture_fails = 0.0, None, capture_fails
        self.cuda = SimpleNamespace(
            Event=lambda enable_timing: Event(self),
            CUDAGraph=lambda: Graph(self),
            graph=self.capture,
            synchronize=lambda: None,
        )
        self.equal = np.array_equal

    def launch(self, work):
        if self.captured is not None:
            self.captured.append(work)
        else:
            self.clock += MICROSECONDS / 1e3
            work()

    @contextlib.contextmanager
    def capture(self, graph):
        self.captured = graph.work
        try:
            yield
        finally:
            self.captured = None
            if self.capture_fails:
                raise RuntimeError("operation not permitted when stream is capturing")


class Event:
    def __init__(self, torch):
        self.torch, self.at = torch, None

    def record(self):
        self.at = self.torch.clock

    def synchronize(self):
        assert self.at is not None

    def elapsed_time(self, other):
        return other.at - self.at


class Graph:
    def __init__(self, torch):
        self.torch, self.work = torch, []

    def replay(self):
        for work in self.work:
            self.torch.launch(work)


class Device(runtime.TorchGpu):
    def __init__(self, torch):
        self.torch = torch
        self.ffi = SimpleNamespace(use_torch_stream=contextlib.nullcontext)

    def sync(self):
        pass


def contender(torch, *, asynchronous=True, copies=1):
    output, used = np.zeros(4, np.uint8).view(Output), []

    def run(copy):
        used.append(copy)
        work = lambda: output.fill_(7)  # noqa: E731
        torch.launch(work) if asynchronous else work()

    unchanged = lambda: bool((output == 7).all())  # noqa: E731
    return timing.Contender("ours", run, copies, {}, output, unchanged), used


@pytest.mark.parametrize("copies", [1, 6])
def test_a_graph_of_many_launches_is_timed(copies):
    torch = Torch()
    ours, used = contender(torch, copies=copies)
    (row,) = timing.take_turns(Device(torch), [ours], 3, 60)
    assert (row["how"], row["readings"]) == ("graph", 3)
    assert row["us"] == pytest.approx(MICROSECONDS)
    # All copies come equally often in what was captured.
    captured = used[copies + max(copies, 3) :]
    assert len(captured) % copies == 0 and len(captured) * MICROSECONDS >= 1400
    assert {captured.count(copy) for copy in range(copies)} == {len(captured) // copies}


def test_without_a_graph_launches_are_timed():
    torch = Torch(capture_fails=True)
    ours, _ = contender(torch)
    (row,) = timing.take_turns(Device(torch), [ours], 3, 60)
    assert (row["how"], row["readings"]) == ("launches", 3)
    assert row["us"] == pytest.approx(MICROSECONDS)


def test_a_graph_that_does_not_do_the_work_is_not_used():
    torch = Torch()
    # It escapes the capture, as a kernel on another stream.
    ours, _ = contender(torch, asynchronous=False)
    (row,) = timing.take_turns(Device(torch), [ours], 3, 60)
    assert row["how"] == "launches" and "error" not in row and "wrong" not in row


def test_outputs_that_change_are_no_result():
    torch = Torch()
    ours, _ = contender(torch)
    ours.unchanged = lambda: False
    (row,) = timing.take_turns(Device(torch), [ours], 2, 60)
    assert row["wrong"] == "another result after many runs" and "us" not in row
