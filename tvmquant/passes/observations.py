"""What the tensors of a float model hold, seen once for all quantizations of it."""

from __future__ import annotations

import tvm
from tvm import relax

from tvmquant.graph import Graph
from tvmquant.ops import is_op
from tvmquant.passes.observers import Observer, Observers, observed_key

# The estimator, and the tensors that have one range together.
_Subject = tuple[str, tuple[str, ...]]


class Observations:
    """Observers of earlier calibrations.

    Graphs that ``annotate`` made of one float graph hold the same values, whatever their bits are;
    bits only decide which estimator looks at which tensors. So what one calibration has seen
    serves the next one exactly, as long as the data and the percentile are the same.

    Attributes
    ----------
    batches, samples : int
        Of the data; 0 before the first calibration.
    """

    def __init__(self) -> None:
        self.batches = self.samples = 0
        self._seen: dict[_Subject, Observer] = {}

    def known(self, mod: tvm.IRModule) -> tuple[dict[str, Observer], bool]:
        """Observers for an annotated graph, by key, and whether these are all that it needs."""
        subjects = _subjects(mod)
        found = {key: self._seen[what] for key, what in subjects.items() if what in self._seen}
        return found, len(found) == len(subjects)

    def keep(self, mod: tvm.IRModule, observers: Observers, batches: int, samples: int) -> None:
        """Take over what has seen all the data."""
        self.batches, self.samples = batches, samples
        for key, subject in _subjects(mod).items():
            if key in observers.of:
                self._seen[subject] = observers.of[key]


def _subjects(mod: tvm.IRModule) -> dict[str, _Subject]:
    graph = Graph(mod)
    tensors: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for _, value in graph.bindings:
        if is_op(value, "tvmquant.observe"):
            key = observed_key(value)
            kinds[key] = str(value.attrs["estimator"])
            tensors.setdefault(key, []).append(_tensor(graph, value.args[0]))
    return {key: (kinds[key], tuple(names)) for key, names in tensors.items()}


def _tensor(graph: Graph, var: relax.Var) -> str:
    """Name of a tensor below the observe nodes before it."""
    while is_op(graph.value(var), "tvmquant.observe"):
        var = graph.value(var).args[0]
    return str(var.name)
