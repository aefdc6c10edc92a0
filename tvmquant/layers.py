"""Description of the kernel calls of a lowered module, for profiles and manifests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import tvm
from tvm import relax

from tvmquant.graph import Graph, is_const, name_of
from tvmquant.ops import is_op
from tvmquant.ops.integer import shape_of
from tvmquant.passes.lower import KERNEL, workload_from_json
from tvmquant.runtime import LayerInfo

PACKED = "tvmquant.packed"


def describe_layers(packed: tvm.IRModule, lowered: tvm.IRModule) -> tuple[LayerInfo, ...]:
    """One entry for every PrimFunc call of ``main``, in the order of execution.

    Parameters
    ----------
    packed : tvm.IRModule
        Before lowering: knows the workloads of convolutions and matmuls.
    lowered : tvm.IRModule
        What is built.
    """
    kernels = (value for _, value in Graph(packed).bindings if is_op(value, PACKED))
    layers = []
    for var, value in Graph(lowered).bindings:
        if name_of(value) != "call_tir":
            continue
        symbol = str(value.args[0].name_hint)
        func = lowered[value.args[0]]
        if _is_generated(func):
            layers.append(_linear(next(kernels), symbol))
        else:
            layers.append(_light(var.name, symbol, value))
    return tuple(layers)


def _is_generated(func: Any) -> bool:
    """Kernels that ``pack`` chose carry an opaque pattern; scheduled TE functions do not."""
    return bool(func.attrs and KERNEL in func.attrs)


def _tensors(value: relax.Call) -> list[Any]:
    args = value.args[1]
    return list(args.fields) if isinstance(args, relax.Tuple) else [args]


def _bytes(tensors: Iterable[Any]) -> int:
    return sum(t.value.numpy().nbytes for t in tensors if is_const(t))


def _output_shape(value: relax.Call) -> tuple[int, ...]:
    ty = value.ty_args[0]
    first = ty.fields[0] if isinstance(ty, tvm.ir.TupleType) else ty
    return tuple(int(d) for d in first.shape.values)


def _linear(packed: relax.Call, symbol: str) -> LayerInfo:
    attrs = packed.attrs
    workload = workload_from_json(str(attrs["workload"]))
    quantized = workload.w_bits <= 16
    return LayerInfo(
        name=str(attrs["name"]),
        operator=workload.op.removesuffix("_float"),
        kernel=str(attrs["kernel"]),
        symbol=symbol,
        input_shapes=(workload.x_shape, workload.w_shape),
        output_shape=workload.out_shape,
        weight_bits=workload.w_bits if quantized else None,
        activation_bits=workload.x_bits if quantized else None,
        weight_bytes=_bytes(packed.args),
        macs=workload.macs,
        workload=str(attrs["workload"]),
        note=str(attrs["note"]),
    )


def _light(name: str, symbol: str, value: relax.Call) -> LayerInfo:
    shapes = tuple(tuple(shape_of(t)) for t in _tensors(value) if not is_const(t))
    dtypes = {str(t.ty.dtype) for t in _tensors(value) if not is_const(t)}
    return LayerInfo(
        name=name,
        operator=symbol.removeprefix("fused_").rstrip("0123456789_"),
        kernel="scheduled",
        symbol=symbol,
        input_shapes=shapes,
        output_shape=_output_shape(value),
        activation_bits=8 if dtypes and dtypes <= {"uint8", "int8"} else None,
        weight_bytes=_bytes(_tensors(value)),
        macs=0,
    )
