"""All contenders on one model: build, check, time, profile."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import numpy as np
import psutil

from benchmarks.analysis import summarize_profile
from benchmarks.case import Case
from benchmarks.compare import compare
from benchmarks.limits import obeys
from benchmarks.peers.base import Contender, Unavailable
from benchmarks.peers.onnxruntime import OrtSession, first_line
from benchmarks.timing import SETTLE_SECONDS, interleave

Say = Callable[[str], None]


def measure_model(
    case: Case,
    contenders: list[Contender],
    threads: list[int],
    rounds: int,
    peaks: dict[str, float],
    say: Say = print,
) -> dict[str, Any]:
    """Measure ``case``; the result is plain data.

    A contender that cannot take part, or whose outputs are wrong in number or not finite, has a
    ``reason`` instead of times.
    """
    reference = [OrtSession(case.path, x, 1).infer(x) for x in case.test]
    rows = {c.name: _row(c) for c in contenders}
    built = {}
    for contender in contenders:
        say(f"building {contender.name}")
        start = time.perf_counter()
        with blame(rows[contender.name]):
            built[contender.name] = contender.build(case)
            rows[contender.name]["build_s"] = time.perf_counter() - start
    # The single thread comes first: no engine has a pool of threads yet that could spin.
    for count in sorted(threads):
        _measure_threads(case, contenders, built, rows, reference, count, rounds, say)
    for contender in contenders:
        row = rows[contender.name]
        if contender.engine == "tvmquant" and "reason" not in row:
            model = built[contender.name]
            say(f"profiling {contender.name}")
            profile = model.profile(case.inputs, repeats=min(20, rounds), threads=1)
            row["footprint"] = asdict(profile.footprint)
            row["model_mb"] = profile.footprint.resident_bytes / 1e6
            row["profile"] = summarize_profile(profile, peaks)
    return {
        "name": case.name,
        "inputs": {name: [str(a.dtype), *a.shape] for name, a in case.inputs.items()},
        "notes": case.notes,
        "rounds": rounds,
        "threads": sorted(threads),
        "rows": list(rows.values()),
    }


def _row(contender: Contender) -> dict[str, Any]:
    return {
        "name": contender.name,
        "engine": contender.engine,
        "precision": contender.precision,
        "variant": contender.variant,
        "obeys": obeys(contender.engine),
        "times": {},
    }


class blame:
    """Turns whatever an engine raises into the row's reason."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _trace: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        known = isinstance(error, Unavailable)
        self.row["reason"] = str(error) if known else f"{type(error).__name__}: {first_line(error)}"
        return True


def _measure_threads(
    case: Case,
    contenders: list[Contender],
    built: dict[str, Any],
    rows: dict[str, dict[str, Any]],
    reference: list[list[np.ndarray]],
    threads: int,
    rounds: int,
    say: Say,
) -> None:
    sessions: dict[str, Any] = {}
    with ExitStack() as stack:
        for engine in {c.engine for c in contenders}:
            first = next(c for c in contenders if c.engine == engine)
            stack.enter_context(first.threading(threads))
        for contender in contenders:
            row = rows[contender.name]
            if "reason" in row:
                continue
            say(f"loading {contender.name}, {threads} thread(s)")
            with blame(row):
                session = _load(contender, built[contender.name], case, threads, row)
                if "cosine" not in row:
                    row |= compare(session.infer, case, reference)
                sessions[contender.name] = session
        say(f"timing {len(sessions)} contenders, {threads} thread(s), {rounds} rounds")
        times = interleave(
            {name: session.run for name, session in sessions.items()},
            rounds,
            settle=SETTLE_SECONDS if threads > 1 else 0.0,
        )
        for name, measured in times.items():
            rows[name]["times"][str(threads)] = asdict(measured)
        sessions.clear()
    gc.collect()


def _load(contender: Contender, built: Any, case: Case, threads: int, row: dict[str, Any]) -> Any:
    gc.collect()
    process = psutil.Process()
    before, start = process.memory_info().rss, time.perf_counter()
    session = contender.load(built, case, threads)
    session.run()
    # Includes the first run, when engines transform weights and reserve memory.
    row.setdefault("load_s", time.perf_counter() - start)
    row.setdefault("memory_mb", max(0, process.memory_info().rss - before) / 1e6)
    row.setdefault("kernels", getattr(session, "kernels", dict)())
    return session
