"""Cross-layer equalization: neighbouring layers share their channels' ranges.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
section 4.1: between two layers with only a positively homogeneous function between them, channel
``i`` can be divided by ``s_i`` in the first and multiplied by it in the second. With
``s_i = sqrt(r1_i / r2_i)`` (eq. 11) both see the same range in every channel, so that one scale
for all channels wastes no levels. High biases that this leaves are absorbed (section 4.1.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, const_value, is_const, name_of, rewrite
from tvmquant.interpreter import Interpreter
from tvmquant.ops.integer import shape_of
from tvmquant.passes.fold_affine import is_linear, per_channel

_ROUNDS = 20
_CONVERGED = 1e-3
# Channels that are (nearly) dead must not be blown up.
_LIMIT = 1e4


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
    """

    first: relax.Var
    second: relax.Var
    bias: relax.Var | None
    activation: relax.Var | None


def find_pairs(mod: tvm.IRModule) -> list[Pair]:
    """All pairs of a simplified graph, in order.

    Every value between the two layers must have one use; branches are left alone. So is a ReLU6:
    its bound would differ from channel to channel, and networks that reach it lose more by taking
    it off than equalization gains.
    """
    graph = Graph(mod)
    pairs = []
    for var, value in graph.bindings:
        if not is_linear(value):
            continue
        end, bias, activation = var, None, None
        while graph.num_uses(end) == 1 and len(graph.users.get(end, ())) == 1:
            user = graph.users[end][0]
            call = graph.values[user]
            if bias is None and activation is None and _is_bias(call, end):
                end = bias = user
            elif activation is None and _is_homogeneous(call):
                end = activation = user
            else:
                if is_linear(call) and call.args[0].same_as(end) and _matches(value, call):
                    pairs.append(Pair(var, user, bias, activation))
                break
    return pairs


def equalize(mod: tvm.IRModule) -> tvm.IRModule:
    """Equalize all pairs until nothing changes any more.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``simplify``. Its float outputs stay the same but for rounding.
    """
    graph = Graph(mod)
    pairs = find_pairs(mod)
    new: dict[relax.Var, np.ndarray] = {}
    for pair in pairs:
        for layer in (pair.first, pair.second):
            new[layer] = const_value(graph.values[layer].args[1]).astype(np.float64)
        if pair.bias is not None:
            new[pair.bias] = _bias_of(graph, pair.bias)
    for _ in range(_ROUNDS):
        change = 0.0
        for pair in pairs:
            scale = _equalizing(graph, pair, new)
            _rescale(graph, pair, new, scale)
            change = max(change, float(np.abs(np.log(scale)).max()))
        if change < _CONVERGED:
            break
    return _replaced(mod, new)


def absorb_biases(
    mod: tvm.IRModule, samples: Sequence[Sequence[np.ndarray]], deviations: float = 3.0
) -> tvm.IRModule:
    """Move what a ReLU never cuts off from one bias into the next (DFQ, section 4.1.3).

    Parameters
    ----------
    mod : tvm.IRModule
    samples : sequence of sequence of np.ndarray
        Inputs of ``main``, a few are enough: they show what the channels reach, which DFQ reads
        off batch norms (long folded here).
    deviations : float
        How many standard deviations below its mean a channel is taken to reach.
    """
    graph = Graph(mod)
    pairs = [pair for pair in find_pairs(mod) if _can_absorb(graph, pair)]
    means, spreads = _statistics(mod, {pair.bias for pair in pairs}, samples)
    new: dict[relax.Var, np.ndarray] = {}
    for pair in pairs:
        excess = np.maximum(means[pair.bias] - deviations * spreads[pair.bias], 0)
        if not excess.any():
            continue
        following = _second_bias(graph, pair)
        second = graph.values[pair.second]
        weight = const_value(second.args[1]).astype(np.float64)
        new[pair.bias] = new.get(pair.bias, _bias_of(graph, pair.bias)) - excess
        old = new.get(following, _bias_of(graph, following))
        new[following] = old + _through(second, weight, excess)
    return _replaced(mod, new)


def _can_absorb(graph: Graph, pair: Pair) -> bool:
    if pair.bias is None or pair.activation is None or _second_bias(graph, pair) is None:
        return False
    is_relu = name_of(graph.values[pair.activation]) == "nn.relu"
    return is_relu and not _is_padded(graph, pair.second)


def _statistics(
    mod: tvm.IRModule, wanted: set[relax.Var], samples: Sequence[Sequence[np.ndarray]]
) -> tuple[dict[relax.Var, np.ndarray], dict[relax.Var, np.ndarray]]:
    """Mean and standard deviation of every channel of the ``wanted`` variables."""
    interpreter = Interpreter(mod)
    names = {var.name: var for var in wanted}
    sums: dict[relax.Var, np.ndarray] = {}
    counts: dict[relax.Var, int] = {}

    def tap(var: relax.Var, _value: Any, result: np.ndarray) -> None:
        key = names.get(var.name)
        if key is None:
            return
        rows = result.reshape(-1, result.shape[-1]).astype(np.float64)
        sums[key] = sums.get(key, 0) + np.stack([rows.sum(0), (rows**2).sum(0)])
        counts[key] = counts.get(key, 0) + len(rows)

    for arrays in samples:
        interpreter.run(arrays, tap)
    means = {var: total[0] / counts[var] for var, total in sums.items()}
    return means, {
        var: np.sqrt(np.maximum(total[1] / counts[var] - means[var] ** 2, 0))
        for var, total in sums.items()
    }


# -- what a pair consists of ----------------------------------------------------------------------
def _is_bias(call: Any, source: relax.Var) -> bool:
    return (
        name_of(call) == "add"
        and call.args[0].same_as(source)
        and per_channel(call.args[1], shape_of(call)) is not None
    )


def _is_homogeneous(call: Any) -> bool:
    name = name_of(call)
    if name in ("nn.relu", "nn.leakyrelu"):
        return True
    return name == "nn.prelu" and is_const(call.args[1])


def _channels(call: relax.Call) -> int:
    return shape_of(call)[-1]


def _is_depthwise(call: relax.Call) -> bool:
    if name_of(call) != "nn.conv2d":
        return False
    groups, weight = int(call.attrs["groups"]), shape_of(call.args[1])
    return groups > 1 and weight[3] == 1 and weight[0] == groups


def _matches(first: relax.Call, second: relax.Call) -> bool:
    if name_of(second) == "nn.conv2d":
        whole = int(second.attrs["groups"]) == 1
        return (whole or _is_depthwise(second)) and shape_of(second.args[0])[-1] == _channels(first)
    return shape_of(second.args[1])[0] == _channels(first)


def _output_rows(call: relax.Call, weight: np.ndarray) -> np.ndarray:
    """Weights by output channel, ``[O, …]``."""
    return weight.reshape(len(weight), -1) if name_of(call) == "nn.conv2d" else weight.T


def _input_rows(call: relax.Call, weight: np.ndarray) -> np.ndarray:
    """Weights by input channel, ``[C, …]``."""
    if name_of(call) != "nn.conv2d":
        return weight
    if _is_depthwise(call):
        return weight.reshape(len(weight), -1)
    return np.moveaxis(weight, 3, 0).reshape(weight.shape[3], -1)


def _bias_of(graph: Graph, var: relax.Var) -> np.ndarray:
    value = graph.values[var]
    bias = per_channel(value.args[1], shape_of(value))
    return np.broadcast_to(bias, (shape_of(value)[-1],)).astype(np.float64)


def _second_bias(graph: Graph, pair: Pair) -> relax.Var | None:
    users = graph.users.get(pair.second, ())
    if len(users) == 1 and _is_bias(graph.values[users[0]], pair.second):
        return users[0]
    return None


def _is_padded(graph: Graph, var: relax.Var) -> bool:
    """Whether zeros of a padding take part, from which nothing was subtracted."""
    call = graph.values[var]
    return name_of(call) == "nn.conv2d" and any(int(p) for p in call.attrs["padding"])


def _through(call: relax.Call, weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What a constant input of every channel gives."""
    if name_of(call) != "nn.conv2d":
        return values @ weight
    if _is_depthwise(call):
        return weight.reshape(len(weight), -1).sum(1) * values
    return weight.sum((1, 2)) @ values


# -- the numbers ----------------------------------------------------------------------------------
def _equalizing(graph: Graph, pair: Pair, new: dict[relax.Var, np.ndarray]) -> np.ndarray:
    """``s`` of a pair: what the first layer is divided by."""
    first, second = graph.values[pair.first], graph.values[pair.second]
    r1 = np.abs(_output_rows(first, new[pair.first])).max(1)
    r2 = np.abs(_input_rows(second, new[pair.second])).max(1)
    usable = (r1 > 0) & (r2 > 0)
    ratio = np.where(usable, r1, 1) / np.where(usable, r2, 1)
    return np.clip(np.sqrt(ratio), 1 / _LIMIT, _LIMIT)


def _rescale(graph: Graph, pair: Pair, new: dict[relax.Var, np.ndarray], scale: np.ndarray) -> None:
    first, second = graph.values[pair.first], graph.values[pair.second]
    if name_of(first) == "nn.conv2d":
        new[pair.first] = new[pair.first] / scale.reshape(-1, 1, 1, 1)
    else:
        new[pair.first] = new[pair.first] / scale
    if pair.bias is not None:
        new[pair.bias] = new[pair.bias] / scale
    if name_of(second) != "nn.conv2d":
        new[pair.second] = new[pair.second] * scale[:, None]
    elif _is_depthwise(second):
        new[pair.second] = new[pair.second] * scale.reshape(-1, 1, 1, 1)
    else:
        new[pair.second] = new[pair.second] * scale


def _replaced(mod: tvm.IRModule, new: dict[relax.Var, np.ndarray]) -> tvm.IRModule:
    def visit(_builder: Builder, var: relax.Var, value: Any) -> Any:
        if var not in new:
            return None
        constant = relax.const(new[var].astype(np.float32))
        return relax.Call(value.op, [value.args[0], constant], value.attrs)

    return rewrite(mod, visit)
