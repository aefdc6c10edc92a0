"""Median times of contenders that take turns."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .runtime import Processor, TorchGpu

# A reading lasts about so long, in microseconds, and has at most so many runs.
_READING = 1500.0
_MOST = 400
# Weights are read from memory where as much of them was read since: several times the L2 cache.
COLD_BYTES = 192 << 20
_COPIES = 64


@dataclass
class Contender:
    """Something to time.

    Attributes
    ----------
    name : str
    run : callable
        ``(copy)`` runs it once on the given one of its sets of arrays.
    copies : int
        Sets of arrays that are used in turn, so that caches do not hold them.
    about : dict
        What goes into its row of the results.
    output : array, optional
        What a run writes, always the same: a graph that does not is not used.
    unchanged : callable, optional
        Whether the output is still the right one, after all runs.
    """

    name: str
    run: Callable[[int], Any]
    copies: int = 1
    about: dict[str, Any] = field(default_factory=dict)
    output: Any = None
    unchanged: Callable[[], bool] | None = None


def copies_of(size: int, cold: bool) -> int:
    """How many sets of arrays of ``size`` bytes caches cannot hold; one where it may be warm."""
    return min(_COPIES, -(-COLD_BYTES // max(1, size))) if cold else 1


def take_turns(
    device: Processor, contenders: Sequence[Contender], rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Time all of them, in a new order every round.

    Parameters
    ----------
    device : Processor
    contenders : sequence of Contender
    rounds : int
        Readings of each.
    seconds : float
        No new round is begun after so long.

    Returns
    -------
    list of dict
        Their ``about`` with ``us`` (median), ``p10``, ``p90``, ``readings`` and ``how``: launched
        one by one or as a graph; or ``error``.
    """
    start, rows, ready = time.monotonic(), [], []
    for contender in contenders:
        row = {"contender": contender.name, **contender.about}
        rows.append(row)
        try:
            ready.append((row, contender, *_prepare(device, contender), []))
        except Exception as error:
            row["error"] = told(error)
    for turn in range(rounds):
        if turn >= 2 and time.monotonic() - start > seconds:
            break
        random.Random(turn).shuffle(ready)
        for row, _, read, _, readings in ready:
            try:
                readings.append(read())
            except Exception as error:
                row["error"] = told(error)
        ready = [entry for entry in ready if "error" not in entry[0]]
    for row, contender, _, how, readings in ready:
        try:
            same = contender.unchanged is None or contender.unchanged()
        except Exception as error:
            row["error"] = told(error)
            continue
        if not same:
            row |= {"exact": False, "wrong": "another result after many runs"}
            continue
        p10, median, p90 = (round(float(v), 3) for v in np.percentile(readings, (10, 50, 90)))
        row.update(us=median, p10=p10, p90=p90, readings=len(readings), how=how)
    return rows


def told(error: BaseException) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"[:300]


def _prepare(device: Processor, contender: Contender) -> tuple[Callable[[], float], str]:
    """A function that takes a reading, and how it launches."""
    for copy in range(contender.copies):
        contender.run(copy)
    device.sync()
    if not isinstance(device, TorchGpu):
        once = max(device.times(lambda: contender.run(0), 2), 0.1)
        repeats = int(max(1, min(_MOST, _READING / once)))
        copy = iter(range(10**9))
        run = lambda: contender.run(next(copy) % contender.copies)  # noqa: E731
        return lambda: device.times(run, repeats), "launches"
    return _on_stream(device, contender)


def _on_stream(device: TorchGpu, contender: Contender) -> tuple[Callable[[], float], str]:
    torch, copies = device.torch, contender.copies
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def events(work: Callable[[], Any], runs: int) -> float:
        begin.record()
        work()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3 / runs

    def launches(runs: int) -> None:
        for index in range(runs):
            contender.run(index % copies)

    once = max(events(lambda: launches(max(3, copies)), max(3, copies)), 0.5)
    repeats = max(1, min(_MOST, round(_READING / once)))
    repeats = -(-repeats // copies) * copies
    try:
        graph = torch.cuda.CUDAGraph()
        # The inner one is left first, so also where the capture fails in the end.
        with torch.cuda.graph(graph), device.ffi.use_torch_stream():
            launches(repeats)
        _check_graph(torch, graph, contender.output)
    except Exception:
        torch.cuda.synchronize()
        return lambda: events(lambda: launches(repeats), repeats), "launches"
    return lambda: events(graph.replay, repeats), "graph"


def _check_graph(torch: Any, graph: Any, output: Any) -> None:
    """Replay; raises ``RuntimeError`` if that is not what was launched."""
    wanted = None
    if output is not None:
        wanted = output.clone()
        output.fill_(1)
    graph.replay()
    torch.cuda.synchronize()
    if wanted is not None and not torch.equal(output, wanted):
        output.copy_(wanted)
        raise RuntimeError("the graph does not write the output")
