"""Integer forms of the light operators: sums, products, pools and tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from tvmquant import reference
from tvmquant.graph import Builder, name_of
from tvmquant.interpreter.float_linear import window_counts
from tvmquant.ops import make_call
from tvmquant.ops.integer import ints, shape_of
from tvmquant.passes.quantized import Quantized, exact_flavour
from tvmquant.passes.tables import find_cone

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


def _requantize(multiplier: np.ndarray | float, flavour: str) -> tuple[list, str]:
    """Requantize parameters and the flavour that represents them."""
    real = np.atleast_1d(np.asarray(multiplier, np.float64))
    chosen = exact_flavour(real, flavour)
    return [relax.const(a) for a in reference.make_requantize_params(real, chosen)], chosen


def lower_binary(
    builder: Builder, known: Known, call: relax.Call, out: Quantized, flavour: str, name: str
) -> relax.Call | None:
    """Addition, subtraction or multiplication of two quantized tensors."""
    a, b = (known.get(arg) if isinstance(arg, relax.Var) else None for arg in call.args)
    if a is None or b is None:
        return None
    points = {"a_zero_point": a.zero_point, "b_zero_point": b.zero_point}
    kind = name_of(call)
    if kind == "multiply":
        params, chosen = _requantize(a.scale * b.scale / out.scale, flavour)
        attrs = _out_attrs(out, chosen, name)
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
    params, chosen = _requantize(unit / out.scale, flavour)
    return make_call(
        "tvmquant.add",
        [a.q, b.q, *params],
        **points,
        a_multiplier=left,
        b_multiplier=right,
        **_out_attrs(out, chosen, name),
    )


def lower_pool(
    builder: Builder, known: Known, call: relax.Call, out: Quantized, flavour: str, name: str
) -> relax.Call | None:
    """Mean or sum over axes, or average pooling, of a quantized tensor."""
    x = known.get(call.args[0])
    if x is None:
        return None
    shape = shape_of(call.args[0])
    ratio = x.scale / out.scale
    if name_of(call) in ("mean", "sum"):
        axis = call.attrs["axis"]
        axes = list(range(len(shape))) if axis is None else [a % len(shape) for a in ints(axis)]
        count = int(np.prod([shape[a] for a in axes]))
        if count * 255 >= 2**31:
            return None
        divisor = count if name_of(call) == "mean" else 1
        params, chosen = _requantize(ratio / divisor, flavour)
        return make_call(
            "tvmquant.mean",
            [x.q, *params],
            axis=axes,
            keepdims=bool(call.attrs["keepdims"]),
            x_zero_point=x.zero_point,
            **_out_attrs(out, chosen, name),
        )
    if str(call.attrs["layout"]) != "NHWC":
        return None
    _, oh, ow, _ = shape_of(call)
    counts = window_counts((shape[1], shape[2]), (oh, ow), call)
    keys = ("pool_size", "strides", "padding", "dilation", "ceil_mode")
    params, chosen = _requantize(ratio / counts[..., None], flavour)
    return make_call(
        "tvmquant.avg_pool2d",
        [x.q, *params],
        **{key: call.attrs[key] for key in keys},
        x_zero_point=x.zero_point,
        **_out_attrs(out, chosen, name),
    )


def lower_table(
    builder: Builder, known: Known, x: Any, out: Quantized, name: str
) -> relax.Call | None:
    """Any chain or diamond of elementwise operators over one quantized tensor, as a table.

    The float operators are evaluated on the 256 values that the input can take; constants that
    vary along the last axis give one table a channel.
    """
    cone = find_cone(builder, known, x)
    if cone is None:
        return None
    tensor = known[cone.root]
    steps = (np.arange(256) - tensor.zero_point).astype(np.float32)
    result = cone.evaluate(steps * np.float32(tensor.scale))
    if result is None:
        return None
    table = reference.quantize(
        np.nan_to_num(result, nan=0.0),
        np.float32(out.scale),
        np.int32(out.zero_point),
        qmin=out.qmin,
        qmax=out.qmax,
        dtype="uint8",
    )
    table = np.ascontiguousarray(table.T) if table.shape[1] > 1 else table.reshape(256)
    return make_call("tvmquant.lut", [tensor.q, relax.const(table)], axis=-1, name=name)
