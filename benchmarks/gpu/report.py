"""Results as ``gpu.json`` and ``gpu.md``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.bare import summary
from benchmarks.gpu.bare.summary import NOT_YET
from benchmarks.gpu.shapes import BATCHES, GEMMS, NETWORKS, WEIGHT_ONLY, conv_name, resnet50_layers

GEMM = ("tvmquant w8a8", "tvmquant w4a8", "tvmquant w4a4", "tvmquant w1a1", "torch int8")
GEMM += ("torch fp16", "torch bf16", "gemlite W8A8")
SMALL = ("tvmquant w4 weight-only", "torch int4 tinygemm", "torchao int4", "gemlite W4A16")
SMALL += ("torch bf16",)
CONV = ("tvmquant w8a8", "tvmquant w4a8", "cuDNN fp16", "cuDNN bf16")
NETWORK = ("tvmquant w8a8", "tvmquant w4a8", "torch fp16 eager", "torch fp16 compiled")


def merge(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One report of several runs on one device; later rows replace those of the same kind."""
    if not several:
        return {"rows": []}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for results in several:
        for row in results["rows"]:
            known = ("part", "name", "contender", "folder", "plan", "rule", "config")
            rows[tuple(str(row.get(key)) for key in known)] = row
    return {**several[-1], "rows": list(rows.values())}


def write(results: dict[str, Any], folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    goals = [{k: v for k, v in goal.items() if k != "values"} for goal in summary.goals(results)]
    kept = {key: results[key] for key in ("date", "set", "skipped") if key in results}
    head = json.dumps({"goals": goals, **kept}, indent=1).removesuffix("\n}")
    # A row a line.
    rows = ",\n".join(json.dumps(row) for row in results["rows"])
    text = f'{head},\n "rows": [{rows}]\n}}\n'
    for name, content in (("gpu.json", text), ("gpu.md", to_markdown(results))):
        part = folder / f"{name}.part"
        part.write_text(content, encoding="utf-8")
        part.replace(folder / name)


def to_markdown(results: dict[str, Any]) -> str:
    """The whole report."""
    rows, machine = results.get("rows", []), summary.machine(results)
    lines = ["# NVIDIA GPU", "", *_head(results, machine), "", "## Goals", ""]
    goals = [
        [g["goal"], g["wanted"], g["measured"], {True: "yes", False: "**no**", None: ""}[g["met"]]]
        for g in summary.goals(results)
    ]
    lines += _table(["goal", "wanted", "measured", "met"], goals)
    lines += ["", "Geometric means; products of matrices count from 512 rows on, except w4a8: all."]
    ratios = summary.default_over_best(rows)
    if ratios:
        middle = ratios[len(ratios) // 2]
        lines += ["", f"The kernel that is chosen without tuning takes {middle:.2f} times as long "]
        lines[-1] += f"as the fastest of those measured (median; at most {ratios[-1]:.2f})."
    int8_peak = machine.get("int8_tops")
    lines += ["", "## Matrix products", "", "Microseconds, in brackets 10¹² operations a second"]
    lines[-1] += f" as part of the int8 peak ({int8_peak:.0f}, torch int8)." if int8_peak else "."
    names = ["x".join(map(str, shape)) for shape in GEMMS]
    times = summary.best_times(rows, "gemm")

    def cell(name: str, us: float) -> str:
        part = f" ({summary.tops(name, us) / int8_peak:.0%})" if int8_peak else ""
        return f"{us:.1f}{part}"

    lines += ["", *_times("rows x inputs x outputs", names, GEMM, times, cell)]
    lines += [
        "",
        "4-bit weights in groups of 128, float activations; weights come from memory:",
        "",
    ]
    names = ["x".join(map(str, shape)) for shape in WEIGHT_ONLY]
    lines += _times("rows x inputs x outputs", names, SMALL, times)
    lines += ["", "## Networks", "", "Microseconds a batch.", ""]
    names = [f"{name} batch {batch}" for name in NETWORKS for batch in BATCHES if batch > 1]
    lines += _times("network", names, NETWORK, summary.best_times(rows, "network"))
    times = summary.best_times(rows, "conv")
    for batch in BATCHES:
        lines += ["", f"## Convolutions of ResNet-50, batch {batch}", "", "Microseconds.", ""]
        names = [conv_name(batch, *layer) for layer in resnet50_layers()]
        lines += _times("layer", names, CONV, times)
    return "\n".join([*lines, *_failures(results)]) + "\n"


def _head(results: dict[str, Any], machine: dict[str, Any]) -> list[str]:
    if not machine:
        return [f"Device: {NOT_YET}."]
    lines = [f"- Device: {machine['device']}, compiled for {results['set']['target']}"]
    lines.append(f"- Measured {results['date']} with PyTorch {machine.get('torch', 'missing')}")
    peaks = {"copy_gbs": "GB/s of a copy", "int8_tops": "int8", "fp16_tops": "fp16"}
    found = [f"{machine[key]:.0f} {text}" for key, text in peaks.items() if machine.get(key)]
    lines.append(f"- Peaks: {', '.join(found) or NOT_YET} (operations in 10¹² a second)")
    return lines


def _times(
    header: str,
    names: Sequence[str],
    columns: Sequence[str],
    times: dict[str, dict[str, float]],
    cell: Any = None,
) -> list[str]:
    """A table of what should be there; the best of a row is bold."""
    table = []
    for name in names:
        entry = {c: times[name][c] for c in columns if c in times.get(name, {})}
        best = min(entry.values(), default=None)
        row = [name]
        for column in columns:
            if column not in entry:
                row.append(NOT_YET if not times else "–")
                continue
            text = cell(name, entry[column]) if cell else f"{entry[column]:.1f}"
            row.append(f"**{text}**" if entry[column] == best else text)
        table.append(row)
    return _table([header, *columns], table)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(headers) - 1)]
    return ["| " + " | ".join(line) + " |" for line in (headers, rule, *rows)]


def _failures(results: dict[str, Any]) -> list[str]:
    found: dict[str, list[str]] = {}
    for row in results.get("rows", []):
        if "error" in row or row.get("exact") is False:
            who = summary.label(row) if "precision" in row else row["contender"]
            found.setdefault(f"{who}: {row.get('wrong') or row['error']}", []).append(row["name"])
    lines = ["", "## Failed or wrong", ""] if found else []
    for text, names in found.items():
        shown = list(dict.fromkeys(names))
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        lines.append(f"- {text} ({', '.join(shown[:5])}{more})")
    skipped = results.get("skipped")
    return [*lines, "", f"No time was left for {len(skipped)} jobs."] if skipped else lines
