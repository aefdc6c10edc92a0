"""Type rules of the integer operators made by ``realize``.

Arguments (constants at the end) and attributes:

====================== ========================== ==============================================
operator               arguments                  attributes
====================== ========================== ==============================================
tvmquant.conv2d        x, w, bias, *params        strides padding dilation groups x_bits w_bits
                                                  x_zero_point + OUT
tvmquant.matmul        x, w, bias, *params        x_bits w_bits x_zero_point + OUT
tvmquant.batch_matmul  a, b, *params              a_zero_point b_zero_point + OUT
tvmquant.add           a, b, *params              a_zero_point b_zero_point a_multiplier
                                                  b_multiplier + OUT
tvmquant.multiply      a, b, *params              a_zero_point b_zero_point + OUT
tvmquant.lut           x, table                   axis
tvmquant.max_pool2d    x                          pool_size strides padding dilation ceil_mode
tvmquant.avg_pool2d    x, *params                 the same, x_zero_point + OUT
tvmquant.mean          x, *params                 axis keepdims x_zero_point + OUT
tvmquant.flip_sign     x                          (uint8 ↔ int8: q ± 128)
tvmquant.packed        x, *constants, qinfo       op kernel note workload out_shape out_dtype name
====================== ========================== ==============================================

OUT = ``requantize`` (flavour), ``out_zero_point``, ``out_min``, ``out_max``, ``name``. The
meaning of each is the function of the same name in :mod:`tvmquant.reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax

from tvmquant.ops.registry import register
from tvmquant.reference.pooling import pool_geometry

OUT_DTYPE = {"none": "int32", "dequantize": "float32"}


def shape_of(expr: Any) -> list[int]:
    """Static shape of a Relax expression as Python integers."""
    return [int(dim) for dim in expr.ty.shape.values]


def ints(values: Any) -> list[int]:
    """Python integers of an attribute."""
    return [int(v) for v in values]


def _typed(shape_rule: Callable[[Any], Sequence[int]]) -> Callable[[Any, Any], relax.TensorType]:
    def infer(call: relax.Call, _bb: Any) -> relax.TensorType:
        dtype = OUT_DTYPE.get(str(call.attrs["requantize"]), "uint8")
        return relax.TensorType(list(shape_rule(call)), dtype)

    return infer


def conv2d_shape(call: relax.Call) -> list[int]:
    """Output shape of a channels-last convolution."""
    n, h, w, _ = shape_of(call.args[0])
    o, kh, kw, _ = shape_of(call.args[1])
    attrs = call.attrs
    top, left, bottom, right = ints(attrs["padding"])
    (sh, sw), (dh, dw) = ints(attrs["strides"]), ints(attrs["dilation"])
    return [
        n,
        (h + top + bottom - (kh - 1) * dh - 1) // sh + 1,
        (w + left + right - (kw - 1) * dw - 1) // sw + 1,
        o,
    ]


def _matmul_shape(call: relax.Call) -> list[int]:
    return [*shape_of(call.args[0])[:-1], shape_of(call.args[1])[0]]


def broadcast_shape(a: Sequence[int], b: Sequence[int]) -> list[int]:
    """NumPy broadcasting of two static shapes."""
    rank = max(len(a), len(b))
    left = [1] * (rank - len(a)) + list(a)
    right = [1] * (rank - len(b)) + list(b)
    return [max(p, q) if 0 not in (p, q) else 0 for p, q in zip(left, right)]


def _batch_matmul_shape(call: relax.Call) -> list[int]:
    a, b = shape_of(call.args[0]), shape_of(call.args[1])
    return [*broadcast_shape(a[:-2], b[:-2]), a[-2], b[-1]]


def _elementwise_shape(call: relax.Call) -> list[int]:
    return broadcast_shape(shape_of(call.args[0]), shape_of(call.args[1]))


def _pool_shape(call: relax.Call) -> list[int]:
    n, h, w, c = shape_of(call.args[0])
    attrs = call.attrs
    size, strides, dilation = (ints(attrs[k]) for k in ("pool_size", "strides", "dilation"))
    top, left, bottom, right = ints(attrs["padding"])
    ceil = bool(attrs["ceil_mode"])
    return [
        n,
        pool_geometry(h, size[0], strides[0], top, bottom, dilation[0], ceil),
        pool_geometry(w, size[1], strides[1], left, right, dilation[1], ceil),
        c,
    ]


def _mean_shape(call: relax.Call) -> list[int]:
    shape = shape_of(call.args[0])
    axis = [a % len(shape) for a in ints(call.attrs["axis"])]
    if bool(call.attrs["keepdims"]):
        return [1 if i in axis else d for i, d in enumerate(shape)]
    return [d for i, d in enumerate(shape) if i not in axis]


def _infer_lut(call: relax.Call, _bb: Any) -> relax.TensorType:
    return relax.TensorType(call.args[0].ty.shape, call.args[1].ty.dtype)


def _infer_max_pool(call: relax.Call, _bb: Any) -> relax.TensorType:
    return relax.TensorType(_pool_shape(call), call.args[0].ty.dtype)


def _infer_flip(call: relax.Call, _bb: Any) -> relax.TensorType:
    other = "int8" if str(call.args[0].ty.dtype) == "uint8" else "uint8"
    return relax.TensorType(call.args[0].ty.shape, other)


def _infer_packed(call: relax.Call, _bb: Any) -> relax.TensorType:
    return relax.TensorType(ints(call.attrs["out_shape"]), str(call.attrs["out_dtype"]))


register("tvmquant.conv2d", -1, _typed(conv2d_shape))
register("tvmquant.matmul", -1, _typed(_matmul_shape))
register("tvmquant.batch_matmul", -1, _typed(_batch_matmul_shape))
register("tvmquant.add", -1, _typed(_elementwise_shape))
register("tvmquant.multiply", -1, _typed(_elementwise_shape))
register("tvmquant.avg_pool2d", -1, _typed(_pool_shape))
register("tvmquant.mean", -1, _typed(_mean_shape))
register("tvmquant.lut", 2, _infer_lut)
register("tvmquant.max_pool2d", 1, _infer_max_pool)
register("tvmquant.flip_sign", 1, _infer_flip)
register("tvmquant.packed", -1, _infer_packed)
