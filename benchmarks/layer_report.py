"""The results of single layers as tables, JSON and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.peaks import best_float, best_int8
from benchmarks.report import OURS, machine_text, markdown_table, number

INT8_PEERS = ("onnxruntime QLinearConv", "onnxruntime QLinearMatMul", "onnxruntime MatMulInteger",
              "openvino int8")  # fmt: skip


def row_names(report: dict[str, Any]) -> list[str]:
    """Columns: ours first, in the order in which they were measured."""
    names = [row["name"] for layer in report["layers"] for row in layer["rows"]]
    return list(dict.fromkeys(names))


def best_int8_us(layer: dict[str, Any]) -> float | None:
    """Microseconds of the fastest int8 peer."""
    times = [row["us"] for row in layer["rows"] if row["name"] in INT8_PEERS and "us" in row]
    return min(times, default=None)


def cell(report: dict[str, Any], row: dict[str, Any] | None) -> str:
    """GOP/s and percent of the peak; ``WRONG`` for a result that differs from the reference."""
    if row is None or "us" not in row:
        return "–"
    if row.get("exact") is False:
        return "WRONG"
    is_float = row["name"].endswith("fp32")
    peak = best_float(report["peaks"]) if is_float else best_int8(report["peaks"])
    text = f"{row['gops']:.0f}"
    return text if peak != peak else f"{text} ({row['gops'] / peak:.0%})"


def lines(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of the table."""
    names = row_names(report)
    headers = ["layer", *(n.removeprefix("onnxruntime ") for n in names), "w8a8 × best int8 peer"]
    table = []
    for layer in report["layers"]:
        rows = {row["name"]: row for row in layer["rows"]}
        best, ours = best_int8_us(layer), rows.get("w8a8", {}).get("us")
        ratio = best / ours if best and ours else None
        line = [cell(report, rows.get(name)) for name in names]
        table.append([layer["name"], *line, number(ratio)])
    return headers, table


def layer_table(report: dict[str, Any]) -> Table:
    """A rich table that fits a terminal: tvmquant and the best int8 peer."""
    ours = [n for n in row_names(report) if _is_ours(n)]
    table = Table(title="GOP/s (part of the int8 peak)")
    table.add_column("layer", no_wrap=True)
    for header in (*ours, "best int8 peer", "×"):
        table.add_column(header, justify="right")
    _, full = lines(report)
    for layer, line in zip(report["layers"], full):
        rows = {row["name"]: row for row in layer["rows"]}
        best = min(
            (row for row in layer["rows"] if row["name"] in INT8_PEERS and "us" in row),
            key=lambda row: row["us"],
            default=None,
        )
        peers = "–" if best is None else f"{best['gops']:.0f} {best['name']}"
        table.add_row(layer["name"], *(cell(report, rows.get(n)) for n in ours), peers, line[-1])
    return table


def _is_ours(name: str) -> bool:
    return not name.startswith(("onnxruntime", "openvino"))


def to_markdown(report: dict[str, Any]) -> str:
    """The whole report."""
    calls = ", ".join(f"{name} {us:.1f} µs" for name, us in report["call_us"].items())
    text = [
        "# Layers",
        "",
        f"Measured {report['date']}, {report['settings']['threads']} thread(s).",
    ]
    text += ["", *(f"- {line}" for line in machine_text(report).splitlines())]
    text += [f"- Subtracted for the call: {calls or 'nothing'}", ""]
    text += ["GOP/s, in brackets the part of the int8 peak (fp32: of the FMA peak).", ""]
    text += markdown_table(*lines(report))
    reasons: dict[str, list[str]] = {}
    for layer in report["layers"]:
        for row in layer["rows"]:
            if "reason" in row:
                reasons.setdefault(f"{row['name']}: {row['reason']}", []).append(layer["name"])
    if reasons:
        text += ["", "Not measured:", ""]
        text += [f"- {reason} ({', '.join(names)})" for reason, names in reasons.items()]
    return "\n".join(text) + "\n"


def write_layers(report: dict[str, Any], folder: Path, suffix: str = "") -> None:
    """``layers.json``, ``layers.md`` and ``layers.png``, with a suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (folder / f"layers{suffix}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"layers{suffix}.md").write_text(to_markdown(report), encoding="utf-8")
    plot_layers(report, folder / f"layers{suffix}.png")


def plot_layers(report: dict[str, Any], path: Path) -> None:
    """GOP/s of every layer: a dot an engine and precision, the peak as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    layers = report["layers"][::-1]
    figure, axis = pyplot.subplots(figsize=(9, 2 + 0.28 * len(layers)), layout="constrained")
    blues = pyplot.get_cmap("Blues")
    names = [n for n in row_names(report) if not n.endswith("fp32")]
    ours = [n for n in names if _is_ours(n)]
    for name in names:
        mine = name in ours
        dots = [
            (row["gops"], place)
            for place, layer in enumerate(layers)
            for row in layer["rows"]
            if row["name"] == name and "gops" in row
        ]
        if not dots:
            continue
        shade = blues(1 - 0.14 * ours.index(name)) if mine else None
        label = f"{OURS} {name}" if mine else name
        axis.scatter(*zip(*dots), label=label, color=shade, marker="o" if mine else "x", s=26)
    peak = best_int8(report["peaks"])
    if peak == peak:
        axis.axvline(peak, color="#888", lw=1)
        axis.text(peak, len(layers) - 0.4, "int8 peak", fontsize=7, ha="right")
    axis.set_yticks(range(len(layers)), [layer["name"] for layer in layers], fontsize=7)
    axis.set_xlabel(f"GOP/s, {report['settings']['threads']} thread(s)", fontsize=8)
    axis.set_xlim(left=0)
    axis.grid(axis="y", lw=0.3)
    figure.legend(fontsize=7, loc="outside lower center", ncols=4, frameon=False)
    axis.set_title(report["machine"]["cpu"], fontsize=10)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
