"""Interleaved timing: whatever disturbs the machine disturbs every engine alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

# How long helper threads of other engines may still spin after a run.
SETTLE_SECONDS = 0.02


@dataclass(frozen=True)
class Spread:
    """Median and tenth and ninetieth percentile, in milliseconds."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, milliseconds: list[float]) -> Spread:
        p10, median, p90 = np.percentile(milliseconds, [10, 50, 90])
        return cls(float(median), float(p10), float(p90))


@dataclass(frozen=True)
class Times:
    """Wall time and CPU time of the whole process."""

    wall: Spread
    cpu: Spread


def interleave(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    inner: int = 3,
    settle: float = 0.0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Times]:
    """Time all ``runs``, in a new order every round.

    In its turn one runs once untimed, which brings its weights back into the caches, then
    ``inner`` times timed.

    Parameters
    ----------
    runs : mapping of str to callable
        One that returns a float has measured its own milliseconds.
    rounds, inner : int
    settle : float
        Seconds to sleep before a turn.
    progress : callable, optional
        Called with the number of rounds done.
    """
    shuffle = random.Random(0)
    wall: dict[str, list[float]] = {name: [] for name in runs}
    cpu: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for done in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            run = runs[name]
            if settle:
                time.sleep(settle)
            run()
            for _ in range(inner):
                cpu_start, start = time.process_time_ns(), time.perf_counter_ns()
                own = run()
                end, cpu_end = time.perf_counter_ns(), time.process_time_ns()
                timed = isinstance(own, float)
                wall[name].append(own if timed else (end - start) / 1e6)
                cpu[name].append(own if timed else (cpu_end - cpu_start) / 1e6)
        if progress:
            progress(done + 1)
    return {name: Times(Spread.of(wall[name]), Spread.of(cpu[name])) for name in runs}
