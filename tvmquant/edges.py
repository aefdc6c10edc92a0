"""Description of the quantized edges of a graph at the QDQ waist, for manifests."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Graph, is_const
from tvmquant.ops import is_op
from tvmquant.runtime.manifest import EdgeInfo


def describe_edges(mod: tvm.IRModule) -> tuple[EdgeInfo, ...]:
    """One entry for every quantized activation and every quantized constant of ``main``.

    Parameters
    ----------
    mod : tvm.IRModule
        With ``tvmquant.quantize`` and ``tvmquant.dequantize`` nodes.
    """
    edges = []
    for var, value in Graph(mod).bindings:
        if is_op(value, "tvmquant.quantize"):
            source = value.args[0]
            name = source.name if isinstance(source, relax.Var) else var.name
            edges.append(_edge(str(name), "activation", value))
        elif is_op(value, "tvmquant.dequantize") and is_const(value.args[0]):
            edges.append(_edge(str(var.name), "weight", value))
    return tuple(edges)


def _edge(name: str, kind: str, value: relax.Call) -> EdgeInfo:
    scale, zero_point = (_values(arg) for arg in value.args[1:3])
    scales = scale.size if scale is not None else 1
    return EdgeInfo(
        name=name,
        kind=kind,
        bits=int(value.attrs["bits"]),
        shape=tuple(int(d) for d in value.ty.shape.values),
        scale=None if scale is None else _range(scale),
        zero_point=None if zero_point is None else _range(zero_point),
        axis=int(value.attrs["axis"]) if scales > 1 else None,
        scales=int(scales),
    )


def _values(arg: Any) -> np.ndarray | None:
    """Constant values; ``None`` where they are computed at run time."""
    return np.atleast_1d(arg.value.numpy()) if is_const(arg) else None


def _range(values: np.ndarray) -> tuple[float | int, float | int]:
    return values.min().item(), values.max().item()
