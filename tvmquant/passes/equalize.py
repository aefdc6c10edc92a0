"""Cross-layer equalization: neighbouring layers share their channels' ranges.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction",
section 4.1: between two layers with only a positively homogeneous function between them, channel
``i`` can be divided by ``s_i`` in the first and multiplied by it in the second. With
``s_i = sqrt(r1_i / r2_i)`` (eq. 11) both see the same range in every channel, so that one scale
for all channels wastes no levels. High biases that this leaves are absorbed (``absorb``).

A ReLU6 is homogeneous below its bound. A channel that stays below it may be scaled as long as it
still does; the others keep their scale, so that one bound serves all channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Graph, const_value, name_of
from tvmquant.passes.batch_norms import ChannelNorm, Norms
from tvmquant.passes.layer_pairs import (
    Pair,
    bias_of,
    find_pairs,
    input_rows,
    is_depthwise,
    output_rows,
    replaced,
)
from tvmquant.passes.observed import observe_rows

_ROUNDS = 20
_CONVERGED = 1e-3
# Channels that are (nearly) dead must not be blown up.
_LIMIT = 1e4
# What a channel may reach beyond what was seen of it.
_MARGIN = 1.1


def equalize(mod: tvm.IRModule, reach: Mapping[str, np.ndarray] | None = None) -> tvm.IRModule:
    """Equalize all pairs until nothing changes any more.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``simplify``. Its float outputs stay the same but for rounding (and for values
        beyond ``reach``).
    reach : mapping of str to np.ndarray, optional
        Largest value of every channel of a tensor, by its name, for the tensors before a ReLU6;
        pairs around a ReLU6 without it are left alone.
    """
    return equalized(mod, reach or {})[0]


def reached(
    mod: tvm.IRModule, samples: Sequence[Sequence[np.ndarray]], margin: float = _MARGIN
) -> dict[str, np.ndarray]:
    """``reach`` of :func:`equalize` as samples show it.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``simplify``.
    samples : sequence of sequence of np.ndarray
        Inputs of ``main``.
    margin : float
        Times the largest value seen; what lies beyond will be cut off, as by the range of an
        observed tensor.
    """
    found: dict[str, np.ndarray] = {}

    def see(name: str, values: np.ndarray) -> None:
        found[name] = np.maximum(found.get(name, 0), values.max(0) * margin)

    names = {_source(pair).name for pair in find_pairs(mod) if pair.bound is not None}
    observe_rows(mod, names, samples, see)
    return found


def _source(pair: Pair) -> relax.Var:
    """What goes into the function between the layers."""
    return pair.first if pair.bias is None else pair.bias


def equalize_norms(
    mod: tvm.IRModule, norms: Norms, deviations: float = 6.0, *, clips: bool = True
) -> tuple[tvm.IRModule, dict[str, ChannelNorm]]:
    """Equalize a graph and what its batch norms say of it.

    ``deviations`` is how many standard deviations above its mean a channel is taken to reach;
    ``clips``: also through ReLU6.
    """
    reach = {name: norm.mean + deviations * norm.std for name, norm in norms.items()}
    out, scales = equalized(mod, reach if clips else {})
    return out, {
        name: norm.divided(scales[name]) if name in scales else norm for name, norm in norms.items()
    }


def equalized(
    mod: tvm.IRModule, reach: Mapping[str, np.ndarray]
) -> tuple[tvm.IRModule, dict[str, np.ndarray]]:
    """The equalized graph, and what the channels of its tensors were divided by, by name."""
    graph = Graph(mod)
    limits: dict[int, np.ndarray] = {}
    pairs = []
    for pair in find_pairs(mod):
        if pair.bound is not None:
            source = _source(pair).name
            if source not in reach:
                continue
            limits[len(pairs)] = reach[source] / pair.bound
        pairs.append(pair)
    new: dict[relax.Var, np.ndarray] = {}
    for pair in pairs:
        for layer in (pair.first, pair.second):
            new[layer] = const_value(graph.values[layer].args[1]).astype(np.float64)
        if pair.bias is not None:
            new[pair.bias] = bias_of(graph, pair.bias)
    totals = [
        np.ones(len(output_rows(graph.values[pair.first], new[pair.first]))) for pair in pairs
    ]
    for _ in range(_ROUNDS):
        change = 0.0
        for index, pair in enumerate(pairs):
            scale = _equalizing(graph, pair, new)
            if index in limits:
                scale = _bounded(scale, totals[index], limits[index])
            _rescale(graph, pair, new, scale)
            totals[index] = totals[index] * scale
            change = max(change, float(np.abs(np.log(scale)).max()))
        if change < _CONVERGED:
            break
    scales = {
        var.name: total
        for pair, total in zip(pairs, totals)
        for var in (pair.first, pair.bias, pair.activation)
        if var is not None
    }
    return replaced(mod, new), scales


def _bounded(scale: np.ndarray, total: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Scales before a ReLU6 such that channels neither reach its bound nor leave it.

    ``limit`` is how much of the bound each channel reaches unscaled, ``total`` what it has been
    divided by so far.
    """
    wanted = np.where(limit < 1, np.maximum(total * scale, np.maximum(limit, 1e-6)), 1.0)
    return wanted / total


def _equalizing(graph: Graph, pair: Pair, new: dict[relax.Var, np.ndarray]) -> np.ndarray:
    """``s`` of a pair: what the first layer is divided by."""
    first, second = graph.values[pair.first], graph.values[pair.second]
    r1 = np.abs(output_rows(first, new[pair.first])).max(1)
    r2 = np.abs(input_rows(second, new[pair.second])).max(1)
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
    elif is_depthwise(second):
        new[pair.second] = new[pair.second] * scale.reshape(-1, 1, 1, 1)
    else:
        new[pair.second] = new[pair.second] * scale
