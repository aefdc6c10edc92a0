"""Registering TE definitions as the lowering of Relax operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx
from tvm.ir import GenericConst, Op, register_op_attr

Legalizer = Callable[[Any, relax.Call], relax.Expr]


def legalizes(name: str) -> Callable[[Legalizer], Legalizer]:
    """Decorator: register ``(block_builder, call) -> expr`` as the ``FLegalize`` of an operator.

    Registering twice keeps the first, so that reloading a module does not fail.
    """

    def attach(function: Legalizer) -> Legalizer:
        # Op.has_attr answers True for every operator once any operator has the attribute.
        if Op.get(name).get_attr("FLegalize") is None:
            register_op_attr(name, "FLegalize", function)
        return function

    return attach


def emit(
    bb: relax.BlockBuilder,
    name: str,
    definition: Callable[..., Any],
    args: Sequence[relax.Expr],
) -> relax.Expr:
    """``call_te`` in which one-element constants become immediates.

    Immediates spare the kernel an argument and let LLVM fold zero points and shifts.

    Parameters
    ----------
    bb : relax.BlockBuilder
    name : str
        Name of the PrimFunc.
    definition : callable
        TE definition; gets a tensor or a scalar expression for each of ``args``.
    args : sequence of relax.Expr
        The first is never turned into an immediate.
    """
    values = [None, *(_immediate(arg) for arg in args[1:])]

    def body(*tensors: te.Tensor) -> Any:
        rest = iter(tensors)
        return definition(*(next(rest) if value is None else value for value in values))

    tensors = [arg for arg, value in zip(args, values) if value is None]
    return bb.call_te(body, *tensors, primfunc_name_hint=name)


def _immediate(expr: relax.Expr) -> tirx.FloatImm | tirx.IntImm | None:
    """Immediate of a one-element constant, ``None`` for anything else."""
    if not isinstance(expr, GenericConst):
        return None
    value = expr.value.numpy()
    if value.size != 1:
        return None
    # Narrow integers would only be widened again.
    narrow = np.issubdtype(value.dtype, np.integer) and value.dtype.itemsize < 4
    return tirx.const(value.reshape(()).item(), "int32" if narrow else str(value.dtype))


def load(param: Any, index: Sequence[Any]) -> Any:
    """Element of ``param`` that NumPy broadcasting pairs with the output element ``index``.

    Parameters
    ----------
    param : te.Tensor or scalar expression
    index : sequence of tirx expressions
        Index of the output element; the trailing axes of ``param`` align with its tail.
    """
    if not isinstance(param, te.Tensor):
        return param
    shape = [int(dim) for dim in param.shape]
    tail = index[len(index) - len(shape) :]
    return param(*[0 if dim == 1 else i for dim, i in zip(shape, tail)])
