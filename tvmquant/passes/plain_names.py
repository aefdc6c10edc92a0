"""Names that a C compiler accepts: CUDA source has the variables' names in it."""

from __future__ import annotations

import re
from typing import Any

import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, rewrite


def plain_names(mod: tvm.IRModule) -> tvm.IRModule:
    """Rename the variables of ``main``; layers keep their names, which are attributes by now.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``pack``.
    """
    params = [relax.Var(plain(var.name), var.ty) for var in Graph(mod).params]

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        return builder.emit(value, plain(var.name))

    return rewrite(mod, visit, params=params)


def plain(name: str) -> str:
    """``name`` with everything but letters, digits and underscores replaced."""
    return re.sub(r"\W", "_", f"v_{name}", flags=re.ASCII)
