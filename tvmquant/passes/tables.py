"""Elementwise subgraphs of one tensor, evaluated as functions of a single number.

A *cone* is every elementwise operator between a tensor and the only other tensor it depends on:
ReLU, HardSwish written as ``x * clip(x + 3, 0, 6) / 6``, an affine map, any chain or diamond of
them. Constants in it are scalars or vary along the last axis.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tvm import relax

from tvmquant.graph import const_value, is_const, name_of, operands
from tvmquant.interpreter.float_ops import BINARY, UNARY
from tvmquant.interpreter.interpreter import EVALUATORS
from tvmquant.ops import op_name
from tvmquant.ops.integer import shape_of

TABULAR = {*UNARY, *BINARY, "divide", "where", "astype", "clip", "nn.leakyrelu", "nn.prelu"}


class Lookup(Protocol):
    """Whoever knows what variables are bound to (a ``Graph`` or a ``Builder``)."""

    def value(self, expr: Any) -> Any:
        """Return the expression that a variable is bound to."""


@dataclass(frozen=True)
class Cone:
    """An elementwise subgraph.

    Attributes
    ----------
    root : relax.Var
        The tensor that it starts from.
    calls : tuple of (relax.Var, relax.Call)
        Its operators in order of evaluation.
    result : relax.Var
        The tensor that it makes.
    """

    root: relax.Var
    calls: tuple[tuple[relax.Var, relax.Call], ...]
    result: relax.Var

    def evaluate(self, values: np.ndarray) -> np.ndarray | None:
        """Evaluate on values of the root.

        Parameters
        ----------
        values : np.ndarray
            float32 ``[N]``.

        Returns
        -------
        np.ndarray or None
            float32 ``[N, 1]``, or ``[N, C]`` where constants differ by channel; ``None`` when an
            operator has no NumPy evaluator.
        """
        env: dict[relax.Var, np.ndarray] = {self.root: values.reshape(-1, 1)}
        with np.errstate(all="ignore"):
            for var, call in self.calls:
                args = [_argument(arg, env, call) for arg in call.args]
                is_prelu = name_of(call) == "nn.prelu"
                seen = _ChannelsLast(call) if is_prelu else call
                result = EVALUATORS[op_name(call) or ""](args, seen)
                if not isinstance(result, np.ndarray):
                    return None
                env[var] = result.astype(np.float32)
        table = env[self.result]
        first = table[:, :1]
        # Equal slopes of a PReLU (one slope, moved before a reshape) are one table.
        return first if np.array_equal(table, np.broadcast_to(first, table.shape)) else table


def find_cone(lookup: Lookup, stops: Container[relax.Var], x: Any) -> Cone | None:
    """Elementwise operators between ``x`` and the single variable of ``stops`` below it.

    Returns ``None`` when ``x`` depends on anything else, or shapes change on the way.
    """
    if not isinstance(x, relax.Var):
        return None
    roots: list[relax.Var] = []
    calls: list[tuple[relax.Var, relax.Call]] = []
    seen: set[relax.Var] = set()
    shape = shape_of(x)

    def walk(var: relax.Var) -> bool:
        if var in seen:
            return True
        seen.add(var)
        if var in stops:
            roots.append(var)
            return shape_of(var) == shape
        call = lookup.value(var)
        if name_of(call) not in TABULAR or shape_of(var) != shape:
            return False
        if not all(_varies_by_channel(arg, shape) for arg in call.args if is_const(arg)):
            return False
        if not all(walk(arg) for arg in operands(call)):
            return False
        calls.append((var, call))
        return True

    if not walk(x) or len(roots) != 1:
        return None
    return Cone(roots[0], tuple(calls), x)


def _varies_by_channel(arg: Any, shape: list[int]) -> bool:
    value = const_value(arg)
    return value.size == 1 or value.size == value.shape[-1] == shape[-1]


def _argument(arg: Any, env: dict[relax.Var, np.ndarray], call: relax.Call) -> Any:
    if isinstance(arg, relax.Var):
        return env[arg]
    value = const_value(arg)
    if value is None:
        return arg
    return value.reshape(-1) if name_of(call) == "nn.prelu" else value.reshape(1, -1)


class _ChannelsLast:
    """A PReLU call as its evaluator must see it here: channels are the last axis."""

    def __init__(self, call: relax.Call) -> None:
        self.attrs = {"axis": 1}
        self.op = call.op
