"""The measured rows as a picture: points lost, one panel a network and precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {
    "activations": "#c2c8d0",
    "weights": "#a8b1bd",
    "per tensor": "#8ab4f8",
    "per channel": "#1f6feb",
    "recipes": "#0b3d91",
    "peers": "#d97706",
}
BITS = ("w8a8", "w4a8", "w4a4")
# Beyond, a network is of no use; the bar is cut and the number stands beside it.
WORST = 20.0


def plot(report: dict[str, Any], path: Path) -> None:
    """Write the picture; nothing without matplotlib or without rows."""
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    networks = [
        name for name in report["networks"] if any(_panel(report, name, bits) for bits in BITS)
    ]
    if not networks:
        return
    tallest = [max(len(_panel(report, n, bits)) for bits in BITS) for n in networks]
    figure, axes = pyplot.subplots(
        len(networks),
        len(BITS),
        figsize=(6.2 * len(BITS), sum(1.2 + 0.2 * n for n in tallest)),
        squeeze=False,
        height_ratios=[1.2 + 0.2 * n for n in tallest],
    )
    for name, line in zip(networks, axes):
        for bits, axis in zip(BITS, line):
            rows = _panel(report, name, bits)
            axis.set_visible(bool(rows))
            if rows:
                _draw(axis, rows)
                axis.set_title(f"{name}, {bits}", fontsize=10)
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="lower center", ncols=len(COLOURS), fontsize=8)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _panel(report: dict[str, Any], network: str, bits: str) -> list[dict[str, Any]]:
    return [
        row
        for row in report["rows"]
        if row["network"] == network and row["bits"] == bits and row["scores"]
    ]


def _draw(axis: Any, rows: list[dict[str, Any]]) -> None:
    rows = rows[::-1]
    drops = [row["drop"] for row in rows]
    shown = [min(drop, WORST) for drop in drops]
    bars = axis.barh(
        range(len(rows)),
        shown,
        xerr=[row["spread"] if row["drop"] < WORST else 0 for row in rows],
        color=[COLOURS[row["section"]] for row in rows],
        error_kw={"elinewidth": 0.8},
    )
    axis.bar_label(bars, [f"{drop:.2f}" for drop in drops], padding=6, fontsize=7)
    axis.set_yticks(range(len(rows)), [f"{r['section']}: {r['method']}" for r in rows], fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    low, high = min(0.0, *shown), max(shown)
    margin = 0.2 * (high - low or 1)
    axis.set_xlim(low - (margin if low else 0), high + margin)
    axis.set_xlabel("points lost against float", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
