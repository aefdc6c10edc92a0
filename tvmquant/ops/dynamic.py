"""Operators of dynamic quantization: activations get their scale when the network runs.

======================== ===================================== ============================
operator                 arguments                             attributes
======================== ===================================== ============================
tvmquant.dynamic_quantize  x                                   bits per_row symmetric
tvmquant.dynamic_conv2d    q, w, zero_point                    strides padding dilation groups
                                                               x_bits w_bits name
tvmquant.dynamic_rescale   acc, zero_point, sums, [scale,      (none)
                           w_scale, bias]
tvmquant.padding_info      zero_point                          (none)
======================== ===================================== ============================

Their meaning is :mod:`tvmquant.reference.dynamic`. A matrix product in between is an ordinary
``tvmquant.matmul`` that returns its accumulator.
"""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.ir import TupleType

from tvmquant.ops.integer import conv2d_shape, shape_of
from tvmquant.ops.registry import make_call, register

DYNAMIC_QUANTIZE = "tvmquant.dynamic_quantize"
DYNAMIC_CONV2D = "tvmquant.dynamic_conv2d"
DYNAMIC_RESCALE = "tvmquant.dynamic_rescale"
PADDING_INFO = "tvmquant.padding_info"


def params_shape(shape: list[int], per_row: bool) -> list[int]:
    """Shape of scale and zero point of a tensor: ``[]``, or ``[..., 1]`` with one a row."""
    return [*shape[:-1], 1] if per_row else []


def _infer_quantize(call: relax.Call, _bb: Any) -> TupleType:
    shape = shape_of(call.args[0])
    params = params_shape(shape, bool(call.attrs["per_row"]))
    return TupleType(
        [
            relax.TensorType(shape, "uint8"),
            relax.TensorType(params, "float32"),
            relax.TensorType(params, "uint8"),
        ]
    )


def _infer_conv2d(call: relax.Call, _bb: Any) -> relax.TensorType:
    return relax.TensorType(conv2d_shape(call), "int32")


def _infer_rescale(call: relax.Call, _bb: Any) -> relax.TensorType:
    return relax.TensorType(call.args[0].ty.shape, "float32" if len(call.args) > 3 else "int32")


def _infer_info(_call: relax.Call, _bb: Any) -> relax.TensorType:
    return relax.TensorType([4], "int32")


register(DYNAMIC_QUANTIZE, 1, _infer_quantize)
register(DYNAMIC_CONV2D, 3, _infer_conv2d)
register(DYNAMIC_RESCALE, -1, _infer_rescale)
register(PADDING_INFO, 1, _infer_info)


def dynamic_quantize(
    x: relax.Expr, *, bits: int = 8, per_row: bool = False, symmetric: bool = False
) -> relax.Call:
    """Integers (uint8), scale (float32) and zero point (uint8) of a float32 tensor at run time.

    ``per_row`` gives every row along the last axis its own scale; see
    :func:`tvmquant.reference.dynamic_quantize`.
    """
    return make_call(DYNAMIC_QUANTIZE, [x], bits=bits, per_row=per_row, symmetric=symmetric)


def dynamic_rescale(
    acc: relax.Expr, zero_point: relax.Expr, sums: relax.Expr, *scales: relax.Expr
) -> relax.Call:
    """int32 accumulators without the zero point's share, with ``scales`` as float32.

    ``scales`` are ``scale, w_scale, bias``; see :func:`tvmquant.reference.dynamic_rescale`.
    """
    return make_call(DYNAMIC_RESCALE, [acc, zero_point, sums, *scales])


def padding_info(zero_point: relax.Expr) -> relax.Call:
    """The int32 numbers that a kernel with an int32 output reads: only the zero point counts."""
    return make_call(PADDING_INFO, [zero_point])
