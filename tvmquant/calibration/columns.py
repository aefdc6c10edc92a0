"""A layer as a matrix product: its weights as rows, what its outputs read as columns."""

from __future__ import annotations

import numpy as np
from tvm import relax

from tvmquant.graph import name_of
from tvmquant.interpreter.lockstep import LinearLayer
from tvmquant.ops.integer import ints

ALL = slice(None)


def weight_rows(layer: LinearLayer, weights: np.ndarray) -> np.ndarray:
    """Weights as ``[groups, channels of a group, K]``, in the order of :func:`columns`."""
    if not layer.is_conv:
        return np.ascontiguousarray(weights.T)[None]
    groups = int(layer.call.attrs["groups"])
    return weights.reshape(groups, weights.shape[0] // groups, -1)


def weights_of_rows(layer: LinearLayer, rows: np.ndarray) -> np.ndarray:
    """The inverse of :func:`weight_rows`."""
    if not layer.is_conv:
        return np.ascontiguousarray(rows[0].T)
    return rows.reshape(layer.q.shape)


def columns(
    x: np.ndarray,
    call: relax.Call,
    positions: np.ndarray | slice = ALL,
    groups: slice = ALL,
) -> np.ndarray:
    """What output positions read, ``[groups, positions, K]``.

    Parameters
    ----------
    x : np.ndarray
        Input of the layer, channels last.
    call : relax.Call
        A convolution or matmul.
    positions : np.ndarray or slice
        Which output positions of all in order; an array of their numbers, by default all.
    groups : slice
        Which groups of a convolution.
    """
    if name_of(call) != "nn.conv2d":
        return x.reshape(1, -1, x.shape[-1])[:, positions]
    attrs = call.attrs
    (sh, sw), (dh, dw) = ints(attrs["strides"]), ints(attrs["dilation"])
    top, left, bottom, right = ints(attrs["padding"])
    _, kh, kw, cg = (int(d) for d in call.args[1].ty.shape.values)
    first, last, _ = groups.indices(int(attrs["groups"]))
    x = x[..., first * cg : last * cg]
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    span = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    windows = np.lib.stride_tricks.sliding_window_view(x, span, (1, 2))
    windows = windows[:, ::sh, ::sw, :, ::dh, ::dw].transpose(0, 1, 2, 4, 5, 3)
    size = windows.shape[:3]
    if isinstance(positions, slice):
        parts = windows.reshape(*size, kh, kw, last - first, cg)
        return parts.transpose(5, 0, 1, 2, 3, 4, 6).reshape(last - first, -1, kh * kw * cg)[
            :, positions
        ]
    # Copied are those that were chosen only.
    rows = windows[np.unravel_index(positions, size)]
    rows = rows.reshape(len(positions), kh, kw, last - first, cg)
    return rows.transpose(3, 0, 1, 2, 4).reshape(last - first, len(positions), -1)
