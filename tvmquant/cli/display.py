"""Progress bars and tables of the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from tvmquant.runtime.manifest import Manifest
from tvmquant.runtime.profile import shapes_text
from tvmquant.tuning.trials import LayerTuning, TuneReport

ProgressCallback = Callable[[str, int, int], None]


@contextmanager
def progress_bars() -> Iterator[ProgressCallback]:
    """A ``progress(stage, done, total)`` callable that draws one bar a stage on stderr."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars: dict[str, Any] = {}
    # A bar is only drawn on a terminal: a log gets the results, not its frames.
    console = Console(stderr=True)
    # Tuning finishes candidates in bursts: the estimate looks further back than usual.
    options = {"speed_estimate_period": 120, "disable": not console.is_terminal}
    with Progress(*columns, console=console, **options) as progress:

        def report(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                # Stages of a single step only say that they begin.
                for task in progress.tasks:
                    if task.total == 1:
                        progress.update(task.id, completed=1)
                bars[stage] = progress.add_task(stage, total=max(total, 1))
            progress.update(bars[stage], completed=done if total else 1, total=max(total, 1))

        yield report


def output_console() -> Console:
    """Console on stdout; in a pipe wide enough that no table is folded to 80 columns."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def layer_table(manifest: Manifest) -> Table:
    """Table of all layers with the totals in its last row."""
    table = Table(title=f"{len(manifest.layers)} layers", show_footer=True)
    for header in ("layer", "operator", "shapes", "bits", "kernel"):
        table.add_column(header, overflow="fold", footer="total" if header == "layer" else "")
    for header, total in (("bytes", manifest.weight_bytes), ("MACs", manifest.macs)):
        table.add_column(header, justify="right", no_wrap=True, footer=f"{total:,}")
    for layer in manifest.layers:
        table.add_row(
            layer.name,
            layer.operator,
            shapes_text(layer),
            layer.bits,
            layer.kernel,
            f"{layer.weight_bytes:,}",
            f"{layer.macs:,}",
        )
    return table


def tuning_table(report: TuneReport) -> Table:
    """Table of the distinct layers that were tuned."""
    table = Table(title=f"{len(report.layers)} distinct layers")
    for header in ("layer", "bits", "kernel"):
        table.add_column(header, overflow="fold")
    for header in ("default µs", "best µs", "ratio"):
        table.add_column(header, justify="right", no_wrap=True)
    for layer in report.layers:
        kernel = layer.rule.removeprefix("tvmquant.schedules.") or "-"
        times = (_microseconds(layer.default), _microseconds(layer.best))
        ratio = "-" if layer.ratio is None else f"{layer.ratio:.2f}"
        table.add_row(*_layer_text(layer), kernel, *times, ratio)
    return table


def _layer_text(layer: LayerTuning) -> tuple[str, str]:
    w = layer.workload
    shapes = " * ".join("×".join(map(str, shape)) for shape in (w.x_shape, w.w_shape))
    if w.op.startswith("function:"):
        return f"{w.op} {shapes}", "-"
    stride = f" /{w.strides[0]}" if w.strides and max(w.strides) > 1 else ""
    return f"{w.op} {shapes}{stride}", "float" if w.w_bits > 8 else f"w{w.w_bits}a{w.x_bits}"


def _microseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:.1f}"
