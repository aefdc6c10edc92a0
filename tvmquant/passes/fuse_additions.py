"""Residual additions become part of the convolution or matmul before them.

The kernel requantizes its own output as before, adds the other tensor with the arithmetic of
``tvmquant.add`` and stores the sum: the graph means the same, bit for bit.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, const_value, rewrite
from tvmquant.ops import is_op, make_call
from tvmquant.ops.integer import ints, shape_of
from tvmquant.passes.lower import workload_from_json
from tvmquant.schedules.linear.addition import Sum
from tvmquant.schedules.selection import KernelTable, label_of


def fuse_additions(mod: tvm.IRModule, kernels: KernelTable) -> tvm.IRModule:
    """Fuse every ``tvmquant.add`` that follows a packed layer which nothing else reads.

    Of two such layers the later one takes the addition, since the other tensor must exist when
    it runs. Layers whose best kernel cannot add stay as they are.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``pack``.
    kernels : KernelTable
        The one that ``pack`` used.

    Returns
    -------
    tvm.IRModule
    """

    def visit(builder: Builder, _: relax.Var, value: Any) -> Any:
        return _fuse(builder, value, kernels) if is_op(value, "tvmquant.add") else None

    return rewrite(mod, visit)


def _fuse(builder: Builder, add: relax.Call, kernels: KernelTable) -> relax.Call | None:
    a, b = add.args[:2]
    if shape_of(a) != shape_of(b) or a.same_as(b):
        return None
    position = {var: index for index, var in enumerate(builder.values)}
    sides = sorted("ab", key=lambda side: -position.get(a if side == "a" else b, -1))
    for side in sides:
        own, other = (a, b) if side == "a" else (b, a)
        layer = builder.value(own)
        if is_op(layer, "tvmquant.packed") and builder.uses.get(own) == 1:
            fused = _with_addition(layer, other, add, side, kernels)
            if fused is not None:
                return fused
    return None


def _with_addition(
    layer: relax.Call, other: Any, add: relax.Call, side: str, kernels: KernelTable
) -> relax.Call | None:
    workload = workload_from_json(str(layer.attrs["workload"]))
    # The sum of one addition may go into the next; an epilogue has room for one.
    if (
        workload.residual
        or workload.out_dtype != "uint8"
        or ints(layer.attrs["out_shape"]) != shape_of(other)
    ):
        return None
    if not hasattr(kernels[workload], "with_residual"):
        return None
    qinfo = const_value(layer.args[-1])
    numbers = _sum(add, side)
    encoded = numbers.encode("fma" in kernels.device.features)
    if encoded is None or numbers.own_zero_point != int(qinfo[1]):
        return None
    form, rest = encoded
    workload = replace(workload, residual=form)
    attrs = {**dict(layer.attrs), "name": f"{layer.attrs['name']} + {add.attrs['name']}"}
    attrs |= {"workload": json.dumps(asdict(workload)), "kernel": f"{label_of(kernels[workload])}"}
    qinfo = relax.const(np.concatenate([qinfo, rest]).astype(np.int32))
    return make_call("tvmquant.packed", [*layer.args[:-1], qinfo, other], **attrs)


def _sum(add: relax.Call, side: str) -> Sum:
    attrs = add.attrs
    other = "b" if side == "a" else "a"
    keys = ("out_zero_point", "out_min", "out_max")
    return Sum(
        str(attrs["requantize"]),
        tuple(const_value(param) for param in add.args[2:]),
        *(int(attrs[f"{which}_zero_point"]) for which in (side, other)),
        *(int(attrs[f"{which}_multiplier"]) for which in (side, other)),
        *(int(attrs[key]) for key in keys),
    )
