"""The counts as tables."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

_HEAD = [
    "contender",
    "kernel",
    "executed instructions",
    "× ncnn int8",
    "× ncnn int8 inner",
    "MAC per SIMD",
    "loads",
    "stores",
    "inner loop: instructions → advisory cycles",
    "advisory cycles, all",
    "× ncnn int8",
]
_NETWORK_HEAD = [*_HEAD[:1], "exact", *_HEAD[2:4], *_HEAD[5:8], *_HEAD[9:], "bundle MB"]
_INTRODUCTION = """# ARM, counted

Executed instructions inside the model's library (tvmquant) or inside ncnn's library, one call on
one thread, under qemu's emulation of the named core. Not times: no ARM processor took part.
"Advisory cycles" are llvm-mca's model of each hot block times how often it ran; caches, branches
and whatever else it does not model are left out. What the words mean: `benchmarks/arm/README.md`.

A layer of "ncnn int8" takes and gives float. For depthwise layers it then unpacks its output one
number at a time, which a network avoids: compare those with "ncnn int8 inner".
"""


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    about = f"qemu {report['qemu']}, LLVM {report['llvm']}, ncnn {report['ncnn']}."
    parts = [_INTRODUCTION, about, ""]
    rows = report["rows"]
    for kind, title in (("network", "Networks"), ("layer", "Layers")):
        chosen = [row for row in rows if row["kind"] == kind]
        for cpu in sorted({row["cpu"] for row in chosen}):
            parts += [f"## {title}, {cpu}", ""]
            for name in dict.fromkeys(row["name"] for row in chosen if row["cpu"] == cpu):
                here = [row for row in chosen if (row["cpu"], row["name"]) == (cpu, name)]
                here.sort(key=lambda row: _place(row["contender"]))
                parts += [f"**{name}**, {here[0]['macs'] / 1e6:,.1f} M multiply-accumulates", ""]
                parts += _table(kind, here)
    return "\n".join(parts)


def _place(contender: str) -> tuple[bool, int]:
    order = ("ncnn int8", "ncnn int8 inner", "ncnn fp32", "w8a8", "w4a8", "w4a4", "w2a2", "w1a1")
    return (contender not in order, order.index(contender) if contender in order else 0)


def _table(kind: str, rows: list[Row]) -> list[str]:
    by_name = {row["contender"]: row for row in rows}
    whole, inner = by_name.get("ncnn int8"), by_name.get("ncnn int8 inner")

    def ratio(row: Row, other: Row | None, field: str) -> str:
        return f"{row[field] / other[field]:.2f}" if other else ""

    def cells(row: Row) -> list[str]:
        classes, loop = row["classes"], row["inner_loop"]
        common = [f"{row['executed']:,}", ratio(row, whole, "executed")]
        memory = [
            f"{row['macs_per_simd']:.1f}",
            f"{classes['load'] + classes['simd_load']:,}",
            f"{classes['store'] + classes['simd_store']:,}",
        ]
        advice = [f"{row['advisory_cycles']:,}", ratio(row, whole, "advisory_cycles")]
        exact = {True: "yes", False: "**WRONG**", None: ""}[row.get("exact")]
        if kind == "network":
            size = f"{row['bundle_bytes'] / 1e6:.1f}" if "bundle_bytes" in row else ""
            return [row["contender"], exact, *common, *memory, *advice, size]
        kernel = row.get("kernel", "") + (" **WRONG**" if row.get("exact") is False else "")
        inside = f"{loop['instructions']} → {loop['advisory_cycles']:.0f}"
        common.append(ratio(row, inner, "executed"))
        return [row["contender"], kernel, *common, *memory, inside, *advice]

    head = _NETWORK_HEAD if kind == "network" else _HEAD
    lines = [head, ["---"] * 2 + ["--:"] * (len(head) - 2), *map(cells, rows)]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]
