"""Integer forms of the light operators: sums, products, pools and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from tvmquant import reference
from tvmquant.graph import Builder, const_value, is_const, name_of, operands
from tvmquant.interpreter.float_linear import window_counts
from tvmquant.interpreter.interpreter import EVALUATORS
from tvmquant.ops import make_call, op_name
from tvmquant.ops.integer import ints, shape_of
from tvmquant.passes.quantized import Quantized

Known = dict[relax.Var, Quantized]
# Integer multipliers of an addition: 255 * 2 * 2**21 < 2**31.
ADD_BITS = 21


def _out_attrs(out: Quantized, flavour: str, name: str) -> dict[str, Any]:
    return {
        "requantize": flavour,
        "out_zero_point": out.zero_point,
        "out_min": out.qmin,
        "out_max": out.qmax,
        "name": name,
    }


def _params(multiplier: np.ndarray | float, flavour: str) -> list:
    arrays = make_params(np.atleast_1d(np.asarray(multiplier, np.float64)), flavour)
    return [relax.const(a) for a in arrays]


make_params = reference.make_requantize_params


def lower_binary(
    builder: Builder, known: Known, call: relax.Call, out: Quantized, flavour: str, name: str
) -> relax.Call | None:
    """Addition, subtraction or multiplication of two quantized tensors."""
    a, b = (known.get(arg) if isinstance(arg, relax.Var) else None for arg in call.args)
    if a is None or b is None:
        return None
    points = {"a_zero_point": a.zero_point, "b_zero_point": b.zero_point}
    attrs = _out_attrs(out, flavour, name)
    kind = name_of(call)
    if kind == "multiply":
        params = _params(a.scale * b.scale / out.scale, flavour)
        return make_call("tvmquant.multiply", [a.q, b.q, *params], **points, **attrs)
    if a.same_params(b) and b.same_params(a):
        # Equal scales need no alignment: the sum of two tensors of one group.
        left, right, unit = 1, 1, a.scale
    else:
        # Both scales as integer multiples of one step, the larger at 2**ADD_BITS.
        unit = max(a.scale, b.scale) * 2.0**-ADD_BITS
        left, right = (round(t.scale / unit) for t in (a, b))
    if kind == "subtract":
        right = -right
    params = _params(unit / out.scale, flavour)
    return make_call(
        "tvmquant.add",
        [a.q, b.q, *params],
        **points,
        a_multiplier=left,
        b_multiplier=right,
        **attrs,
    )


def lower_pool(
    builder: Builder, known: Known, call: relax.Call, out: Quantized, flavour: str, name: str
) -> relax.Call | None:
    """Mean over axes or average pooling of a quantized tensor."""
    x = known.get(call.args[0])
    if x is None:
        return None
    attrs = {**_out_attrs(out, flavour, name), "x_zero_point": x.zero_point}
    shape = shape_of(call.args[0])
    ratio = x.scale / out.scale
    if name_of(call) == "mean":
        axis = call.attrs["axis"]
        axes = list(range(len(shape))) if axis is None else [a % len(shape) for a in ints(axis)]
        count = int(np.prod([shape[a] for a in axes]))
        if count * 255 >= 2**31:
            return None
        return make_call(
            "tvmquant.mean",
            [x.q, *_params(ratio / count, flavour)],
            axis=axes,
            keepdims=bool(call.attrs["keepdims"]),
            **attrs,
        )
    if str(call.attrs["layout"]) != "NHWC":
        return None
    _, oh, ow, _ = shape_of(call)
    counts = window_counts((shape[1], shape[2]), (oh, ow), call)
    keys = ("pool_size", "strides", "padding", "dilation", "ceil_mode")
    return make_call(
        "tvmquant.avg_pool2d",
        [x.q, *_params(ratio / counts[..., None], flavour)],
        **{key: call.attrs[key] for key in keys},
        **attrs,
    )


def lower_table(
    builder: Builder, known: Known, x: Any, out: Quantized, name: str
) -> relax.Call | None:
    """Any chain or diamond of elementwise operators over one quantized tensor, as a table.

    The float operators are evaluated on the 256 values that the input can take; constants that
    vary along the last axis give one table a channel.
    """
    cone = _cone(builder, known, x)
    if cone is None:
        return None
    root, order = cone
    tensor = known[root]
    codes = np.arange(256)
    values = ((codes - tensor.zero_point).astype(np.float32) * np.float32(tensor.scale)).reshape(
        256, 1
    )
    env: dict[relax.Var, np.ndarray] = {root: values}
    with np.errstate(all="ignore"):
        for var in order:
            call = builder.value(var)
            args = [_table_argument(arg, env, call) for arg in call.args]
            result = EVALUATORS[op_name(call)](args, _last_axis(call))
            if not isinstance(result, np.ndarray):
                return None
            env[var] = result.astype(np.float32)
    result = np.nan_to_num(env[x] if isinstance(x, relax.Var) else values, nan=0.0)
    table = reference.quantize(
        result,
        np.float32(out.scale),
        np.int32(out.zero_point),
        qmin=out.qmin,
        qmax=out.qmax,
        dtype="uint8",
    )
    table = np.ascontiguousarray(table.T) if table.shape[1] > 1 else table.reshape(256)
    return make_call("tvmquant.lut", [tensor.q, relax.const(table)], axis=-1, name=name)


def _cone(builder: Builder, known: Known, x: Any) -> tuple[relax.Var, list[relax.Var]] | None:
    """Elementwise operators between ``x`` and the single quantized tensor below it."""
    if not isinstance(x, relax.Var):
        return None
    roots: list[relax.Var] = []
    order: list[relax.Var] = []
    seen: set[relax.Var] = set()
    shape = shape_of(x)

    def walk(var: relax.Var) -> bool:
        if var in seen:
            return True
        seen.add(var)
        if var in known:
            roots.append(var)
            return shape_of(var) == shape
        call = builder.value(var)
        if name_of(call) not in TABULAR or shape_of(var) != shape:
            return False
        if not all(_is_channel_const(arg, shape) for arg in call.args if is_const(arg)):
            return False
        if not all(walk(arg) for arg in operands(call)):
            return False
        order.append(var)
        return True

    if not walk(x) or len(roots) != 1:
        return None
    return roots[0], order


TABULAR = {
    name.removeprefix("relax.")
    for name in EVALUATORS
    if name.removeprefix("relax.")
    in {
        "nn.relu", "sigmoid", "nn.silu", "nn.gelu", "nn.gelu_tanh", "tanh", "erf", "exp", "log",
        "sqrt", "rsqrt", "abs", "negative", "square", "floor", "ceil", "round", "trunc", "sign",
        "sin", "cos", "add", "subtract", "multiply", "divide", "power", "maximum", "minimum",
        "clip", "nn.leakyrelu", "nn.prelu",
    }
}  # fmt: skip


def _is_channel_const(arg: Any, shape: list[int]) -> bool:
    value = const_value(arg)
    return value.size == 1 or value.size == value.shape[-1] == shape[-1]


def _table_argument(arg: Any, env: dict[relax.Var, np.ndarray], call: relax.Call) -> Any:
    if isinstance(arg, relax.Var):
        return env[arg]
    value = const_value(arg)
    if value is None:
        return arg
    return value.reshape(1, -1) if name_of(call) != "nn.prelu" else value.reshape(-1)


class _LastAxis:
    """A PReLU call as the table evaluator must see it: channels are its last axis."""

    def __init__(self, call: relax.Call) -> None:
        self.attrs = {"axis": 1}
        self.op = call.op


def _last_axis(call: relax.Call) -> Any:
    return _LastAxis(call) if name_of(call) == "nn.prelu" else call
