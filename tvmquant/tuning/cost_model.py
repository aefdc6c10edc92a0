"""Which candidates look fast: learned from measurements, or by the kernels' own estimates."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from tvmquant.errors import InputError
from tvmquant.schedules.workload import Workload
from tvmquant.tuning.candidates import Candidate
from tvmquant.tuning.features import features

COST_MODELS = ("auto", "xgb", "analytic")
HINT = "pip install -e '.[tune]' (XGBoost)"

# With fewer measurements than this the kernels' own estimates know more.
_ENOUGH = 16
_PARAMETERS = {
    "objective": "rank:pairwise",
    "max_depth": 6,
    "eta": 0.2,
    "min_child_weight": 0.5,
    "lambda": 1.0,
    "verbosity": 0,
    "nthread": 1,
    "seed": 0,
}
_TREES = 80


class CostModel(Protocol):
    """Scores candidates of one workload; higher is faster."""

    def update(self, workload: Workload, times: Mapping[Candidate, float]) -> None:
        """Learn the times in seconds of a workload's candidates (all of them so far)."""

    def scores(self, workload: Workload, candidates: Sequence[Candidate]) -> np.ndarray:
        """float64, one score a candidate."""


class AnalyticModel:
    """The estimates of the kernels; knows nothing of measurements."""

    def update(self, workload: Workload, times: Mapping[Candidate, float]) -> None:
        """Nothing to learn."""

    def scores(self, workload: Workload, candidates: Sequence[Candidate]) -> np.ndarray:
        """Cheapest first; candidates without an estimate count as their rule's default."""
        return -np.array([1.0 if c.estimate is None else c.estimate for c in candidates])


class XgbModel:
    """Gradient-boosted trees that rank the candidates of each workload.

    All workloads of a run (and of the database, if the tuner feeds it in) train one model, so a
    new layer profits from those before it.
    """

    def __init__(self) -> None:
        self._times: dict[Workload, dict[Candidate, float]] = {}
        self._analytic = AnalyticModel()
        self._columns: dict[str, int] = {}
        self._model: object | None = None
        self._stale = True

    def update(self, workload: Workload, times: Mapping[Candidate, float]) -> None:
        """Learn; the trees are grown when scores are asked for."""
        self._times[workload] = dict(times)
        self._stale = True

    def scores(self, workload: Workload, candidates: Sequence[Candidate]) -> np.ndarray:
        """As :class:`AnalyticModel` until there are enough measurements."""
        if sum(map(len, self._times.values())) < _ENOUGH:
            return self._analytic.scores(workload, candidates)
        import xgboost

        if self._stale:
            self._train(xgboost)
        rows = [features(workload, candidate) for candidate in candidates]
        return np.asarray(self._model.predict(xgboost.DMatrix(self._matrix(rows))), np.float64)

    def _train(self, xgboost: object) -> None:
        rows, labels, groups = [], [], []
        for workload, times in self._times.items():
            if len(times) < 2:
                continue
            best = min(times.values())
            rows += [features(workload, candidate) for candidate in times]
            labels += [4 * best / seconds for seconds in times.values()]
            groups.append(len(times))
        self._columns = {name: i for i, name in enumerate(sorted({n for r in rows for n in r}))}
        data = xgboost.DMatrix(self._matrix(rows), label=np.array(labels))
        data.set_group(groups)
        self._model = xgboost.train(_PARAMETERS, data, _TREES)
        self._stale = False

    def _matrix(self, rows: Sequence[Mapping[str, float]]) -> np.ndarray:
        matrix = np.full((len(rows), len(self._columns)), math.nan, np.float32)
        for i, row in enumerate(rows):
            for name, value in row.items():
                if name in self._columns:
                    matrix[i, self._columns[name]] = value
        return matrix


def has_xgboost() -> bool:
    """Whether XGBoost is installed."""
    return importlib.util.find_spec("xgboost") is not None


def make_cost_model(name: str = "auto") -> CostModel:
    """Cost model by name: ``xgb``, ``analytic``, or ``auto``, which takes XGBoost if it is there.

    Raises
    ------
    InputError
        If the name is unknown, or ``xgb`` is asked for and XGBoost is not installed.
    """
    if name not in COST_MODELS:
        raise InputError(f"cost model {name!r}: use one of {', '.join(COST_MODELS)}")
    if name == "xgb" and not has_xgboost():
        raise InputError(f"--cost-model xgb needs XGBoost: install it with {HINT}")
    return AnalyticModel() if name == "analytic" or not has_xgboost() else XgbModel()
