"""Registering and calling Relax operators from Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import relax
from tvm.ir import Op, register_op_attr
from tvm.ir import _ffi_api as _ir_ffi

TypeRule = Callable[[Any, Any], Any]


def register(name: str, num_inputs: int, infer: TypeRule) -> None:
    """Register a pure Relax operator (idempotent, so that a reload does not fail).

    Parameters
    ----------
    name : str
        Full name, ``tvmquant.…``.
    num_inputs : int
        Number of arguments, -1 for any.
    infer : callable
        ``(call, block_builder) -> relax type``.
    """
    if name not in {str(known) for known in Op.list_op_names()}:
        _ir_ffi.RegisterOp(name, f"tvmquant operator, see tvmquant.reference ({name})")
        Op.get(name).set_num_inputs(num_inputs)
        register_op_attr(name, "FInferType", infer)
        register_op_attr(name, "FPurity", True)


def make_call(op: str, args: list, /, **attrs: Any) -> relax.Call:
    """Build a call of a registered operator with dictionary attributes."""
    return relax.Call(Op.get(op), args, tvm.ir.make_node("ir.DictAttrs", **attrs))


def op_name(expr: Any) -> str | None:
    """Name of the operator that ``expr`` calls, ``None`` for anything else."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, Op):
        return str(expr.op.name)
    return None


def is_op(expr: Any, *names: str) -> bool:
    """Whether ``expr`` is a call of one of the named operators."""
    return op_name(expr) in names
