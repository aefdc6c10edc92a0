"""Statistics of a quantized activation over samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvmquant.analysis.correspondence import Edge
from tvmquant.analysis.decibel import Ratio
from tvmquant.analysis.pairing import Pairing
from tvmquant.analysis.report import EdgeSensitivity
from tvmquant.calibration.histogram import Histogram
from tvmquant.graph import Graph
from tvmquant.ops import is_op
from tvmquant.passes.flat_tails import trim_flat_tails

BINS = 96


class EdgeStatistics:
    """Collects what :class:`EdgeSensitivity` says.

    Parameters
    ----------
    edge : Edge
    """

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.histogram = Histogram()
        self._values = self._clipped = 0
        self._local, self._executed = Ratio(), Ratio()
        self._seen_executed = False
        self._cut: tuple[float, ...] | None = None

    def update(self, pairing: Pairing, env: dict, executed: np.ndarray | None) -> None:
        """Add one sample.

        Parameters
        ----------
        pairing : Pairing
        env : dict
            Float values.
        executed : np.ndarray or None
            The integers of the edge in the integer network.
        """
        edge, values = self.edge, np.asarray(env[self.edge.base])
        finite = values[np.isfinite(values)]
        self.histogram.update(finite)
        wanted = self._where_read(pairing.reference.graph, finite, values)
        self._local.update(wanted, pairing.quantized_value(edge.floats, env))
        if edge.scale is None:
            return
        half = edge.scale / 2
        kept = wanted[np.isfinite(wanted)]
        self._values += kept.size
        self._clipped += int(np.sum((kept < edge.low - half) | (kept > edge.high + half)))
        if executed is not None:
            real = (executed.astype(np.float64) - edge.zero_point) * edge.scale
            self._executed.update(wanted, real)
            self._seen_executed = True

    def _where_read(self, graph: Graph, finite: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values cut to where their readers change: beyond, clipping costs nothing."""
        if self._cut is None and finite.size:
            self._cut = _limits(graph, self.edge, 2 * float(finite.min()), 2 * float(finite.max()))
        return np.clip(values, *self._cut) if self._cut else values

    def result(self, readers: tuple[str, ...]) -> EdgeSensitivity:
        """Everything collected."""
        edge, histogram = self.edge, self.histogram
        seen = (histogram.low, histogram.high) if np.isfinite(histogram.low) else (0.0, 0.0)
        clipped = self._clipped / self._values if self._values else None
        return EdgeSensitivity(
            name=edge.name,
            bits=edge.bits,
            scale=edge.scale,
            zero_point=edge.zero_point,
            low=edge.low,
            high=edge.high,
            seen_low=float(seen[0]),
            seen_high=float(seen[1]),
            clipped=clipped,
            sqnr_db=self._local.db,
            executed_db=self._executed.db if self._seen_executed else None,
            counts=tuple(int(n) for n in coarse_counts(histogram)),
            readers=readers,
        )


def _limits(graph: Graph, edge: Edge, low: float, high: float) -> tuple[float, ...]:
    """Where the readers of an edge change, of a range; empty where they change everywhere."""
    observed = [
        user
        for user in graph.users.get(edge.base, ())
        if is_op(graph.values[user], "tvmquant.observe")
    ]
    if len(observed) != 1:
        return ()
    kept = trim_flat_tails(graph, observed[0], low, high)
    return () if kept == (low, high) else kept


def coarse_counts(histogram: Any, bins: int = BINS) -> np.ndarray:
    """Counts in ``bins`` bins between the least and the greatest value seen."""
    total = np.zeros(bins, np.int64)
    if not np.isfinite(histogram.low) or histogram.high <= histogram.low:
        total[0] = histogram.counts.sum()
        return total
    position = (histogram.centers - histogram.low) / (histogram.high - histogram.low)
    index = np.clip((position * bins).astype(np.int64), 0, bins - 1)
    np.add.at(total, index, histogram.counts)
    return total
