"""A value's two names while a graph becomes channels-last: original order and channels last."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from tvmquant.graph import Builder, const_value, name_of
from tvmquant.ops.integer import ints, shape_of

TO_LAST = [0, 2, 3, 1]
TO_FIRST = [0, 3, 1, 2]
# Position of each original axis in the channels-last order.
AXIS = {0: 0, 1: 3, 2: 1, 3: 2}


class Names:
    """Which channels-last value stands for which value of the original order.

    Attributes
    ----------
    last : dict of relax.Var to expression
        By the variable of the original order, 4-D values only.
    tuples : dict of relax.Var to expression
        Tuples whose fields are channels-last.
    """

    def __init__(self) -> None:
        self.last: dict[relax.Var, Any] = {}
        self.tuples: dict[relax.Var, Any] = {}

    def has(self, expr: Any) -> bool:
        """Whether a channels-last name of ``expr`` is known."""
        return isinstance(expr, relax.Var) and expr in self.last

    def channels_last(self, builder: Builder, expr: Any, rank: int = 4) -> Any:
        """Channels-last name of ``expr``; constants are permuted, others get a permutation."""
        if self.has(expr):
            return self.last[expr]
        value = const_value(expr)
        if value is not None:
            if value.ndim == 0:
                return expr
            value = value.reshape((1,) * (rank - value.ndim) + value.shape)
            return relax.const(np.ascontiguousarray(value.transpose(TO_LAST)))
        source = builder.value(expr)
        if name_of(source) == "permute_dims" and permutation(source) == TO_FIRST:
            return source.args[0]
        var = builder.emit(relax.op.permute_dims(expr, TO_LAST), "to_nhwc")
        self.last[expr] = var
        return var

    def emit(self, builder: Builder, call: Any, name: str) -> Any:
        """Bind a channels-last result and return the permutation back to the original order."""
        var = builder.emit(call, name)
        back = builder.emit(relax.op.permute_dims(var, TO_FIRST), f"{name}/nchw")
        self.last[back] = var
        return back


def permutation(call: relax.Call) -> list[int]:
    """Axes of a ``permute_dims``, none negative."""
    axes = call.attrs["axes"]
    rank = len(shape_of(call.args[0]))
    return list(range(rank))[::-1] if axes is None else [a % rank for a in ints(axes)]
