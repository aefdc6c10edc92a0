"""A Relax module given by the user."""

from __future__ import annotations

import tvm
from tvm import relax

from tvmquant.errors import ModelError
from tvmquant.frontend.inputs import InputInfo, LoadedModel


def from_relax(mod: tvm.IRModule) -> LoadedModel:
    """Describe the inputs and outputs of ``main``.

    Raises
    ------
    ModelError
        There is no function ``main``, or an input is not a tensor of static shape.
    """
    names = [str(var.name_hint) for var in mod.get_global_vars()]
    if "main" not in names or not isinstance(mod["main"], relax.Function):
        raise ModelError("the IRModule has no Relax function 'main'")
    main = mod["main"]
    result = main.ret_ty
    count = len(result.fields) if isinstance(result, tvm.ir.TupleType) else 1
    outputs = tuple(f"output_{i}" for i in range(count))
    return LoadedModel(mod, tuple(_describe(param) for param in main.params), outputs)


def _describe(param: relax.Var) -> InputInfo:
    shape = getattr(param.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or not all(
        isinstance(dim, tvm.tirx.IntImm) for dim in shape.values
    ):
        raise ModelError(f"input '{param.name}' of the IRModule has no static shape")
    return InputInfo(param.name, tuple(int(d) for d in shape.values), str(param.ty.dtype))
