"""Elementwise operators before the pixel shuffle of a transposed convolution, not after it.

A bias, a batch norm or a ReLU behind a shuffle would see an activation, not a convolution, and
could not fold into it. Elementwise maps commute with moving values; per-channel constants repeat
for the phases.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, is_const, name_of, operands, rewrite
from tvmquant.ops.integer import shape_of
from tvmquant.passes.fold_affine import is_linear, per_channel
from tvmquant.passes.tables import TABULAR

# The moves of ``conv2d_transpose``, last one first.
_CHAIN = ("strided_slice", "reshape", "permute_dims", "reshape")


def hoist_elementwise(mod: tvm.IRModule) -> tvm.IRModule:
    """Swap elementwise operators with the pixel shuffle that they read."""

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if name_of(value) not in TABULAR or len(list(operands(value))) != 1:
            return None
        (x,) = operands(value)
        chain = _shuffle(builder, x)
        if chain is None or shape_of(x) != shape_of(value):
            return None
        base, moves = chain
        channels, wide = shape_of(x)[-1], shape_of(base)[-1]
        args = []
        for arg in value.args:
            if is_const(arg):
                constant = per_channel(arg, shape_of(value))
                if constant is None:
                    return None
                args.append(relax.const(_repeated(constant, wide // channels)))
            else:
                args.append(base if isinstance(arg, relax.Var) else arg)
        y = builder.emit(relax.Call(value.op, args, value.attrs), var.name)
        builder.uses[y] = 1
        for move in reversed(moves):
            y = builder.emit(relax.Call(move.op, [y, *move.args[1:]], move.attrs), "shuffle")
            builder.uses[y] = 1
        builder.uses.pop(y)
        return y

    return rewrite(mod, visit)


def _repeated(constant: np.ndarray, phases: int) -> np.ndarray:
    return constant if constant.size == 1 else np.tile(constant, phases)


def _shuffle(builder: Builder, x: relax.Var) -> tuple[relax.Var, list[relax.Call]] | None:
    """Computing tensor and moves behind ``x``, if it is an ungrouped pixel shuffle of its own."""
    moves: list[relax.Call] = []
    for kind in _CHAIN:
        call = builder.value(x)
        if name_of(call) != kind or builder.uses.get(x, 1) != 1:
            return None
        moves.append(call)
        x = call.args[0]
    phases = shape_of(moves[-1])
    is_shuffle = len(phases) == 7 and phases[3] == 1
    axes = [int(a) for a in moves[2].attrs["axes"]] if is_shuffle else []
    if axes != [0, 1, 4, 2, 5, 3, 6] or builder.uses.get(x, 1) != 1 or not _computes(builder, x):
        return None
    return x, moves


def _computes(builder: Builder, x: relax.Var) -> bool:
    """A convolution, or elementwise operators on one."""
    call = builder.value(x)
    while name_of(call) in TABULAR:
        (source,) = operands(call)
        call = builder.value(source)
    return is_linear(call)
