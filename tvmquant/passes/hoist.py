"""Elementwise operators before the operators that only move values, not after them.

A bias, a batch norm or a ReLU behind the pixel shuffle of a transposed convolution, or behind the
squeeze of a 1-D one, would see an activation, not a convolution, and could not fold into it.
Elementwise maps commute with moving values; per-channel constants move the other way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm_ffi import structural_equal

from tvmquant.graph import Builder, const_value, name_of, operands, rewrite
from tvmquant.interpreter.float_ops import FLOAT_OPS
from tvmquant.ops import is_op
from tvmquant.ops.integer import shape_of
from tvmquant.passes.moves import VIEWS
from tvmquant.passes.tables import TABULAR

_WAIST = ("tvmquant.quantize", "tvmquant.dequantize")


def hoist_elementwise(mod: tvm.IRModule) -> tvm.IRModule:
    """Swap elementwise and per-tensor (de)quantize operators with the moves that they read."""

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if name_of(value) not in TABULAR and not is_op(value, *_WAIST):
            return None
        tensors = list(operands(value))
        chains = [_Chain.behind(builder, x) for x in tensors]
        if not chains or any(shape_of(x) != shape_of(value) for x in tensors):
            return None
        first = chains[0]
        if not first.moves or not all(first.same_moves(other) for other in chains[1:]):
            return None
        call = _before(builder, value, dict(zip(tensors, chains)), first)
        if call is None:
            return None
        y = builder.emit(call, var.name)
        for move in reversed(first.moves):
            builder.uses[y] = 1
            moved = relax.Call(move.op, [y, *move.args[1:]], move.attrs)
            y = builder.emit(moved, f"{var.name}/moved")
        return y

    return rewrite(mod, visit)


@dataclass(frozen=True)
class _Chain:
    """A computed tensor and the moves on it, last one first."""

    base: relax.Var
    moves: tuple[relax.Call, ...]

    @classmethod
    def behind(cls, builder: Builder, x: relax.Var) -> _Chain:
        moves: list[relax.Call] = []
        while True:
            call = builder.value(x)
            if not _is_move(builder, call):
                break
            moves.append(call)
            x = call.args[0]
        # Nothing is gained by computing on an input of the network before it is moved.
        is_input = isinstance(call, relax.Var)
        return cls(x, () if is_input else tuple(moves))

    def same_moves(self, other: _Chain) -> bool:
        if shape_of(self.base) != shape_of(other.base) or len(self.moves) != len(other.moves):
            return False
        return all(_alike(a, b) for a, b in zip(self.moves, other.moves))

    def unmoved(self, constant: np.ndarray, axis: int) -> np.ndarray | None:
        """``[C]``: what the moved ``constant`` is on the base; ``None`` unless per channel.

        ``constant`` has the shape of the moved tensor, ``axis`` is the channel axis of the base.
        """
        shape = shape_of(self.base)
        position = np.arange(int(np.prod(shape))).reshape(shape)
        for move in reversed(self.moves):
            if name_of(move) in VIEWS:
                position = position.reshape(shape_of(move))
            else:
                position = FLOAT_OPS[str(move.op.name)]([position, *move.args[1:]], move)
        values = np.full(int(np.prod(shape)), np.nan, np.float32)
        values[position.reshape(-1)] = constant.reshape(-1)
        rows = np.moveaxis(values.reshape(shape), axis, 0).reshape(shape[axis], -1)
        # Values that a slice drops are NaN here; they agree with anything.
        low, high = np.fmin.reduce(rows, 1), np.fmax.reduce(rows, 1)
        return np.nan_to_num(low) if np.all((low == high) | np.isnan(low)) else None


def _before(
    builder: Builder, value: relax.Call, chains: dict[relax.Var, _Chain], first: _Chain
) -> relax.Call | None:
    """The operator on the bases of its arguments."""
    rank, axis = len(shape_of(first.base)), _channel_axis(builder, first.base)
    prelu = name_of(value) == "nn.prelu"
    args = []
    for arg in value.args:
        constant = const_value(arg)
        if arg in chains:
            args.append(chains[arg].base)
        elif constant is None or is_op(value, *_WAIST):
            if constant is not None and constant.size != 1:
                return None
            args.append(arg)
        elif constant.size == 1 and not prelu:
            args.append(relax.const(constant.reshape(1)))
        elif axis is None:
            return None
        else:
            if prelu:
                axes = [1] * len(shape_of(value))
                axes[int(value.attrs["axis"])] = -1
                constant = constant.reshape(axes)
            unmoved = first.unmoved(np.broadcast_to(constant, shape_of(value)), axis)
            if unmoved is None:
                return None
            dims = [1] * rank
            dims[axis] = -1
            args.append(relax.const(unmoved if prelu else unmoved.reshape(dims)))
    if prelu:
        return relax.op.nn.prelu(*args, axis)
    return relax.Call(value.op, args, value.attrs)


def _is_move(builder: Builder, call: Any) -> bool:
    name = name_of(call)
    if name == "strided_slice":
        # A crop; not one of several parts of a tensor.
        whole, part = (int(np.prod(shape_of(e))) for e in (call.args[0], call))
        return builder.uses.get(call.args[0], 1) == 1 and 2 * part >= whole
    return (name in VIEWS or name == "permute_dims") and isinstance(call.args[0], relax.Var)


def _alike(a: relax.Call, b: relax.Call) -> bool:
    """Whether two moves are the same but for what they move."""
    rest = [relax.Tuple(list(move.args[1:])) for move in (a, b)]
    return a.op == b.op and structural_equal(a.attrs, b.attrs) and structural_equal(*rest)


def _channel_axis(builder: Builder, x: relax.Var) -> int | None:
    """Axis of the channels that the layer or pooling behind elementwise operators makes."""
    call = builder.value(x)
    while name_of(call) in TABULAR or is_op(call, *_WAIST):
        x = next(iter(operands(call)))
        call = builder.value(x)
    if name_of(call) == "nn.conv2d":
        return str(call.attrs["data_layout"]).index("C")
    if name_of(call) in ("nn.max_pool2d", "nn.avg_pool2d"):
        return str(call.attrs["layout"]).index("C")
    return len(shape_of(x)) - 1 if name_of(call) == "matmul" else None
