"""The observers of an annotated graph: a range estimator and a health record for every tensor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax

from tvmquant.calibration import RangeEstimator, make_estimator
from tvmquant.calibration.health import TensorHealth, warn_of_tensors
from tvmquant.calibration.histogram import HistogramEstimator
from tvmquant.calibration.state import dump_state, restore_state


def observed_key(call: relax.Call) -> str:
    """What tells apart the tensors with ranges of their own; ``call`` is an observe node."""
    group = str(call.attrs["group"])
    if group:
        return f"group:{group}"
    return f"{call.attrs['name']}:{int(call.attrs['bits'])}"


class Observers:
    """Sees the tensors of a graph, batch by batch.

    Parameters
    ----------
    percentile : float
        Of the estimators of that name.

    Attributes
    ----------
    estimators : dict of str to RangeEstimator
        By :func:`observed_key`.
    """

    def __init__(self, percentile: float) -> None:
        self.estimators: dict[str, RangeEstimator] = {}
        self._percentile = percentile
        self._health: dict[str, TensorHealth] = {}
        self._names: dict[str, str] = {}
        # By key and class name: what a store needs to make the estimator again.
        self._kinds: dict[str, str] = {}

    def see(self, call: relax.Call, values: np.ndarray) -> None:
        """Observe the tensor of an observe node; only finite values count."""
        key = observed_key(call)
        kind = str(call.attrs["estimator"])
        if key not in self.estimators:
            self._add(key, str(call.attrs["name"]), kind)
        values = self._health[key].observe(values, whole_rows=kind == "cross_entropy")
        self.estimators[key].update(values)

    def _add(self, key: str, name: str, kind: str) -> None:
        self.estimators[key] = make_estimator(kind, self._percentile)
        self._health[key] = TensorHealth()
        self._names[key], self._kinds[key] = name, kind

    def warn(self, batches: int, samples: int) -> None:
        """Warn of what is odd in the data, see ``tvmquant.calibration.health``."""
        tensors = []
        for key, health in self._health.items():
            estimator = self.estimators[key]
            out = isinstance(estimator, HistogramEstimator) and estimator.histogram.leaves_out
            tensors.append((self._names[key], health, out))
        warn_of_tensors(tensors, batches, samples)

    def dump(self) -> dict[str, np.ndarray]:
        """Everything seen, as named arrays."""
        arrays = {}
        for index, key in enumerate(self.estimators):
            arrays[f"{index}:"] = np.array([key, self._names[key], self._kinds[key]])
            arrays.update(dump_state(self.estimators[key], f"{index}:estimator."))
            arrays.update(dump_state(self._health[key], f"{index}:health."))
        return arrays

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The inverse of :meth:`dump`.

        Raises
        ------
        KeyError, ValueError
            If ``arrays`` are not what :meth:`dump` made.
        """
        index = 0
        while f"{index}:" in arrays:
            key, name, kind = map(str, arrays[f"{index}:"])
            self._add(key, name, kind)
            restore_state(self.estimators[key], arrays, f"{index}:estimator.")
            restore_state(self._health[key], arrays, f"{index}:health.")
            index += 1
        if not index:
            raise ValueError("no observers")
