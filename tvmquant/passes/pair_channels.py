"""Order channels so that more layers are proven safe for ``vpmaddubsw``.

The instruction adds two neighbouring products in int16, which saturates where both weights are
large and of one sign. Which input channels are neighbours is free where one convolution makes
them and one reads them, with nothing but depthwise convolutions, tables and poolings in between:
the order of the channels is changed in all of these. A good order is a perfect matching of the
channels that never meet with too large a sum in any output channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, const_value, rewrite
from tvmquant.ops import is_op
from tvmquant.ops.integer import shape_of
from tvmquant.schedules.linear.packing import cannot_saturate, pair_limits

_TRIES = 8
# Operators that treat every channel alike.
_ALIKE = ("tvmquant.lut", "tvmquant.max_pool2d")


def pair_channels(mod: tvm.IRModule) -> tvm.IRModule:
    """Reorder channels between the layers of an integer graph; its results stay the same.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``realize``.
    """
    graph = Graph(mod)
    constants: dict[relax.Var, list[np.ndarray]] = {}
    for var, value in graph.bindings:
        if not _is_dense(value) or int(value.attrs["w_bits"]) != 8:
            continue
        weight = const_value(value.args[1])
        if cannot_saturate(weight, int(value.attrs["x_bits"])):
            continue
        chain = _chain(graph, value.args[0])
        if chain is None:
            continue
        order = pairing(weight, int(value.attrs["x_bits"]))
        if order is None:
            continue
        arrays = _arrays(constants, var, value)
        arrays[0] = np.ascontiguousarray(arrays[0][..., order])
        for maker in chain:
            arrays = _arrays(constants, maker, graph.value(maker))
            count = len(order)
            arrays[:] = [a[order] if a.shape[0] == count else a for a in arrays]
    if not constants:
        return mod

    def visit(_builder: Builder, var: relax.Var, value: Any) -> Any:
        if var not in constants:
            return None
        arrays = [relax.const(array) for array in constants[var]]
        return relax.Call(value.op, [value.args[0], *arrays], value.attrs)

    return rewrite(mod, visit)


def pairing(weight: np.ndarray, x_bits: int = 8) -> np.ndarray | None:
    """Order of the input channels in which no pair can saturate, ``None`` if none is found.

    Parameters
    ----------
    weight : np.ndarray
        int8 ``[O, ..., C]``.
    x_bits : int
        Bits of the activations.
    """
    channels = weight.shape[-1]
    if channels % 2:
        return None
    fit = _fitting(weight.reshape(-1, channels).astype(np.int16), *pair_limits(x_bits))
    if fit is None:
        return None
    rng = np.random.default_rng(0)
    for attempt in range(_TRIES):
        partner = _match(fit, rng.random(channels) * attempt)
        if partner is not None:
            first = np.flatnonzero(np.arange(channels) < partner)
            return np.stack([first, partner[first]], axis=1).reshape(-1)
    return None


def _fitting(rows: np.ndarray, low: int, high: int) -> np.ndarray | None:
    """Boolean ``[C, C]``: which channels may be neighbours; ``None`` if one has no neighbour."""
    channels = rows.shape[1]
    fit = np.empty((channels, channels), bool)
    for c in range(channels):
        own = rows[:, c]
        # Only a weight beyond half of the limit can be the larger one of a bad pair; the smaller
        # one then finds the larger one when it is that one's turn.
        up, down = own > high // 2, own < low // 2
        bad = (rows[up] > high - own[up, None]).any(axis=0)
        bad |= (rows[down] < low - own[down, None]).any(axis=0)
        fit[c] = ~bad
    fit &= fit.T
    np.fill_diagonal(fit, False)
    return fit if fit.any(axis=1).all() else None


def _match(fit: np.ndarray, noise: np.ndarray) -> np.ndarray | None:
    """Partner of every channel in a perfect matching: greedy, then by exchanges."""
    degree = fit.sum(axis=1) + noise
    partner = np.full(len(fit), -1)

    def join(a: int, b: int) -> None:
        partner[a], partner[b] = b, a

    for c in np.argsort(degree, kind="stable"):
        candidates = np.flatnonzero(fit[c] & (partner < 0))
        if partner[c] < 0 and len(candidates):
            join(c, candidates[np.argmin(degree[candidates])])
    alone = np.flatnonzero(partner < 0)
    for a, b in alone.reshape(-1, 2):
        # a pair (c, d) that can become (a, c) and (b, d)
        taken = partner >= 0
        found = np.flatnonzero(taken & fit[a] & fit[b][partner])
        if len(found) == 0:
            return None
        c = found[0]
        d = partner[c]
        join(a, c)
        join(b, d)
    return partner


def _is_dense(value: Any) -> bool:
    return is_op(value, "tvmquant.conv2d") and int(value.attrs["groups"]) == 1


def _is_depthwise(value: Any) -> bool:
    if not is_op(value, "tvmquant.conv2d"):
        return False
    outputs, _, _, inputs = shape_of(value.args[1])
    return inputs == 1 and int(value.attrs["groups"]) == outputs > 1


def _chain(graph: Graph, x: Any) -> list[relax.Var] | None:
    """Layers between which the order of ``x``'s channels is free, ``None`` if it is not."""
    found = []
    while isinstance(x, relax.Var) and graph.num_uses(x) == 1:
        value = graph.value(x)
        if _is_dense(value):
            return [*found, x]
        if _is_depthwise(value):
            found.append(x)
        elif not is_op(value, *_ALIKE) or (is_op(value, "tvmquant.lut") and _per_channel(value)):
            return None
        x = value.args[0]
    return None


def _per_channel(value: Any) -> bool:
    return len(shape_of(value.args[1])) > 1


def _arrays(
    constants: dict[relax.Var, list[np.ndarray]], var: relax.Var, value: Any
) -> list[np.ndarray]:
    """Weight, bias and parameters of a layer, as far as they were reordered."""
    return constants.setdefault(var, [const_value(arg) for arg in value.args[1:]])
