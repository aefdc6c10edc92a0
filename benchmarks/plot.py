"""The results as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.report import OURS, cost, in_order

COLOURS = {"ours": "#1f6feb", "int8": "#57606a", "float": "#c2c8d0"}
LABELS = {"ours": "tvmquant", "int8": "int8 peers", "float": "float peers"}


def family(row: dict[str, Any]) -> str:
    """Which colour a contender has."""
    if row["engine"] == OURS:
        return "ours"
    return "int8" if row["precision"] == "int8" else "float"


def plot_models(report: dict[str, Any], path: Path) -> None:
    """One panel a model: milliseconds of one thread, fastest at the top."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    models = [m for m in report["models"] if in_order(m)]
    if not models:
        return
    across = min(3, len(models))
    down = -(-len(models) // across)
    figure, axes = pyplot.subplots(down, across, figsize=(5.6 * across, 3.9 * down), squeeze=False)
    for axis in axes.flat[len(models) :]:
        axis.set_visible(False)
    for axis, model in zip(axes.flat, models):
        threads = model["threads"][0]
        rows = sorted(in_order(model), key=lambda row: -cost(row, threads))
        times = [cost(row, threads) for row in rows]
        bars = axis.barh(
            [row["name"] for row in rows], times, color=[COLOURS[family(row)] for row in rows]
        )
        axis.bar_label(bars, [f"{t:.2f}" for t in times], padding=2, fontsize=7)
        axis.set_title(model["name"], fontsize=10)
        axis.tick_params(labelsize=7)
        axis.set_xlim(0, max(times) * 1.15)
        axis.spines[["top", "right"]].set_visible(False)
        kind = "CPU time" if threads == 1 else "wall time"
        axis.set_xlabel(f"ms, {kind}, {threads} thread(s), median", fontsize=8)
    handles = [Patch(color=COLOURS[key], label=LABELS[key]) for key in COLOURS]
    figure.legend(handles=handles, loc="lower right", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(report["machine"]["cpu"], fontsize=11)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
