"""How much to tune, and what came of it."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from typing import Any

from tvmquant.errors import InputError
from tvmquant.schedules.workload import Workload
from tvmquant.tuning.cost_model import COST_MODELS
from tvmquant.tuning.database import Database


@dataclass(frozen=True)
class Trials:
    """How to tune.

    Attributes
    ----------
    count : int
        Candidates to measure for every distinct layer; what the database holds already counts.
    database : path or Database, optional
        Where measurements are kept; without it they serve this compilation only.
    cost_model : str
        ``auto``, ``xgb`` (needs XGBoost) or ``analytic``.
    threads : int
        Threads that a candidate may use.
    workers : int, optional
        Processes that build candidates; by default one for each of up to four cores.
    seed : int
        For the random part of the search.
    """

    count: int
    database: str | os.PathLike[str] | Database | None = None
    cost_model: str = "auto"
    threads: int = 1
    workers: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("count", "threads", "workers"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if self.cost_model not in COST_MODELS:
            raise InputError(f"cost model {self.cost_model!r}: use one of {', '.join(COST_MODELS)}")

    @classmethod
    def of(cls, value: Any) -> Trials:
        """From the argument ``tune`` of :func:`tvmquant.compile`: a number or ``Trials``."""
        if isinstance(value, Trials):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(
                f"tune must be a number of trials or tvmquant.Trials(…), got {value!r}"
            )
        return cls(value)


@dataclass(frozen=True)
class LayerTuning:
    """Result of one distinct layer.

    Attributes
    ----------
    workload : Workload
    default : float or None
        Seconds of the kernel that is used without tuning, ``None`` if it failed.
    best : float or None
        Seconds of the fastest.
    rule : str
        The fastest one's rule.
    """

    workload: Workload
    default: float | None
    best: float | None
    rule: str

    @property
    def ratio(self) -> float | None:
        """How many times slower the default is."""
        return self.default / self.best if self.default and self.best else None


@dataclass(frozen=True)
class TuneReport:
    """What tuning did.

    Attributes
    ----------
    layers : tuple of LayerTuning
        Every distinct layer, those that were in the database included.
    measured, failed : int
        Candidates measured now, and how many of them failed.
    """

    layers: tuple[LayerTuning, ...]
    measured: int
    failed: int

    def merged(self, later: TuneReport) -> TuneReport:
        """Both reports; what ``later`` says of a layer counts."""
        layers = {layer.workload: layer for layer in (*self.layers, *later.layers)}
        measured, failed = self.measured + later.measured, self.failed + later.failed
        return TuneReport(tuple(layers.values()), measured, failed)

    @property
    def median_ratio(self) -> float:
        """Median over the layers of how many times slower the default is; 1 without any."""
        ratios = [layer.ratio for layer in self.layers if layer.ratio is not None]
        return statistics.median(ratios) if ratios else 1.0

    def __str__(self) -> str:
        text = f"{len(self.layers)} distinct layers, {self.measured} candidates measured"
        if self.failed:
            text += f" ({self.failed} failed)"
        return f"{text}; the default is {self.median_ratio:.2f}x the best (median)"
