"""Absorption of high biases, which equalization leaves behind (DFQ, section 4.1.3)."""

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
    is_padded,
    replaced,
    second_bias,
    through,
)
from tvmquant.passes.observed import observe_rows

_DEVIATIONS = 3.0


def absorb_biases(
    mod: tvm.IRModule,
    samples: Sequence[Sequence[np.ndarray]],
    deviations: float = _DEVIATIONS,
) -> tvm.IRModule:
    """Move what a ReLU never cuts off from one bias into the next (DFQ, section 4.1.3).

    Parameters
    ----------
    mod : tvm.IRModule
    samples : sequence of sequence of np.ndarray
        Inputs of ``main``, a few are enough: they show what the channels reach, as batch norms
        would (:func:`absorb_norms`).
    deviations : float
        How many standard deviations below its mean a channel is taken to reach.
    """
    pairs = _absorbing(mod)
    seen = _statistics(mod, {pair.bias for pair in pairs}, samples)
    return _absorbed(mod, pairs, seen, deviations)[0]


def absorb_norms(
    mod: tvm.IRModule, norms: Norms, deviations: float = _DEVIATIONS
) -> tuple[tvm.IRModule, dict[str, ChannelNorm]]:
    """The same by batch norms; returns what they say of the new graph as well."""
    pairs = _absorbing(mod)
    out, excesses = _absorbed(mod, pairs, norms, deviations)
    return out, {
        name: norm.lowered(excesses[name]) if name in excesses else norm
        for name, norm in norms.items()
    }


def _absorbing(mod: tvm.IRModule) -> list[Pair]:
    graph = Graph(mod)
    return [pair for pair in find_pairs(mod) if _can_absorb(graph, pair)]


def _can_absorb(graph: Graph, pair: Pair) -> bool:
    if pair.bias is None or pair.activation is None or second_bias(graph, pair) is None:
        return False
    is_relu = name_of(graph.values[pair.activation]) == "nn.relu"
    return is_relu and not is_padded(graph, pair.second)


def _absorbed(
    mod: tvm.IRModule, pairs: Sequence[Pair], seen: Mapping[str, ChannelNorm], deviations: float
) -> tuple[tvm.IRModule, dict[str, np.ndarray]]:
    """The new graph, and what was taken from the channels of each tensor, by name."""
    graph = Graph(mod)
    new: dict[relax.Var, np.ndarray] = {}
    excesses: dict[str, np.ndarray] = {}
    for pair in pairs:
        known = seen.get(pair.bias.name)
        if known is None:
            continue
        excess = np.maximum(known.mean - deviations * known.std, 0)
        if not excess.any():
            continue
        following = second_bias(graph, pair)
        second = graph.values[pair.second]
        weight = const_value(second.args[1]).astype(np.float64)
        excesses[pair.bias.name] = excess
        new[pair.bias] = new.get(pair.bias, bias_of(graph, pair.bias)) - excess
        old = new.get(following, bias_of(graph, following))
        new[following] = old + through(second, weight, excess)
    return replaced(mod, new), excesses


def _statistics(
    mod: tvm.IRModule, wanted: set[relax.Var], samples: Sequence[Sequence[np.ndarray]]
) -> dict[str, ChannelNorm]:
    """Mean and standard deviation of every channel of the ``wanted`` variables, by name."""
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def see(name: str, values: np.ndarray) -> None:
        rows = values.astype(np.float64)
        sums[name] = sums.get(name, 0) + np.stack([rows.sum(0), (rows**2).sum(0)])
        counts[name] = counts.get(name, 0) + len(rows)

    observe_rows(mod, {var.name for var in wanted}, samples, see)
    found = {}
    for name, total in sums.items():
        mean, square = total / counts[name]
        found[name] = ChannelNorm(mean, np.sqrt(np.maximum(square - mean**2, 0)))
    return found
