"""Plots of a sensitivity report as SVG text (matplotlib, without a display or global state)."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

from tvmquant.analysis.report import EdgeSensitivity, LayerSensitivity, SensitivityReport
from tvmquant.errors import InputError

_BLUE, _GREY, _RED = "#3b6ea5", "#9aa5b1", "#c0392b"
MISSING = "the report needs two more packages: pip install 'tvmquant[report]'"


def figure_class() -> Any:
    """The class ``Figure`` of matplotlib.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(MISSING) from None
    return Figure


def overview(report: SensitivityReport) -> str:
    """Output SQNR of every layer alone, worst first, and that of the whole network."""
    names = [layer.name for layer in report.layers]
    figure = figure_class()(figsize=(8, max(1.6, 0.22 * len(names) + 0.8)), layout="constrained")
    axes = figure.subplots()
    values = [layer.output_db for layer in report.layers]
    axes.barh(range(len(names)), values, color=_BLUE)
    axes.axvline(report.output_db, color=_RED, linewidth=1, label="whole network, in integers")
    axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=7)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.set_xlabel("SQNR of the output when this layer alone is quantized (dB)", fontsize=8)
    axes.legend(fontsize=7, loc="lower right")
    return _svg(figure)


def input_histogram(edge: EdgeSensitivity) -> str:
    """Histogram of an edge with its range; what lies outside is red."""
    figure, axes = _small()
    counts = np.asarray(edge.counts, np.float64)
    low, high = edge.seen_low, edge.seen_high
    borders = np.linspace(low, high if high > low else low + 1, len(counts) + 1)
    centers = (borders[1:] + borders[:-1]) / 2
    outside = np.zeros(len(counts), bool)
    if edge.low is not None:
        outside = (centers < edge.low) | (centers > edge.high)
        for border in (edge.low, edge.high):
            axes.axvline(border, color=_RED, linewidth=1)
    for chosen, color in ((~outside, _BLUE), (outside, _RED)):
        if chosen.any():
            axes.stairs(np.where(chosen, counts, 0), borders, fill=True, color=color)
    axes.set_yscale("log")
    axes.set_ylim(0.5, 2 * max(1.0, counts.max()))
    # Powers as mathematics and ticks between them would take half of the time of a plot.
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    clipped = "" if edge.clipped is None else f", {edge.clipped:.3%} clipped"
    axes.set_title(f"{_short(edge.name)}: {edge.bits} bits{clipped}", fontsize=8)
    return _svg(figure)


def weight_ranges(layer: LayerSensitivity) -> str:
    """Range of the weights of every output channel, and what its integers can represent."""
    figure, axes = _small()
    count = len(layer.weight_low)
    borders = np.arange(count + 1) - 0.5
    limits = np.asarray(layer.weight_limits)
    axes.stairs(layer.weight_high, borders, baseline=layer.weight_low, fill=True, color=_BLUE)
    for limit in (limits, -limits):
        axes.stairs(limit, borders, baseline=None, color=_RED, linewidth=0.7)
    axes.axhline(0, color=_GREY, linewidth=0.5)
    axes.set_title(f"weights of {count} channels: {layer.weight_bits:.3g} bits", fontsize=8)
    return _svg(figure)


def _small() -> tuple[Any, Any]:
    figure = figure_class()(figsize=(4.6, 2.2))
    axes = figure.add_axes((0.11, 0.13, 0.87, 0.74))
    axes.tick_params(labelsize=7)
    return figure, axes


def as_image(svg: str) -> str:
    """An SVG as the address of an image: its names then stay its own on the page."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def _svg(figure: Any) -> str:
    import matplotlib

    stream = io.StringIO()
    # Text stays text, and the same report gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tvmquant"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _short(name: str, most: int = 40) -> str:
    text = name if len(name) <= most else "…" + name[1 - most :]
    # matplotlib takes text between dollars for mathematics.
    return text.replace("$", r"\$")
