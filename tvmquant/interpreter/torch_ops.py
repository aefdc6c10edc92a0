"""Relax operators in torch, differentiable, for any number of samples stacked on the first axis.

Needs the extra ``qat``; imported by what needs it only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tvm import relax

from tvmquant.ops import op_name
from tvmquant.ops.integer import ints, shape_of


class NotDifferentiableError(Exception):
    """An operator, or a use of it, has no evaluator here."""


def evaluate(call: relax.Call, args: Sequence[Any]) -> Tensor:
    """Result of ``call`` for tensors with more samples than the graph says.

    Raises
    ------
    NotDifferentiableError
        Names the operator.
    """
    name = op_name(call) or type(call).__name__
    function = OPERATORS.get(name)
    if function is None:
        raise NotDifferentiableError(name)
    return function(call, *args)


def conv2d(call: relax.Call, x: Tensor, w: Tensor) -> Tensor:
    """Channels-last convolution, weights OHWI."""
    attrs = call.attrs
    if str(attrs["data_layout"]) != "NHWC" or str(attrs["kernel_layout"]) != "OHWI":
        raise NotDifferentiableError("convolution that is not channels-last")
    top, left, bottom, right = ints(attrs["padding"])
    x = x.permute(0, 3, 1, 2)
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    y = F.conv2d(
        x,
        w.permute(0, 3, 1, 2),
        stride=tuple(ints(attrs["strides"])),
        padding=(top, left),
        dilation=tuple(ints(attrs["dilation"])),
        groups=int(attrs["groups"]),
    )
    return y.permute(0, 2, 3, 1)


def _pool(call: relax.Call, x: Tensor) -> Tensor:
    attrs = call.attrs
    top, left, bottom, right = ints(attrs["padding"])
    plain = (top, left) == (bottom, right) and ints(attrs["dilation"]) == [1, 1]
    if str(attrs["layout"]) != "NHWC" or not plain:
        raise NotDifferentiableError(str(call.op.name))
    options = {
        "kernel_size": tuple(ints(attrs["pool_size"])),
        "stride": tuple(ints(attrs["strides"])),
        "padding": (top, left),
        "ceil_mode": bool(attrs["ceil_mode"]),
    }
    x = x.permute(0, 3, 1, 2)
    if str(call.op.name).endswith("max_pool2d"):
        y = F.max_pool2d(x, **options)
    else:
        y = F.avg_pool2d(x, count_include_pad=bool(attrs["count_include_pad"]), **options)
    return y.permute(0, 2, 3, 1)


def _reshape(call: relax.Call, x: Tensor, *_: Any) -> Tensor:
    before, after = shape_of(call.args[0]), shape_of(call)
    if not before or not after or before[0] != after[0]:
        raise NotDifferentiableError("reshape of the first axis")
    return x.reshape(len(x), *after[1:])


def _permute(call: relax.Call, x: Tensor) -> Tensor:
    axes = call.attrs["axes"]
    if axes is None or ints(axes)[0] != 0:
        raise NotDifferentiableError("permutation of the first axis")
    return x.permute(*ints(axes))


def _reduce(function: Callable) -> Callable[..., Tensor]:
    def run(call: relax.Call, x: Tensor) -> Tensor:
        axis = call.attrs["axis"]
        axes = tuple(a % x.ndim for a in ints(axis)) if axis is not None else (0,)
        if 0 in axes:
            raise NotDifferentiableError("reduction over the first axis")
        return function(x, axes, keepdim=bool(call.attrs["keepdims"]))

    return run


def _axis_after_first(call: relax.Call, ndim: int) -> int:
    axis = int(call.attrs["axis"]) % ndim
    if axis == 0:
        raise NotDifferentiableError(f"{call.op.name} along the first axis")
    return axis


def _layer_norm(call: relax.Call, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    if [a % x.ndim for a in ints(call.attrs["axes"])] != [x.ndim - 1]:
        raise NotDifferentiableError("layer_norm over several axes")
    weight = gamma.reshape(-1) if call.attrs["scale"] else None
    bias = beta.reshape(-1) if call.attrs["center"] else None
    return F.layer_norm(x, (x.shape[-1],), weight, bias, float(call.attrs["epsilon"]))


def _clip(call: relax.Call, x: Tensor, low: Any, high: Any) -> Tensor:
    return x.clip(*(float(getattr(b, "value", b)) for b in (low, high)))


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda call, *args: function(*args)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "relax.nn.conv2d": conv2d,
    "relax.nn.max_pool2d": _pool,
    "relax.nn.avg_pool2d": _pool,
    "relax.matmul": _plain(torch.matmul),
    "relax.add": _plain(torch.add),
    "relax.subtract": _plain(torch.sub),
    "relax.multiply": _plain(torch.mul),
    "relax.divide": _plain(torch.div),
    "relax.maximum": _plain(torch.maximum),
    "relax.minimum": _plain(torch.minimum),
    "relax.nn.relu": _plain(torch.relu),
    "relax.sigmoid": _plain(torch.sigmoid),
    "relax.tanh": _plain(torch.tanh),
    "relax.erf": _plain(torch.erf),
    "relax.exp": _plain(torch.exp),
    "relax.sqrt": _plain(torch.sqrt),
    "relax.negative": _plain(torch.neg),
    "relax.abs": _plain(torch.abs),
    "relax.nn.silu": _plain(F.silu),
    "relax.nn.gelu": _plain(F.gelu),
    "relax.nn.gelu_tanh": _plain(lambda x: F.gelu(x, approximate="tanh")),
    "relax.nn.leakyrelu": lambda call, x: F.leaky_relu(x, float(call.attrs["alpha"])),
    "relax.clip": _clip,
    "relax.mean": _reduce(torch.mean),
    "relax.sum": _reduce(torch.sum),
    "relax.nn.softmax": lambda call, x: torch.softmax(x, _axis_after_first(call, x.ndim)),
    "relax.nn.layer_norm": _layer_norm,
    "relax.reshape": _reshape,
    "relax.permute_dims": _permute,
    "relax.concat": lambda call, parts: torch.cat(parts, _axis_after_first(call, parts[0].ndim)),
}
