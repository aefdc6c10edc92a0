"""What a layer makes of distributions: expected values and variances of its outputs."""

from __future__ import annotations

import numpy as np
from tvm import relax

from tvmquant.calibration.spread import Spread
from tvmquant.graph import name_of
from tvmquant.ops.integer import ints, shape_of


def linear_spread(call: relax.Call, weight: np.ndarray, x: Spread) -> Spread:
    """Spread of a layer's output, normal by the many terms that it sums.

    Input channels are independent of each other. Of the taps of a channel it is not known how much
    they agree: the larger of the variances of independent and of equal taps is taken.
    """
    weight = weight.astype(np.float64)
    mean = expected(call, weight, x.mean)
    apart = expected(call, weight**2, x.variance)
    if name_of(call) != "nn.conv2d":
        return Spread.normal(mean, np.sqrt(apart))
    together = weight.sum((1, 2), keepdims=True) ** 2
    shares = np.ones((1, 1))
    agreeing = _through(call, together, x.variance, shares)
    return Spread.normal(mean, np.sqrt(np.maximum(apart, agreeing)))


def expected(call: relax.Call, weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of a layer's outputs over all positions, when input channels are ``values``.

    Parameters
    ----------
    call : relax.Call
        A channels-last ``conv2d`` or a ``matmul``.
    weight : np.ndarray
        ``[O, H, W, I]`` or ``[..., I, O]``.
    values : np.ndarray
        Expected inputs ``[I]``, or ``[1]`` for all channels. The zeros of a padding count as
        often as they are read.

    Returns
    -------
    np.ndarray
        float64 ``[O]``.
    """
    return _through(call, weight.astype(np.float64), values, tap_shares(call))


def tap_shares(call: relax.Call) -> np.ndarray:
    """How often each tap of a convolution reads the image and not its padding, ``[H, W]``."""
    if name_of(call) != "nn.conv2d":
        return np.ones((1, 1))
    attrs = call.attrs
    strides, dilation, padding = (ints(attrs[k]) for k in ("strides", "dilation", "padding"))
    sizes, kernel = shape_of(call.args[0])[1:3], shape_of(call.args[1])[1:3]
    outputs = _outputs(call, sizes, kernel)
    shares = []
    for axis in range(2):
        start = np.arange(outputs[axis]) * strides[axis] - padding[axis]
        taps = start[:, None] + np.arange(kernel[axis]) * dilation[axis]
        shares.append(((taps >= 0) & (taps < sizes[axis])).mean(0))
    return np.outer(*shares)


def _outputs(call: relax.Call, sizes: list[int], kernel: list[int]) -> list[int]:
    attrs = call.attrs
    strides, dilation, padding = (ints(attrs[k]) for k in ("strides", "dilation", "padding"))
    return [
        (sizes[a] + padding[a] + padding[a + 2] - (kernel[a] - 1) * dilation[a] - 1) // strides[a]
        + 1
        for a in range(2)
    ]


def _through(
    call: relax.Call, weight: np.ndarray, values: np.ndarray, shares: np.ndarray
) -> np.ndarray:
    if name_of(call) != "nn.conv2d":
        # A batch of matrices counts as one whose columns are those of their mean.
        matrix = weight.reshape(-1, *weight.shape[-2:]).mean(0)
        return np.broadcast_to(values, (matrix.shape[0],)) @ matrix
    groups = int(call.attrs["groups"])
    taps = np.einsum("ohwi,hw->oi", weight, shares)
    inputs = np.broadcast_to(values, (taps.shape[1] * groups,)).reshape(groups, -1)
    return np.einsum("goi,gi->go", taps.reshape(groups, -1, taps.shape[1]), inputs).reshape(-1)
