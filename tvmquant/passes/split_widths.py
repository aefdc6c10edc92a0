"""A layer whose output channels have different bits becomes one integer layer for each width.

Their outputs are joined again along the channels; where those of one width do not lie side by side
(``allocate_bits`` could not reorder them), the joined channels are gathered into their order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, const_value, rewrite
from tvmquant.ops import is_op, make_call
from tvmquant.ops.integer import shape_of

_LAYERS = ("tvmquant.conv2d", "tvmquant.matmul")


def split_widths(mod: tvm.IRModule) -> tvm.IRModule:
    """Split every layer that has ``channel_bits``.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``realize``.

    Returns
    -------
    tvm.IRModule
        Equal to ``mod``, bit for bit.
    """

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if not is_op(value, *_LAYERS):
            return None
        widths = np.array([int(bits) for bits in value.attrs.get("channel_bits", ())])
        return _split(builder, var.name, value, widths) if widths.size else None

    return rewrite(mod, visit)


def _split(builder: Builder, name: str, call: relax.Call, widths: np.ndarray) -> Any:
    order = np.argsort(-widths, kind="stable")
    parts = []
    for bits in sorted(set(widths.tolist()), reverse=True):
        part = _part(call, order[widths[order] == bits], bits)
        parts.append(builder.emit(part, f"{name}/w{bits}"))
    if len(parts) == 1:
        return parts[0]
    axis = len(shape_of(call)) - 1
    joined = relax.op.concat(parts, axis)
    if np.array_equal(order, np.arange(len(order))):
        return joined
    # Where channel c went to.
    back = np.argsort(order).astype(np.int64)
    return relax.op.take(
        builder.emit(joined, f"{name}/joined"), relax.const(back), axis=axis, mode="clip"
    )


def _part(call: relax.Call, channels: np.ndarray, bits: int) -> relax.Call:
    """The layer with these output channels only."""
    outputs = shape_of(call.args[1])[0]
    constants = []
    for arg in call.args[1:]:
        value = const_value(arg)
        own = value[channels] if value.ndim and value.shape[0] == outputs else value
        constants.append(relax.const(np.ascontiguousarray(own)))
    attrs = {key: value for key, value in dict(call.attrs).items() if key != "channel_bits"}
    attrs |= {"w_bits": bits, "name": f"{attrs['name']}/w{bits}"}
    return make_call(str(call.op.name), [call.args[0], *constants], **attrs)
