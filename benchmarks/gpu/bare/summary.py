"""What rows of results say: best times, exactness, and the goals."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
# Rows of a matrix product from which its time is that of the multiplications.
COMPUTE_ROWS = 512
NOT_YET = "not yet measured"
_SCALE_BYTES = 4
_GROUP = 128


def label(row: Row) -> str:
    """Who a row is of: a precision of tvmquant, or a peer."""
    ours = row["contender"] == "tvmquant"
    return f"tvmquant {row['precision']}" if ours else str(row["contender"])


def best_times(rows: Iterable[Row], part: str) -> dict[str, dict[str, float]]:
    """Microseconds of the fastest exact kernel and of every peer: name → label → time."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["part"] == part and row.get("us") and row.get("exact", True):
            known = found[row["name"]].get(label(row), math.inf)
            found[row["name"]][label(row)] = min(known, row["us"])
    return dict(found)


def default_over_best(rows: Iterable[Row]) -> list[float]:
    """By workload: time of the kernel that is chosen without tuning, in times of the fastest."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.get("us") and row["contender"] == "tvmquant" and "plan" in row:
            groups[row["folder"]].append(row)
    found = []
    for group in groups.values():
        # The first plan is the default of the first rule.
        first = [row["us"] for row in group if row["plan"] == 0]
        if first and len(group) > 1:
            found.append(first[0] / min(row["us"] for row in group))
    return sorted(found)


def exactness(rows: Iterable[Row], networks: bool) -> tuple[int, int, list[Row]]:
    """How many results are exact, how many there are, and the rows that are not."""
    found = [row for row in rows if "exact" in row and _is_network(row) == networks]
    wrong = [row for row in found if not row["exact"]]
    return len(found) - len(wrong), len(found), wrong


def _is_network(row: Row) -> bool:
    return "batch" in row


def machine(results: Row) -> Row:
    """What was measured of the machine itself; empty if nothing was."""
    rows = [row for row in results.get("rows", ()) if row["part"] == "machine"]
    return rows[-1] if rows and "device" in rows[-1] else {}


def sizes(name: str) -> tuple[int, int, int]:
    """Rows, inputs and outputs of a matrix product."""
    rows, depth, outputs = map(int, name.split("x"))
    return rows, depth, outputs


def tops(name: str, microseconds: float) -> float:
    """10**12 operations a second; a multiply-accumulate is two."""
    return 2 * math.prod(sizes(name)) / microseconds / 1e6


def weight_only_share(name: str, microseconds: float, copy_gbs: float) -> float:
    """Part of the bandwidth of a copy at which 4-bit weights are read."""
    rows, depth, outputs = sizes(name)
    weights = depth * outputs / 2 + depth / _GROUP * outputs * _SCALE_BYTES
    moved = weights + 4 * (rows * depth + rows * outputs)
    return moved / microseconds / 1e3 / copy_gbs


def goals(results: Row) -> list[Row]:
    """The goals: ``goal``, ``wanted``, ``measured`` (text) and ``met`` (None: not measured)."""
    rows = results.get("rows", [])
    times = best_times(rows, "gemm")
    copy = machine(results).get("copy_gbs")
    ours, int8 = "tvmquant w8a8", "torch int8"
    found = [_exact_goal(rows, False), _exact_goal(rows, True)]
    text = "int8 matrix products, speed in cuBLASLt's int8"
    found.append(_ratio_goal(text, 0.7, times, int8, ours, _large))
    text = "1-bit matrix products, speed in our int8"
    found.append(_ratio_goal(text, 3.0, times, ours, "tvmquant w1a1", _large))
    text = "w4a8 matrix products, speed in our int8"
    found.append(_ratio_goal(text, 1.0, times, ours, "tvmquant w4a8", lambda name: True))
    shares = {
        name: weight_only_share(name, entry["tvmquant w4 weight-only"], copy)
        for name, entry in times.items()
        if copy and "tvmquant w4 weight-only" in entry and sizes(name)[0] == 1
    }
    text = "4-bit weight-only products at batch 1, part of the memory-bound limit"
    found.append(_goal(text, 0.85, shares))
    return found


def _large(name: str) -> bool:
    return sizes(name)[0] >= COMPUTE_ROWS


def _exact_goal(rows: list[Row], networks: bool) -> Row:
    exact, total, _ = exactness(rows, networks)
    text = "networks equal to the host's build" if networks else "kernels equal to NumPy"
    if not total:
        return {"goal": text, "wanted": "all", "measured": NOT_YET, "met": None}
    rounded = sum("note" in row for row in rows if _is_network(row) == networks)
    measured = f"{exact} of {total}"
    if rounded:
        measured += f" ({rounded} of them but for roundings of float outputs)"
    return {"goal": text, "wanted": "all", "measured": measured, "met": exact == total}


def _ratio_goal(
    text: str,
    wanted: float,
    times: dict[str, dict[str, float]],
    base: str,
    mine: str,
    counts: Callable[[str], bool],
) -> Row:
    ratios = {
        name: entry[base] / entry[mine]
        for name, entry in times.items()
        if counts(name) and base in entry and mine in entry
    }
    return _goal(text, wanted, ratios)


def _goal(text: str, wanted: float, values: dict[str, float]) -> Row:
    goal = {"goal": text, "wanted": f"{wanted:g}", "measured": NOT_YET, "met": None}
    if not values:
        return goal
    mean = geometric_mean(values.values())
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    measured = f"{mean:.2f} (from {values[low]:.2f} at {low} to {values[high]:.2f} at {high})"
    return {**goal, "measured": measured, "met": mean >= wanted, "values": values}


def geometric_mean(values: Iterable[float]) -> float:
    """Of positive numbers."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))
