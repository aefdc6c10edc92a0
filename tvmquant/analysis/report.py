"""What an analysis found, as plain data, and as a table."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

# Layers that a table on a terminal shows hints of.
_HINTED = 5


@dataclass(frozen=True)
class EdgeSensitivity:
    """How one quantized activation fares.

    Attributes
    ----------
    name : str
        The tensor; a copy at fewer bits has ``/q4`` behind it.
    bits : int
    scale, zero_point : float, int or None
        ``None`` where they are chosen at run time.
    low, high : float or None
        Range that the integers can represent.
    seen_low, seen_high : float
        Least and greatest float value on the samples.
    clipped : float or None
        Share of the values that rounding would put outside the integers.
    sqnr_db : float
        Of the float values, quantized here and nowhere else.
    executed_db : float or None
        Of what is really there when everything runs in integers; ``None`` where the tensor is
        not kept as integers of its own.
    counts : tuple of int
        Histogram of the float values, bins of equal width from ``seen_low`` to ``seen_high``.
    readers : tuple of str
        Layers that read it.
    """

    name: str
    bits: int
    scale: float | None
    zero_point: int | None
    low: float | None
    high: float | None
    seen_low: float
    seen_high: float
    clipped: float | None
    sqnr_db: float
    executed_db: float | None
    counts: tuple[int, ...]
    readers: tuple[str, ...]


@dataclass(frozen=True)
class LayerSensitivity:
    """How one layer fares; 200 dB stand for no error at all.

    Attributes
    ----------
    name, operator : str
    weight_bits : float or None
        The mean where its channels differ; ``None`` for a product of two activations.
    activation_bits : int or None
        ``None`` for activations that stay float.
    macs : int
    output_db : float
        SQNR of the network's output when this layer's weights and inputs alone are quantized.
    share : float
        Its part of the noise that all layers, each alone, make in the output.
    weight_db, activation_db : float or None
        SQNR of its weights and of its (worst) input.
    executed_db : float or None
        SQNR of its result when the whole network runs in integers.
    clipped : float or None
        Share of its inputs' values outside their range.
    inputs : tuple of str
        Names of its quantized inputs, see ``SensitivityReport.edges``.
    weight_low, weight_high : tuple of float
        Range of the weights of every output channel.
    weight_limits : tuple of float
        The largest magnitude that the integers of every output channel can represent.
    hints : tuple of str
        What looks wrong, and what may help.
    """

    name: str
    operator: str
    weight_bits: float | None
    activation_bits: int | None
    macs: int
    output_db: float
    share: float
    weight_db: float | None
    activation_db: float | None
    executed_db: float | None
    clipped: float | None
    inputs: tuple[str, ...]
    weight_low: tuple[float, ...]
    weight_high: tuple[float, ...]
    weight_limits: tuple[float, ...]
    hints: tuple[str, ...]

    @property
    def bits(self) -> str:
        """``w4a8``, ``w4`` where activations stay float, or ``a8``."""
        weights = f"w{self.weight_bits:.3g}" if self.weight_bits else ""
        return weights + (f"a{self.activation_bits}" if self.activation_bits else "")


@dataclass(frozen=True)
class SensitivityReport:
    """Where a network's accuracy goes.

    Attributes
    ----------
    source, precision : str
    samples : int
        How many were measured on.
    output_db : float
        SQNR of the output of the whole network in integers, against float.
    layers : tuple of LayerSensitivity
        Worst first, by ``output_db``.
    edges : tuple of EdgeSensitivity
        In the order of execution.
    recipe : dict
    executed : bool
        Whether a compiled model was run as well, with the same results.
    """

    source: str
    precision: str
    samples: int
    output_db: float
    layers: tuple[LayerSensitivity, ...]
    edges: tuple[EdgeSensitivity, ...]
    recipe: dict[str, Any]
    executed: bool = False

    def layer(self, name: str) -> LayerSensitivity:
        """The layer of this name; ``KeyError`` if there is none."""
        return next((la for la in self.layers if la.name == name), None) or _missing(name)

    def edge(self, name: str) -> EdgeSensitivity:
        """The quantized activation of this name; ``KeyError`` if there is none."""
        return next((edge for edge in self.edges if edge.name == name), None) or _missing(name)

    def table(self) -> Table:
        """A rich table, worst layer first."""
        table = Table(
            title=f"{self.source or 'model'}, {self.precision}: output {self.output_db:.1f} dB "
            f"over {self.samples} samples",
            caption="output: SQNR when this layer alone is quantized; executed: SQNR of the "
            "layer's result in the integer network",
        )
        for header in ("layer", "operator", "bits"):
            table.add_column(header, overflow="fold")
        headers = ("output dB", "share", "weights dB", "input dB", "executed dB", "clipped", "MACs")
        for header in headers:
            table.add_column(header, justify="right", no_wrap=True)
        for layer in self.layers:
            table.add_row(
                layer.name,
                layer.operator,
                layer.bits,
                db_text(layer.output_db),
                f"{layer.share:.1%}",
                db_text(layer.weight_db),
                db_text(layer.activation_db),
                db_text(layer.executed_db),
                "-" if layer.clipped is None else f"{layer.clipped:.3%}",
                f"{layer.macs:,}",
            )
        return table

    def hints(self, most: int = _HINTED) -> list[str]:
        """Hints of the worst layers that have any, one line each."""
        hinted = [layer for layer in self.layers if layer.hints]
        return [f"{layer.name}: {'; '.join(layer.hints)}" for layer in hinted[:most]]

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return asdict(self)

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained page with a plot of every layer.

        Raises
        ------
        InputError
            If the packages of ``tvmquant[report]`` are missing or the file cannot be written.
        """
        from tvmquant.analysis.html import write_html

        return write_html(self, path)


def db_text(value: float | None) -> str:
    """A ratio as text: ``-`` if there is none, ``exact`` without any error."""
    if value is None:
        return "-"
    return "exact" if value >= 200 else f"{value:.1f}"


def _missing(name: str) -> Any:
    raise KeyError(name)
