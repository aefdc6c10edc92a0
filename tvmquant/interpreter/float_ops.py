"""NumPy evaluators of Relax operators, for calibration, folding and tables.

An evaluator takes the evaluated arguments and the call (for its attributes) and returns an array,
or ``NotImplemented`` to hand the call to TVM.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf, sqrt
from typing import Any

import numpy as np
from tvm import relax

from tvmquant.interpreter.float_linear import conv2d, pool2d
from tvmquant.ops.integer import ints

_ERF = np.vectorize(erf, otypes=[np.float64])


def erf32(x: np.ndarray) -> np.ndarray:
    """Error function in float32 (Abramowitz-Stegun is too coarse; this is libm's)."""
    return _ERF(x).astype(np.float32)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype)


def _gelu(x: np.ndarray) -> np.ndarray:
    return (x * 0.5 * (1 + erf32(x / np.float32(sqrt(2))))).astype(x.dtype)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    inner = np.float32(0.7978845608) * (x + np.float32(0.044715) * x**3)
    return (np.float32(0.5) * x * (1 + np.tanh(inner))).astype(x.dtype)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x).astype(x.dtype)


UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "nn.relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid,
    "nn.silu": lambda x: (x * _sigmoid(x)).astype(x.dtype),
    "nn.gelu": _gelu,
    "nn.gelu_tanh": _gelu_tanh,
    "tanh": np.tanh,
    "erf": erf32,
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: (1 / np.sqrt(x)).astype(x.dtype),
    "abs": np.abs,
    "negative": np.negative,
    "square": np.square,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "isnan": np.isnan,
    "logical_not": np.logical_not,
}
BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "power": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
}


def _divide(args: list, call: relax.Call) -> Any:
    a, b = args
    if np.issubdtype(a.dtype, np.integer):
        return NotImplemented
    with np.errstate(divide="ignore", invalid="ignore"):
        return a / b


def _axes(call: relax.Call, ndim: int) -> tuple[int, ...]:
    axis = call.attrs["axis"]
    return tuple(range(ndim)) if axis is None else tuple(a % ndim for a in ints(axis))


def _reduce(function: Callable) -> Callable[[list, relax.Call], np.ndarray]:
    def evaluate(args: list, call: relax.Call) -> np.ndarray:
        (x,) = args
        axes = _axes(call, x.ndim)
        return function(x, axis=axes, keepdims=bool(call.attrs["keepdims"])).astype(x.dtype)

    return evaluate


def _softmax(args: list, call: relax.Call) -> np.ndarray:
    x = args[0]
    axis = int(call.attrs["axis"])
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _layer_norm(args: list, call: relax.Call) -> np.ndarray:
    x, gamma, beta = args
    axes = tuple(a % x.ndim for a in ints(call.attrs["axes"]))
    mean = x.mean(axis=axes, keepdims=True)
    var = x.var(axis=axes, keepdims=True)
    out = (x - mean) / np.sqrt(var + float(call.attrs["epsilon"]))
    shape = [x.shape[a] if a in axes else 1 for a in range(x.ndim)]
    if call.attrs["scale"]:
        out = out * gamma.reshape(shape)
    if call.attrs["center"]:
        out = out + beta.reshape(shape)
    return out.astype(x.dtype)


def _clip(args: list, call: relax.Call) -> np.ndarray:
    x, low, high = args
    bounds = [float(getattr(b, "value", b)) for b in (low, high)]
    return np.clip(x, x.dtype.type(bounds[0]), x.dtype.type(bounds[1]))


def _leaky(args: list, call: relax.Call) -> np.ndarray:
    x = args[0]
    return np.where(x > 0, x, x * np.float32(call.attrs["alpha"])).astype(x.dtype)


def _prelu(args: list, call: relax.Call) -> np.ndarray:
    x, slope = args
    shape = [1] * x.ndim
    shape[int(call.attrs["axis"])] = -1
    return np.where(x > 0, x, x * slope.reshape(shape)).astype(x.dtype)


def _permute(args: list, call: relax.Call) -> np.ndarray:
    axes = call.attrs["axes"]
    return np.ascontiguousarray(args[0].transpose(None if axes is None else ints(axes)))


def _strided_slice(args: list, call: relax.Call) -> Any:
    x, axes, begin, end = args[:4]
    lists = [_static_ints(a) for a in (axes, begin, end)]
    strides = _static_ints(args[4]) if len(args) > 4 else [1] * len(lists[0])
    if min(strides) < 1:
        return NotImplemented
    index = [slice(None)] * x.ndim
    for axis, b, e, s in zip(*lists, strides):
        index[axis] = slice(b, e, s)
    return np.asarray(x[tuple(index)], order="C")


def _static_ints(expr: Any) -> list[int]:
    return [int(getattr(v, "value", v)) for v in getattr(expr, "fields", expr)]


def _concat(args: list, call: relax.Call) -> np.ndarray:
    axis = call.attrs["axis"]
    return np.concatenate(args[0], 0 if axis is None else int(axis))


def _split(args: list, call: relax.Call) -> Any:
    x = args[0]
    sections = split_sections(call)
    if sections == 1:  # Relax types the single part as a tensor, not as a tuple
        return x
    parts = np.array_split(x, sections, int(call.attrs["axis"]))
    return tuple(np.ascontiguousarray(part) for part in parts)


def split_sections(call: relax.Call) -> int | list[int]:
    """Number of parts, or the indices, of a ``relax.split``."""
    sections = call.attrs["indices_or_sections"]
    if isinstance(sections, int) or hasattr(sections, "value"):
        return int(getattr(sections, "value", sections))
    return ints(sections)


def _take(args: list, call: relax.Call) -> np.ndarray:
    data, index = args
    axis = call.attrs["axis"]
    mode = {"wrap": "wrap", "clip": "clip"}.get(str(call.attrs["mode"]), "raise")
    return np.take(data, index, None if axis is None else int(axis), mode=mode)


def _expand_dims(args: list, call: relax.Call) -> np.ndarray:
    return np.expand_dims(args[0], tuple(ints(call.attrs["axis"])))


def _squeeze(args: list, call: relax.Call) -> np.ndarray:
    axis = call.attrs["axis"]
    return np.squeeze(args[0], None if axis is None else tuple(ints(axis)))


_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(args: list, call: relax.Call) -> Any:
    width = np.reshape(ints(call.attrs["pad_width"]), (-1, 2))
    mode = str(call.attrs["pad_mode"])
    if mode != "constant":
        return np.pad(args[0], width, _PAD_MODES[mode])
    value = call.attrs["pad_value"]
    return np.pad(args[0], width, constant_values=args[0].dtype.type(float(value)))


def _typed(function: Callable) -> Callable[[list, relax.Call], np.ndarray]:
    def evaluate(args: list, call: relax.Call) -> np.ndarray:
        return function(*args)

    return evaluate


FLOAT_OPS: dict[str, Callable[[list, relax.Call], Any]] = {
    **{f"relax.{name}": _typed(f) for name, f in {**UNARY, **BINARY}.items()},
    "relax.divide": _divide,
    "relax.where": _typed(np.where),
    "relax.mean": _reduce(np.mean),
    "relax.sum": _reduce(np.sum),
    "relax.max": _reduce(np.max),
    "relax.min": _reduce(np.min),
    "relax.nn.softmax": _softmax,
    "relax.nn.layer_norm": _layer_norm,
    "relax.clip": _clip,
    "relax.nn.leakyrelu": _leaky,
    "relax.nn.prelu": _prelu,
    "relax.matmul": lambda args, call: np.matmul(args[0], args[1]),
    "relax.nn.conv2d": conv2d,
    "relax.nn.max_pool2d": pool2d,
    "relax.nn.avg_pool2d": pool2d,
    "relax.reshape": lambda args, call: args[0].reshape(args[1]),
    "relax.flatten": lambda args, call: args[0].reshape(-1),
    "relax.broadcast_to": lambda args, call: np.broadcast_to(args[0], args[1]).copy(),
    "relax.permute_dims": _permute,
    "relax.expand_dims": _expand_dims,
    "relax.squeeze": _squeeze,
    "relax.concat": _concat,
    "relax.split": _split,
    "relax.strided_slice": _strided_slice,
    "relax.take": _take,
    "relax.shape_of": lambda args, call: tuple(args[0].shape),
    "relax.shape_to_tensor": lambda args, call: np.asarray(args[0], np.int64),
    "relax.nn.pad": _pad,
    "relax.astype": lambda args, call: args[0].astype(str(call.attrs["dtype"])),
}
