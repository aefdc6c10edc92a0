"""Timing every layer of a run."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tvmquant.errors import InputError, TvmQuantError
from tvmquant.runtime.footprint import Footprint
from tvmquant.runtime.gpu import device_for, finished
from tvmquant.runtime.manifest import LayerInfo, Manifest
from tvmquant.runtime.threads import use_threads

if TYPE_CHECKING:
    # Not needed to run, and missing where only TVM's runtime is loaded.
    from tvm import relax

_BUILTIN = "vm.builtin."


@dataclass(frozen=True)
class LayerTime:
    """Time of one layer.

    Attributes
    ----------
    layer : LayerInfo
    microseconds : float
        Median; 0 for a layer that costs nothing at run time (a reshape becomes a view).
    share : float
        Part of the time of all layers, 0 to 1.
    """

    layer: LayerInfo
    microseconds: float
    share: float

    @property
    def gops(self) -> float | None:
        """10**9 operations a second (two a multiply-accumulate), ``None`` where none counts."""
        if not self.layer.macs or not self.microseconds:
            return None
        return 2e-3 * self.layer.macs / self.microseconds


@dataclass(frozen=True)
class Profile:
    """Times of all layers, in the order of execution.

    Attributes
    ----------
    rows : tuple of LayerTime
    total_us : float
        Median of whole runs without instrumentation, in microseconds.
    threads, repeats : int
    footprint : Footprint or None
        Time to load the model and the memory that it takes.
    """

    rows: tuple[LayerTime, ...]
    total_us: float
    threads: int
    repeats: int
    footprint: Footprint | None = None

    @property
    def layers_us(self) -> float:
        """Sum of the layers, in microseconds."""
        return sum(row.microseconds for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        rows = [
            {
                **asdict(row.layer),
                "bits": row.layer.bits,
                "microseconds": row.microseconds,
                "share": row.share,
                "gops": row.gops,
            }
            for row in self.rows
        ]
        return {
            "total_us": self.total_us,
            "layers_us": self.layers_us,
            "threads": self.threads,
            "repeats": self.repeats,
            "footprint": None if self.footprint is None else asdict(self.footprint),
            "layers": rows,
        }

    def table(self) -> Table:
        """A rich table."""
        table = Table(
            title=f"{len(self.rows)} layers, {self.threads} thread(s), {self.repeats} repeats",
            caption="\n".join(self._caption()),
        )
        for header in ("layer", "operator", "shapes", "bits", "kernel"):
            table.add_column(header, overflow="fold")
        for header in ("bytes", "µs", "share", "GOP/s"):
            table.add_column(header, justify="right", no_wrap=True)
        numbers = self._footnotes()
        for row in self.rows:
            layer = row.layer
            mark = f" [{numbers[layer.note]}]" if layer.note else ""
            table.add_row(
                layer.name,
                layer.operator,
                shapes_text(layer),
                escape(layer.bits + mark),
                layer.kernel,
                f"{layer.weight_bytes:,}",
                f"{row.microseconds:.1f}",
                f"{row.share:.1%}",
                "" if row.gops is None else f"{row.gops:.1f}",
            )
        return table

    def _footnotes(self) -> dict[str, int]:
        """Numbers of the distinct notes of the layers."""
        notes = dict.fromkeys(row.layer.note for row in self.rows if row.layer.note)
        return {note: number for number, note in enumerate(notes, 1)}

    def _caption(self) -> Iterator[str]:
        yield f"layers {self.layers_us:.1f} µs, whole run {self.total_us:.1f} µs"
        if self.footprint is not None:
            yield str(self.footprint)
        for note, number in self._footnotes().items():
            layers = sum(row.layer.note == note for row in self.rows)
            yield escape(f"[{number}] {note} ({layers} layers)")

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=160, color_system=None)
        console.print(self.table())
        return console.file.getvalue()


def shapes_text(layer: LayerInfo) -> str:
    """Shapes of the first input and the output: ``1×28×28×1 → 1×28×28×32``."""

    def text(shape: Sequence[int]) -> str:
        return "×".join(map(str, shape)) or "scalar"

    first = text(layer.input_shapes[0]) if layer.input_shapes else "-"
    return f"{first} → {text(layer.output_shape)}"


class _Recorder:
    """Instrument of the virtual machine: one time a call, kernels and builtins apart.

    Parameters
    ----------
    wait : callable
        Returns when the device has done what it was given.
    """

    def __init__(self, wait: Callable[[], Any]) -> None:
        self.kernels: list[tuple[str, int]] = []
        self.builtins: list[int] = []
        self._start = 0
        self._wait = wait

    def __call__(self, _func: Any, symbol: str, before: bool, *_rest: Any) -> int:
        self._wait()
        end = time.perf_counter_ns()
        if before:
            self._start = time.perf_counter_ns()
        elif symbol.startswith(_BUILTIN):
            self.builtins.append(end - self._start)
        else:
            self.kernels.append((symbol, end - self._start))
        return 0


def measure(
    machine: relax.VirtualMachine,
    manifest: Manifest,
    tensors: Sequence[Any],
    *,
    repeats: int,
    threads: int,
) -> Profile:
    """Profile ``main``; the machine must be a fresh one, it keeps the instrument.

    The cheapest builtin call of a run is taken as the cost of the instrument itself and
    subtracted from every kernel. On a GPU each kernel has the time of its launch as well.

    Raises
    ------
    InputError
        If ``repeats`` or ``threads`` is out of range.
    TvmQuantError
        If the program calls other kernels than the manifest lists.
    """
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, got {repeats}")
    device = device_for(manifest)
    run = finished(machine["main"], device)
    whole, runs = [], []
    with use_threads(threads) as used:
        run(*tensors)
        for _ in range(repeats):
            start = time.perf_counter_ns()
            run(*tensors)
            whole.append(time.perf_counter_ns() - start)
        for _ in range(repeats):
            recorder = _Recorder(finished(lambda: None, device))
            machine.set_instrument(recorder)
            run(*tensors)
            own_cost = min(recorder.builtins, default=0)
            times = _align(recorder.kernels, manifest.layers)
            runs.append([max(0, ns - own_cost) if ns else 0 for ns in times])
    # [repeats, layers] ns → µs
    micros = np.median(np.array(runs, dtype=np.float64), axis=0) / 1e3
    return from_times(manifest, micros, float(np.median(whole)) / 1e3, used, repeats)


def from_times(
    manifest: Manifest, micros: Sequence[float], total_us: float, threads: int, repeats: int
) -> Profile:
    """A profile from the microseconds of every layer and of a whole run."""
    total = float(sum(micros)) or 1.0
    rows = [LayerTime(l, float(us), float(us) / total) for l, us in zip(manifest.layers, micros)]
    return Profile(tuple(rows), total_us, threads, repeats)


def _align(calls: Sequence[tuple[str, int]], layers: Sequence[LayerInfo]) -> list[int]:
    """Nanoseconds a layer; layers that TVM turned into a builtin (views) get 0.

    The k-th call belongs to the first layer of that symbol after the (k-1)-th.
    """
    times, position = [0] * len(layers), 0
    for symbol, ns in calls:
        while position < len(layers) and layers[position].symbol != symbol:
            position += 1
        if position == len(layers):
            raise TvmQuantError(
                f"the program calls the kernel {symbol!r} where the manifest lists none: save "
                "and load the model with one version of tvmquant"
            )
        times[position] = max(ns, 1)
        position += 1
    return times
