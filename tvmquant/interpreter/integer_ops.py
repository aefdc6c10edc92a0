"""Evaluators of the operators of tvmquant: thin calls of the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from tvmquant import reference
from tvmquant.ops.integer import ints


def _out(call: relax.Call) -> dict[str, Any]:
    attrs = call.attrs
    return {
        "requantize_flavour": str(attrs["requantize"]),
        "out_zero_point": int(attrs["out_zero_point"]),
        "out_min": int(attrs["out_min"]),
        "out_max": int(attrs["out_max"]),
    }


def _numbers(call: relax.Call, *names: str) -> dict[str, int]:
    return {name: int(call.attrs[name]) for name in names}


def _lists(call: relax.Call, *names: str) -> dict[str, list[int]]:
    return {name: ints(call.attrs[name]) for name in names}


def _conv2d(args: list, call: relax.Call) -> np.ndarray:
    x, w, bias, *params = args
    return reference.conv2d(
        x,
        w,
        bias,
        tuple(params),
        **_lists(call, "strides", "padding", "dilation"),
        **_numbers(call, "groups", "x_zero_point"),
        **_out(call),
    )


def _matmul(args: list, call: relax.Call) -> np.ndarray:
    x, w, bias, *params = args
    return reference.matmul(x, w, bias, tuple(params), **_out(call))


def _batch_matmul(args: list, call: relax.Call) -> np.ndarray:
    a, b, *params = args
    zero_points = _numbers(call, "a_zero_point", "b_zero_point")
    return reference.batch_matmul(a, b, tuple(params), **zero_points, **_out(call))


def _add(args: list, call: relax.Call) -> np.ndarray:
    a, b, *params = args
    numbers = _numbers(call, "a_zero_point", "b_zero_point", "a_multiplier", "b_multiplier")
    return reference.add(a, b, tuple(params), **numbers, **_out(call))


def _multiply(args: list, call: relax.Call) -> np.ndarray:
    a, b, *params = args
    zero_points = _numbers(call, "a_zero_point", "b_zero_point")
    return reference.multiply(a, b, tuple(params), **zero_points, **_out(call))


def _lut(args: list, call: relax.Call) -> np.ndarray:
    return reference.lut(args[0], args[1], int(call.attrs["axis"]))


def _pool_attrs(call: relax.Call) -> dict[str, Any]:
    lists = _lists(call, "pool_size", "strides", "padding", "dilation")
    return {**lists, "ceil_mode": bool(call.attrs["ceil_mode"])}


def _max_pool2d(args: list, call: relax.Call) -> np.ndarray:
    return reference.max_pool2d(args[0], **_pool_attrs(call))


def _avg_pool2d(args: list, call: relax.Call) -> np.ndarray:
    return reference.avg_pool2d(
        args[0],
        tuple(args[1:]),
        **_pool_attrs(call),
        **_numbers(call, "x_zero_point"),
        **_out(call),
    )


def _mean(args: list, call: relax.Call) -> np.ndarray:
    return reference.mean(
        args[0],
        tuple(args[1:]),
        axis=ints(call.attrs["axis"]),
        keepdims=bool(call.attrs["keepdims"]),
        **_numbers(call, "x_zero_point"),
        **_out(call),
    )


def _flip_sign(args: list, call: relax.Call) -> np.ndarray:
    (x,) = args
    return (x.view(np.uint8) ^ np.uint8(0x80)).view(np.int8 if x.dtype == np.uint8 else np.uint8)


def _quantize(args: list, call: relax.Call) -> np.ndarray:
    return reference.quantize(
        *args,
        **_numbers(call, "qmin", "qmax", "axis", "block_size"),
        dtype=str(call.attrs["dtype"]),
    )


def _dequantize(args: list, call: relax.Call) -> np.ndarray:
    return reference.dequantize(*args, **_numbers(call, "axis", "block_size"))


def _dynamic_quantize(args: list, call: relax.Call) -> tuple[np.ndarray, ...]:
    flags = {name: bool(call.attrs[name]) for name in ("per_row", "symmetric")}
    return reference.dynamic_quantize(args[0], **_numbers(call, "bits"), **flags)


def _dynamic_conv2d(args: list, call: relax.Call) -> np.ndarray:
    x, w, zero_point = args
    return reference.conv2d(
        x,
        w,
        np.zeros(len(w), np.int32),
        (),
        **_lists(call, "strides", "padding", "dilation"),
        **_numbers(call, "groups"),
        x_zero_point=int(zero_point),
        requantize_flavour="none",
    )


def _weight_only(args: list, call: relax.Call) -> np.ndarray:
    return reference.weight_only_matmul(*args, **_numbers(call, "group_size"))


INTEGER_OPS = {
    "tvmquant.conv2d": _conv2d,
    "tvmquant.matmul": _matmul,
    "tvmquant.batch_matmul": _batch_matmul,
    "tvmquant.weight_only_matmul": _weight_only,
    "tvmquant.add": _add,
    "tvmquant.multiply": _multiply,
    "tvmquant.lut": _lut,
    "tvmquant.max_pool2d": _max_pool2d,
    "tvmquant.avg_pool2d": _avg_pool2d,
    "tvmquant.mean": _mean,
    "tvmquant.flip_sign": _flip_sign,
    "tvmquant.quantize": _quantize,
    "tvmquant.dequantize": _dequantize,
    "tvmquant.dynamic_quantize": _dynamic_quantize,
    "tvmquant.dynamic_conv2d": _dynamic_conv2d,
    "tvmquant.dynamic_rescale": lambda args, call: reference.dynamic_rescale(*args),
    "tvmquant.half_to_float": lambda args, call: reference.half_to_float(args[0]),
    "tvmquant.observe": lambda args, call: args[0],
    "tvmquant.observe_weight": lambda args, call: args[0],
}
