"""Timing whole runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

from tvmquant.errors import InputError
from tvmquant.runtime.footprint import Footprint
from tvmquant.runtime.threads import use_threads

MEGABYTE = 1e6


@dataclass(frozen=True)
class Benchmark:
    """Times of whole runs.

    Attributes
    ----------
    median_ms, p10_ms, p90_ms, min_ms : float
        Milliseconds a run.
    fps : float
        Runs a second at the median.
    peak_memory_mb, resident_memory_mb : float or None
        Memory of the whole process, Python and TVM included, in 10**6 bytes: the most since its
        start, and now. Read them in a process that only ran the model (``tvmquant bench``).
        ``None`` when a remote device does not tell.
    threads, warmup, repeats : int
    device : str
        Name of the remote device, empty for this machine.
    footprint : Footprint or None
        Time to load the model and the memory that the model itself takes.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    min_ms: float
    fps: float
    peak_memory_mb: float | None
    resident_memory_mb: float | None
    threads: int
    warmup: int
    repeats: int
    device: str = ""
    footprint: Footprint | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        memory = "memory not available"
        if self.resident_memory_mb is not None and self.peak_memory_mb is not None:
            memory = (
                f"memory {self.resident_memory_mb:.0f} MB now, {self.peak_memory_mb:.0f} MB at most"
            )
        return (
            f"median {self.median_ms:.3f} ms (p10 {self.p10_ms:.3f}, p90 {self.p90_ms:.3f}, "
            f"min {self.min_ms:.3f}), {self.fps:.1f} runs/s, {self.threads} thread(s), "
            f"{self.repeats} repeats; {memory}"
            + f"; on {self.device}" * bool(self.device)
            + (f"\n{self.footprint}" if self.footprint is not None else "")
        )


def measure(
    run: Callable[[], Any],
    *,
    warmup: int,
    repeats: int,
    threads: int,
    progress: Callable[[str, int, int], None] | None = None,
) -> Benchmark:
    """Time ``run`` with ``threads`` threads; see :class:`Benchmark`.

    Raises
    ------
    InputError
        If a number is out of range.
    """
    check_counts(warmup, repeats)
    times = []
    with use_threads(threads) as used:
        for _ in range(warmup):
            run()
        for index in range(repeats):
            start = time.perf_counter_ns()
            run()
            times.append((time.perf_counter_ns() - start) / 1e6)
            if progress is not None:
                progress("benchmark", index + 1, repeats)
    return summary(times, threads=used, warmup=warmup, memory=process_memory())


def check_counts(warmup: int, repeats: int) -> None:
    """Whether the numbers of runs make sense.

    Raises
    ------
    InputError
        If one is out of range.
    """
    if repeats < 1 or warmup < 0:
        raise InputError(f"repeats must be at least 1 and warmup 0, got {repeats} and {warmup}")


def summary(
    times: Sequence[float],
    *,
    threads: int,
    warmup: int,
    memory: tuple[float, float] | None,
    device: str = "",
    footprint: Footprint | None = None,
) -> Benchmark:
    """From the milliseconds of each run; see :class:`Benchmark`.

    Parameters
    ----------
    times : sequence of float
    threads, warmup : int
    memory : tuple of float, optional
        As :func:`process_memory` returns it.
    device : str
    footprint : Footprint, optional
    """
    p10, median, p90 = (float(value) for value in np.percentile(times, [10, 50, 90]))
    peak, resident = memory if memory is not None else (None, None)
    return Benchmark(
        median_ms=median,
        p10_ms=p10,
        p90_ms=p90,
        min_ms=min(times),
        fps=1e3 / median,
        peak_memory_mb=peak,
        resident_memory_mb=resident,
        threads=threads,
        warmup=warmup,
        repeats=len(times),
        device=device,
        footprint=footprint,
    )


def process_memory() -> tuple[float, float]:
    """Most resident memory since the start of this process and that of now, in 10**6 bytes."""
    resident = psutil.Process().memory_info().rss / MEGABYTE
    return max(_peak_memory(), resident), resident


def _peak_memory() -> float:
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / MEGABYTE
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes everywhere but on macOS.
    return peak * (1 if sys.platform == "darwin" else 1024) / MEGABYTE
