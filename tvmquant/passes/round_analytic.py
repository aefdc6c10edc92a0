"""Rounding of weights by their effect on a layer's output, without data.

As ``correct`` does it with data, but the second moments of the input are those of its derived
distribution: channels are independent, pixels of a channel agree the less the further apart they
lie. Rounding errors of neighbouring taps then make up for each other.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from tvmquant.calibration.gptq import gptq
from tvmquant.calibration.moments import Moments
from tvmquant.calibration.spread import Spread
from tvmquant.graph import const_value, name_of

# Correlation of neighbouring pixels. On two networks for Fashion-MNIST 0.5 was better than 0 (that
# is rounding to nearest) and than 0.8.
NEIGHBOURS = 0.5


def analytic_moments(call: relax.Call, weight: np.ndarray, x: Spread) -> Moments:
    """Moments of a layer whose input channels are distributed as ``x``.

    ``weight`` is that of the float layer, ``[O, H, W, I]`` or ``[I, O]``.
    """
    rows, groups = _rows(call, weight)
    taps = weight.shape[1:3] if weight.ndim == 4 else (1, 1)
    inputs = rows.shape[-1] // int(np.prod(taps))
    # A channel that never varies still counts for a little.
    variance = np.broadcast_to(x.variance, (groups * inputs,)).reshape(groups, inputs)
    variance = np.maximum(variance, 1e-6 * variance.max(initial=0) + 1e-30)
    place = np.stack(np.unravel_index(np.arange(np.prod(taps)), taps), 1)
    near = NEIGHBOURS ** np.abs(place[:, None] - place[None]).sum(-1)
    xx = np.stack([np.kron(near, np.diag(group)) for group in variance])
    yx = rows @ xx
    zero = np.zeros(rows.shape[:2])
    return Moments(xx, yx, (yx * rows).sum(-1), np.zeros((groups, rows.shape[-1])), zero)


def round_analytic(
    call: relax.Call, node: relax.Call, weight: np.ndarray, x: Spread, refit: bool = True
) -> tuple[np.ndarray, np.ndarray] | None:
    """Integers and scales of a layer's weight.

    Parameters
    ----------
    call : relax.Call
        The float layer.
    node : relax.Call
        The dequantize node of its weight; something else where it stays in float.
    weight : np.ndarray
    x : Spread
        Of the layer's input.
    refit : bool
        Whether scales may change.

    Returns
    -------
    tuple of np.ndarray or None
        int8, and float32 ``[channels]``; ``None`` where weights stay as they are: in float, with
        8 bits, one scale for all channels or scales of groups.
    """
    if name_of(node) != "tvmquant.dequantize":
        return None
    q, scale = (const_value(arg) for arg in node.args[:2])
    bits = int(node.attrs["bits"])
    if q is None or scale is None or bits >= 8 or int(node.attrs["block_size"]):
        return None
    rows, groups = _rows(call, weight)
    if scale.size != rows.shape[0] * rows.shape[1]:
        return None
    steps = scale.astype(np.float64).reshape(groups, -1, 1)
    moments = analytic_moments(call, weight, x)
    rounded, steps = gptq(rows, steps, bits, moments, refit=refit)
    new = rounded.reshape(q.shape) if q.ndim == 4 else np.ascontiguousarray(rounded[0].T)
    return new.astype(np.int8), steps.reshape(-1).astype(np.float32)


def _rows(call: relax.Call, weight: np.ndarray) -> tuple[np.ndarray, int]:
    """Weights ``[groups, channels of a group, K]``, and the number of groups."""
    if name_of(call) != "nn.conv2d":
        return weight.T[None].astype(np.float64), 1
    groups = int(call.attrs["groups"])
    return weight.reshape(groups, len(weight) // groups, -1).astype(np.float64), groups
