"""The table that is printed last: short, and all that matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from . import summary

# Of the whole text, and of an error in it.
_MOST = 11000
_ERROR = 150
_SHOWN = 12
GEMM = ("tvmquant w8a8", "tvmquant w4a8", "tvmquant w4a4", "tvmquant w1a1")
GEMM += ("tvmquant w4 weight-only", "torch int8", "torch fp16", "torch int4 tinygemm")
SLOW = ("torchao int4", "gemlite W4A16", "gemlite W8A8")


def final_table(results: dict[str, Any]) -> str:
    """Goals, exactness, matrix products, convolutions, networks, errors."""
    rows, machine = results["rows"], summary.machine(results)
    lines = [f"== {machine.get('device', 'unknown device')}, {results['set']['target']} =="]
    for key in ("copy_gbs", "int8_tops", "fp16_tops", "bf16_tops"):
        if machine.get(key):
            lines.append(f"{key} {machine[key]:.0f}")
    for goal in summary.goals(results):
        met = {True: "met", False: "NOT MET", None: "-"}[goal["met"]]
        lines.append(f"{met:8} {goal['goal']}: {goal['measured']} (wanted {goal['wanted']})")
    lines += ["", "us by shape (best exact plan):", *_gemm(rows)]
    lines += [*_winners(rows), "", *_convolutions(rows)]
    for name, entry in summary.best_times(rows, "network").items():
        lines.append(f"{name}: " + ", ".join(f"{k} {v:.0f}" for k, v in sorted(entry.items())))
    ratios = summary.default_over_best(rows)
    if ratios:
        middle = ratios[len(ratios) // 2]
        lines.append(f"default plan over best: median {middle:.2f}, worst {ratios[-1]:.2f}")
    alone = {summary.label(row) for row in rows if row.get("how") == "launches"}
    if alone and machine.get("torch"):
        lines.append("launched one by one, no graph: " + ", ".join(sorted(alone)))
    lines += ["", *_errors(rows)]
    if results["skipped"]:
        kinds = Counter(name.split(":")[0] for name in results["skipped"])
        lines.append("no time for: " + ", ".join(f"{n} {part}" for part, n in kinds.items()))
    return "\n".join(lines)[:_MOST]


def _gemm(rows: list[dict[str, Any]]) -> list[str]:
    times = summary.best_times(rows, "gemm")
    names = [n for n in (*GEMM, *SLOW) if any(n in entry for entry in times.values())]
    table = [["rows x inputs x outputs", *(n.removeprefix("tvmquant ") for n in names)]]
    for name, entry in times.items():
        table.append([name, *(f"{entry[n]:.1f}" if n in entry else "" for n in names)])
    return aligned(table) if times else ["none"]


def _winners(rows: list[dict[str, Any]]) -> list[str]:
    """By shape, which kernel was the fastest at every precision."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["part"] == "gemm" and row.get("us") and row["contender"] == "tvmquant":
            key = (row["name"], row["precision"])
            if key not in best or row["us"] < best[key]["us"]:
                best[key] = row
    lines: dict[str, list[str]] = {}
    for (name, precision), row in best.items():
        default = "" if row.get("default") else "*"
        lines.setdefault(name, []).append(f"{precision} {row['label']}{default}")
    head = ["fastest kernels (* is no rule's default):"] if lines else []
    return head + [f"{name}: " + "; ".join(found) for name, found in lines.items()]


def _convolutions(rows: list[dict[str, Any]]) -> list[str]:
    times, lines = summary.best_times(rows, "conv"), []
    for batch in dict.fromkeys(name.rpartition(" ")[2] for name in times):
        mine = {n: e for n, e in times.items() if n.rpartition(" ")[2] == batch}
        for ours in ("tvmquant w8a8", "tvmquant w4a8"):
            ratios = {
                n: e["cuDNN fp16"] / e[ours]
                for n, e in mine.items()
                if {"cuDNN fp16", ours} <= {*e}
            }
            if ratios:
                worst = min(ratios, key=ratios.__getitem__)
                mean = summary.geometric_mean(ratios.values())
                lines.append(
                    f"convolutions batch {batch}, {ours} over cuDNN fp16: {mean:.2f}x "
                    f"(worst {ratios[worst]:.2f}x, {worst})"
                )
    return lines


def _errors(rows: list[dict[str, Any]]) -> list[str]:
    told = Counter(
        f"{row['part']} {summary.label(row) if 'precision' in row else row['contender']}: "
        f"{row.get('wrong') or row['error']}"[:_ERROR]
        for row in rows
        if "error" in row or row.get("exact") is False
    )
    lines = [f"{count} x {text}" for text, count in told.most_common(_SHOWN)]
    names = [row["name"] for row in rows if row.get("exact") is False]
    if names:
        lines.append("WRONG: " + "; ".join(list(dict.fromkeys(names))[:_SHOWN]))
    return lines


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, all but the first to the right."""
    widths = [max(map(len, column)) for column in zip(*table)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in table
    ]
