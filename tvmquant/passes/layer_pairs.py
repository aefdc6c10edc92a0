"""Pairs of layers between which channels can be rescaled, or a constant can move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, is_const, name_of, rewrite
from tvmquant.ops.integer import shape_of
from tvmquant.passes.fold_affine import is_linear, per_channel


@dataclass
class Pair:
    """Two layers between which channels can be rescaled.

    Attributes
    ----------
    first, second : relax.Var
        Outputs of the two layers.
    bias : relax.Var or None
        The addition of the first one's bias.
    activation : relax.Var or None
        The function between them.
    bound : float or None
        Where the function cuts off from above (6 of a ReLU6).
    """

    first: relax.Var
    second: relax.Var
    bias: relax.Var | None
    activation: relax.Var | None
    bound: float | None = None


def find_pairs(mod: tvm.IRModule) -> list[Pair]:
    """All pairs of a simplified graph, in order.

    Every value between the two layers must have one use; branches are left alone. The function
    between them is ReLU, LeakyReLU, PReLU or none at all, which scale with their input, or a clip
    between zero and a bound, which does below the bound.
    """
    graph = Graph(mod)
    pairs = []
    for var, value in graph.bindings:
        if not is_linear(value):
            continue
        pair = Pair(var, var, None, None)
        end = var
        while graph.num_uses(end) == 1 and len(graph.users.get(end, ())) == 1:
            user = graph.users[end][0]
            call = graph.values[user]
            if pair.bias is None and pair.activation is None and is_bias(call, end):
                end = pair.bias = user
            elif pair.activation is None and (bound := _bound(call)) is not None:
                end = pair.activation = user
                pair.bound = bound if bound < np.inf else None
            else:
                if is_linear(call) and call.args[0].same_as(end) and _matches(value, call):
                    pair.second = user
                    pairs.append(pair)
                break
    return pairs


def is_bias(call: Any, source: relax.Var) -> bool:
    """Whether a call adds one number a channel to ``source``."""
    return (
        name_of(call) == "add"
        and call.args[0].same_as(source)
        and per_channel(call.args[1], shape_of(call)) is not None
    )


def _bound(call: Any) -> float | None:
    """Below which value ``f(x / s)`` is ``f(x) / s``; ``None`` for other functions."""
    name = name_of(call)
    if name in ("nn.relu", "nn.leakyrelu"):
        return np.inf
    if name == "nn.prelu" and is_const(call.args[1]):
        return np.inf
    if name == "clip":
        low, high = (float(getattr(limit, "value", limit)) for limit in call.args[1:])
        return high if low == 0 < high else None
    return None


def _channels(call: relax.Call) -> int:
    return shape_of(call)[-1]


def is_depthwise(call: relax.Call) -> bool:
    """Whether every channel of a convolution has a filter of its own."""
    if name_of(call) != "nn.conv2d":
        return False
    groups, weight = int(call.attrs["groups"]), shape_of(call.args[1])
    return groups > 1 and weight[3] == 1 and weight[0] == groups


def _matches(first: relax.Call, second: relax.Call) -> bool:
    if name_of(second) == "nn.conv2d":
        whole = int(second.attrs["groups"]) == 1
        return (whole or is_depthwise(second)) and shape_of(second.args[0])[-1] == _channels(first)
    return shape_of(second.args[1])[0] == _channels(first)


def output_rows(call: relax.Call, weight: np.ndarray) -> np.ndarray:
    """Weights by output channel, ``[O, …]``."""
    return weight.reshape(len(weight), -1) if name_of(call) == "nn.conv2d" else weight.T


def input_rows(call: relax.Call, weight: np.ndarray) -> np.ndarray:
    """Weights by input channel, ``[C, …]``."""
    if name_of(call) != "nn.conv2d":
        return weight
    if is_depthwise(call):
        return weight.reshape(len(weight), -1)
    return np.moveaxis(weight, 3, 0).reshape(weight.shape[3], -1)


def bias_of(graph: Graph, var: relax.Var) -> np.ndarray:
    """The bias that an addition adds, float64 ``[C]``."""
    value = graph.values[var]
    bias = per_channel(value.args[1], shape_of(value))
    return np.broadcast_to(bias, (shape_of(value)[-1],)).astype(np.float64)


def second_bias(graph: Graph, pair: Pair) -> relax.Var | None:
    """The addition of the second layer's bias."""
    users = graph.users.get(pair.second, ())
    if len(users) == 1 and is_bias(graph.values[users[0]], pair.second):
        return users[0]
    return None


def is_padded(graph: Graph, var: relax.Var) -> bool:
    """Whether zeros of a padding take part, from which nothing was subtracted."""
    call = graph.values[var]
    return name_of(call) == "nn.conv2d" and any(int(p) for p in call.attrs["padding"])


def through(call: relax.Call, weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What a constant input of every channel gives."""
    if name_of(call) != "nn.conv2d":
        return values @ weight
    if is_depthwise(call):
        return weight.reshape(len(weight), -1).sum(1) * values
    return weight.sum((1, 2)) @ values


def replaced(mod: tvm.IRModule, new: dict[relax.Var, np.ndarray]) -> tvm.IRModule:
    """The module with other constants in the calls that ``new`` names."""

    def visit(_builder: Builder, var: relax.Var, value: Any) -> Any:
        if var not in new:
            return None
        constant = relax.const(new[var].astype(np.float32))
        return relax.Call(value.op, [value.args[0], constant], value.attrs)

    return rewrite(mod, visit)
