"""Evaluate every operator whose arguments are all constants, in NumPy.

Integer weights and their scales are what the QDQ waist is about: they are kept. Biases and other
constants that meet activations in elementwise operators become float.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, is_const, name_of, rewrite
from tvmquant.interpreter.float_ops import BINARY
from tvmquant.interpreter.interpreter import EVALUATORS
from tvmquant.ops import is_op, op_name

_KEEP = ("tvmquant.observe", "tvmquant.observe_weight")
_WAIST = ("tvmquant.quantize", "tvmquant.dequantize")
_ELEMENTWISE = {*BINARY, "divide", "nn.batch_norm", "nn.layer_norm", "nn.prelu"}
_VIEWS = ("reshape", "expand_dims", "squeeze", "permute_dims", "broadcast_to")


def fold_constants(mod: tvm.IRModule) -> tvm.IRModule:
    """Replace calls on constants by their value."""
    graph = Graph(mod)

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if isinstance(value, relax.TupleGetItem):
            source = builder.value(value.tuple_value)
            return source.fields[value.index] if isinstance(source, relax.Tuple) else None
        if op_name(value) is None or is_op(value, *_KEEP):
            return None
        if is_op(value, *_WAIST) and not _is_elementwise_operand(graph, var):
            return None
        return evaluate_constant(value)

    return rewrite(mod, visit)


def _is_elementwise_operand(graph: Graph, var: relax.Var) -> bool:
    """Whether only elementwise operators read ``var``, or views of it."""
    users = graph.users.get(var, [])
    return bool(users) and all(
        name_of(graph.value(user)) in _ELEMENTWISE
        or (name_of(graph.value(user)) in _VIEWS and _is_elementwise_operand(graph, user))
        for user in users
    )


def evaluate_constant(call: relax.Call) -> Any:
    """Constant (or tuple of them) that a call of constants makes; ``None`` where it is not one."""
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
    if isinstance(result, tuple) and all(isinstance(r, np.ndarray) for r in result):
        return relax.Tuple([relax.const(r) for r in result])
    if not isinstance(result, np.ndarray | np.generic):
        return None
    return relax.const(np.asarray(result), str(call.ty.dtype) if call.ty else None)
