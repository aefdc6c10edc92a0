"""What the first layers of a network tell about its inputs.

The first batch norm knows mean and variance of the outputs of the layer before it. Its mean is
linear in the mean of the inputs; its variances are those of weighted sums of neighbouring pixels,
of which a few parameters describe how much they agree.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from tvmquant.calibration.spread import Spread
from tvmquant.graph import Graph, const_value, is_const, name_of, operands
from tvmquant.ops.integer import shape_of
from tvmquant.passes.batch_norms import ChannelNorm, Norms
from tvmquant.passes.fold_affine import per_channel
from tvmquant.passes.linear_spread import tap_shares

# Pictures have bounded values: hardly any lies further out.
_REACH = 4.0
# Correlation of neighbours along an axis, and of two channels of one pixel.
_NEIGHBOURS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_CHANNELS = (0.0, 0.3, 0.6, 0.8, 0.9, 0.95)


def input_spreads(graph: Graph, norms: Norms) -> dict[relax.Var, Spread]:
    """Spread of the tensors that first layers read, where their output is known.

    Parameters
    ----------
    graph : Graph
        Of a simplified or annotated module.
    norms : mapping of str to ChannelNorm

    Returns
    -------
    dict of relax.Var to Spread
        By what a first layer reads, observe nodes looked through.
    """
    after: set[relax.Var] = set()
    found: dict[relax.Var, Spread] = {}
    for var, value in graph.bindings:
        layer = name_of(value) in ("nn.conv2d", "matmul")
        if layer and not any(arg in after for arg in operands(value)):
            x = _behind_observers(graph, value.args[0])
            weight = _weight(graph, value)
            norm = _norm(graph, var, norms)
            known = weight is not None and norm is not None and norm[0].mean.size == len(weight)
            if known and x not in found:
                found[x] = _fitted(value, weight, *norm)
        if layer or any(arg in after for arg in operands(value)):
            after.add(var)
    return found


def _behind_observers(graph: Graph, x: relax.Var) -> relax.Var:
    while name_of(graph.value(x)) == "tvmquant.observe":
        x = graph.value(x).args[0]
    return x


def _weight(graph: Graph, call: relax.Call) -> np.ndarray | None:
    node = graph.value(call.args[1])
    if name_of(node) == "tvmquant.observe_weight":
        node = node.args[0]
    if not is_const(node):
        return None
    weight = const_value(node).astype(np.float64)
    if name_of(call) == "matmul":
        return weight.T[:, None, None] if weight.ndim == 2 else None
    dense = str(call.attrs["data_layout"]) == "NHWC" and int(call.attrs["groups"]) == 1
    return weight if dense else None


def _norm(graph: Graph, var: relax.Var, norms: Norms) -> tuple[ChannelNorm, np.ndarray] | None:
    """What is known of a layer's output, and the bias in it."""
    if var.name in norms:
        return norms[var.name], np.zeros(1)
    users = graph.users.get(var, [])
    if len(users) != 1 or name_of(graph.value(users[0])) != "add":
        return None
    user = graph.value(users[0])
    bias = per_channel(user.args[1], shape_of(user))
    norm = norms.get(users[0].name)
    return (norm, bias) if bias is not None and norm is not None else None


def _fitted(call: relax.Call, weight: np.ndarray, norm: ChannelNorm, bias: np.ndarray) -> Spread:
    shares = tap_shares(call)
    taps = np.einsum("ohwi,hw->oi", weight, shares)
    alive = norm.std > 1e-3 * norm.std.max(initial=0)
    if not alive.any():
        return Spread.normal(0.0, 1.0)
    # Every equation by its own uncertainty, and weakly: the mean is zero.
    spread = norm.std[alive]
    rows = np.concatenate([taps[alive] / spread[:, None], 1e-2 * np.eye(taps.shape[1])])
    rest = np.concatenate([((norm.mean - bias)[alive]) / spread, np.zeros(taps.shape[1])])
    mean = np.linalg.lstsq(rows, rest, rcond=None)[0]
    std = _deviation(weight[alive], spread)
    return Spread.normal(mean, std, mean - _REACH * std, mean + _REACH * std)


def _deviation(weight: np.ndarray, std: np.ndarray) -> float:
    """Standard deviation of the inputs that explains those of the outputs best."""
    _, height, width, channels = weight.shape
    best = (np.inf, 1.0)
    for near in _NEIGHBOURS:
        rows, columns = _correlation(height, near), _correlation(width, near)
        for between in _CHANNELS if channels > 1 else (0.0,):
            pixel = between + (1 - between) * np.eye(channels)
            mixed = np.einsum("ohwi,hk,wl,ij->oklj", weight, rows, columns, pixel, optimize=True)
            unit = np.sqrt(np.maximum((mixed * weight).sum((1, 2, 3)), 1e-30))
            ratio = np.log(std / unit)
            best = min(best, (float(ratio.std()), float(np.exp(np.median(ratio)))))
    return best[1]


def _correlation(size: int, near: float) -> np.ndarray:
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    return near**distance
