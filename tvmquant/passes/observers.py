"""The observers of an annotated graph: a range estimator and a health record for every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass
class Observer:
    """What was seen of one tensor.

    Attributes
    ----------
    name, kind : str
        The tensor, and the name of the estimator.
    estimator : RangeEstimator
    health : TensorHealth
    """

    name: str
    kind: str
    estimator: RangeEstimator
    health: TensorHealth


class Observers:
    """Sees the tensors of a graph, batch by batch.

    Parameters
    ----------
    percentile : float
        Of the estimators of that name.
    finished : mapping of str to Observer, optional
        Those that have seen everything already.

    Attributes
    ----------
    of : dict of str to Observer
        By :func:`observed_key`.
    """

    def __init__(self, percentile: float, finished: Mapping[str, Observer] | None = None) -> None:
        self.of: dict[str, Observer] = dict(finished or {})
        self._finished = frozenset(self.of)
        self._percentile = percentile

    @property
    def estimators(self) -> dict[str, RangeEstimator]:
        """Range estimators by :func:`observed_key`."""
        return {key: observer.estimator for key, observer in self.of.items()}

    def see(self, call: relax.Call, values: np.ndarray) -> None:
        """Observe the tensor of an observe node; only finite values count."""
        key = observed_key(call)
        if key in self._finished:
            return
        kind = str(call.attrs["estimator"])
        observer = self.of.get(key) or self._add(key, str(call.attrs["name"]), kind)
        values = observer.health.observe(values, whole_rows=kind == "cross_entropy")
        observer.estimator.update(values)

    def _add(self, key: str, name: str, kind: str) -> Observer:
        observer = Observer(name, kind, make_estimator(kind, self._percentile), TensorHealth())
        self.of[key] = observer
        return observer

    def warn(self, batches: int, samples: int) -> None:
        """Warn of what is odd in the data, see ``tvmquant.calibration.health``."""
        tensors = []
        for observer in self.of.values():
            estimator = observer.estimator
            out = isinstance(estimator, HistogramEstimator) and estimator.histogram.leaves_out
            tensors.append((observer.name, observer.health, out))
        warn_of_tensors(tensors, batches, samples)

    def dump(self) -> dict[str, np.ndarray]:
        """Everything seen, as named arrays."""
        arrays = {}
        for index, (key, observer) in enumerate(self.of.items()):
            arrays[f"{index}:"] = np.array([key, observer.name, observer.kind])
            arrays.update(dump_state(observer.estimator, f"{index}:estimator."))
            arrays.update(dump_state(observer.health, f"{index}:health."))
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
            observer = self._add(key, name, kind)
            restore_state(observer.estimator, arrays, f"{index}:estimator.")
            restore_state(observer.health, arrays, f"{index}:health.")
            index += 1
        if not index:
            raise ValueError("no observers")
