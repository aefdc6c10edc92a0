"""Times of kernels as records of a tuning database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.gpu.bare.summary import machine
from tvmquant.targets import get_device
from tvmquant.tuning.database import Database
from tvmquant.tuning.record import Processor, Record, workload_from_dict


def records_of(results: dict[str, Any]) -> Iterator[Record]:
    """Every kernel that was timed, and those that failed or were wrong."""
    device = get_device(results["set"]["target"])
    if device.cuda is not None:
        device = replace(device, gpu=machine(results).get("device", ""))
    for row in results["rows"]:
        if "workload" not in row or "rule" not in row or not row["rule"]:
            continue
        # What was only compared has no time, and is no failure.
        wrong = row.get("error") or row.get("wrong") or ""
        if not wrong and not row.get("us"):
            continue
        yield Record(
            workload_from_dict(row["workload"]),
            Processor.of(device),
            1,
            row["rule"],
            row["config"],
            row["us"] / 1e6 if not wrong else None,
            wrong,
            results["set"]["versions"],
        )


def append(results: dict[str, Any], path: Path) -> int:
    """Add them to a database; returns how many."""
    database, count = Database(path), 0
    for record in records_of(results):
        database.add(record)
        count += 1
    return count
