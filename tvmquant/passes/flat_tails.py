"""Do not spend integers where the following activation function is flat.

HardSwish is 0 below -3 and SiLU almost so: when a tensor is read only through such functions, its
range may end where they do, and the rest of the integers get finer.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from tvmquant.graph import Graph, name_of
from tvmquant.ops import is_op
from tvmquant.passes.tables import TABULAR, Cone, find_cone

GRID = 4096


def trim_flat_tails(graph: Graph, var: relax.Var, low: float, high: float) -> tuple[float, float]:
    """Narrow the range of an observed tensor to where its readers still change.

    Parameters
    ----------
    graph : Graph
        Annotated graph.
    var : relax.Var
        Bound to an observe node.
    low, high : float
        Range to narrow.

    Returns
    -------
    tuple of float
        The range outside of which every reader stays within half an output step of its value at
        the end of the range; unchanged where a reader is not elementwise.
    """
    cones = _cones(graph, var)
    if not cones or not low < high:
        return low, high
    # Zero keeps its exact integer.
    grid = np.linspace(min(low, 0.0), max(high, 0.0), GRID, dtype=np.float32)
    first, last = GRID - 1, 0
    for cone, bits in cones:
        y = cone.evaluate(grid)
        if y is None or not np.all(np.isfinite(y)):
            return low, high
        half_step = (y.max() - y.min()) / (2**bits - 1) / 2
        moves_from_start = np.any(np.abs(y - y[:1]) > half_step, axis=1)
        moves_from_end = np.any(np.abs(y - y[-1:]) > half_step, axis=1)
        if not moves_from_start.any():
            continue
        first = min(first, int(np.argmax(moves_from_start)) - 1)
        last = max(last, GRID - int(np.argmax(moves_from_end[::-1])))
    if first >= last:
        return low, high
    return max(low, float(grid[max(first, 0)])), min(high, float(grid[min(last, GRID - 1)]))


def _cones(graph: Graph, var: relax.Var) -> list[tuple[Cone, int]]:
    """Elementwise functions of ``var`` up to the next observe nodes, with the bits there.

    Empty when anything else reads ``var`` or a value in between.
    """
    ends: list[tuple[relax.Var, int]] = []
    pending, seen = [var], set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if current in graph.output_vars:
            return []
        for user in graph.users.get(current, ()):
            value = graph.value(user)
            if is_op(value, "tvmquant.observe"):
                if current.same_as(var):
                    return []
                ends.append((current, int(value.attrs["bits"])))
            elif name_of(value) in TABULAR:
                pending.append(user)
            else:
                return []
    cones = [(find_cone(graph, {var}, end), bits) for end, bits in ends]
    return [(cone, bits) for cone, bits in cones if cone] if all(c for c, _ in cones) else []
