"""Evaluate every operator whose arguments are all constants, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, is_const, rewrite
from tvmquant.interpreter.interpreter import EVALUATORS
from tvmquant.ops import is_op, op_name

# Integer weights and their scales are what the QDQ waist is about.
_KEEP = (
    "tvmquant.quantize",
    "tvmquant.dequantize",
    "tvmquant.observe",
    "tvmquant.observe_weight",
)


def fold_constants(mod: tvm.IRModule) -> tvm.IRModule:
    """Replace calls on constants by their value; quantize and dequantize are kept."""

    def visit(_builder: Builder, _var: relax.Var, value: Any) -> Any:
        if isinstance(value, relax.TupleGetItem) and isinstance(value.tuple_value, relax.Tuple):
            return value.tuple_value.fields[value.index]
        if op_name(value) is None or is_op(value, *_KEEP):
            return None
        return evaluate_constant(value)

    return rewrite(mod, visit)


def evaluate_constant(call: relax.Call) -> Any:
    """Constant value of a call of constants; ``None`` where it is not one."""
    args = []
    for arg in call.args:
        if is_const(arg):
            args.append(arg.value.numpy())
        elif isinstance(arg, relax.Tuple) and all(is_const(item) for item in arg.fields):
            args.append(tuple(item.value.numpy() for item in arg.fields))
        elif isinstance(arg, relax.ShapeExpr):
            args.append(tuple(int(v) for v in arg.values))
        elif isinstance(arg, relax.Var | relax.Tuple):
            return None
        else:
            args.append(arg)
    if not any(isinstance(a, np.ndarray | tuple) for a in args):
        return None
    evaluator = EVALUATORS.get(op_name(call) or "")
    result = evaluator(args, call) if evaluator else NotImplemented
    if not isinstance(result, np.ndarray | np.generic):
        return None
    return relax.const(np.asarray(result), str(call.ty.dtype) if call.ty else None)
