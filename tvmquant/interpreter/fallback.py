"""Evaluate one Relax call with TVM itself, for operators that have no NumPy evaluator."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax

_CACHE: dict[Any, Any] = {}


def run_with_tvm(mod: tvm.IRModule, call: relax.Call, args: list[Any]) -> Any:
    """Compile ``call`` alone (cached by its structure) and run it.

    Parameters
    ----------
    mod : tvm.IRModule
        Module that holds the PrimFuncs which ``call_tir`` refers to.
    call : relax.Call
    args : list
        Evaluated arguments; tuples of arrays for tuple arguments.

    Returns
    -------
    np.ndarray or tuple of np.ndarray
    """
    params: list[relax.Var] = []
    arrays: list[np.ndarray] = []

    def bind(expr: Any, value: Any) -> Any:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([bind(e, v) for e, v in zip(expr.fields, value)])
        if isinstance(value, np.ndarray):
            var = relax.Var(f"p{len(params)}", relax.TensorType(value.shape, str(value.dtype)))
            params.append(var)
            arrays.append(value)
            return var
        return expr

    new_args = [bind(expr, value) for expr, value in zip(call.args, args)]
    new_call = relax.Call(call.op, new_args, call.attrs, call.ty_args)
    functions = {gv: f for gv, f in mod.functions.items() if not isinstance(f, relax.Function)}
    bb = relax.BlockBuilder(tvm.IRModule(functions))
    with bb.function("main", params):
        with bb.dataflow():
            out = bb.emit_output(bb.emit(new_call))
        bb.emit_func_output(out)
    module = relax.transform.DeadCodeElimination()(bb.get())
    key = tvm_ffi.structural_hash(module)
    if key not in _CACHE:
        executable = tvm.compile(module, target=tvm.target.Target({"kind": "llvm"}))
        _CACHE[key] = relax.VirtualMachine(executable, tvm.cpu())
    result = _CACHE[key]["main"](*(tvm.runtime.tensor(np.asarray(a, order="C")) for a in arrays))
    if hasattr(result, "numpy"):
        return result.numpy()
    return tuple(item.numpy() for item in result)
