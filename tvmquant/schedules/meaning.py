"""What the kernel of a workload must compute, bit for bit, by the NumPy reference."""

from __future__ import annotations

import numpy as np

from tvmquant import reference
from tvmquant.schedules.linear.addition import Sum
from tvmquant.schedules.workload import Workload


def integer_layer(
    workload: Workload,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    params: tuple[np.ndarray, ...],
    qinfo: np.ndarray,
) -> np.ndarray:
    """Output of an integer layer without its residual addition.

    Parameters
    ----------
    workload : Workload
    x : np.ndarray
        Stored activations, ``workload.x_shape``.
    weight : np.ndarray
        ``workload.w_shape``.
    bias : np.ndarray
        int32 ``[O]``.
    params : tuple of np.ndarray
        Requantize parameters, each ``[O]`` or ``[1]``.
    qinfo : np.ndarray
        int32 ``[4]``, as of :meth:`tvmquant.schedules.workload.Kernel.prim_func`.
    """
    x_zero_point, out_zero_point, low, high = (int(v) for v in qinfo)
    end = {
        "requantize_flavour": workload.requantize,
        "out_zero_point": out_zero_point,
        "out_min": low,
        "out_max": high,
    }
    if workload.op == "matmul":
        return reference.matmul(x, weight, bias, params, **end)
    return reference.conv2d(
        x,
        weight,
        bias,
        params,
        strides=workload.strides,
        padding=workload.padding,
        dilation=workload.dilation,
        groups=workload.groups,
        x_zero_point=x_zero_point,
        **end,
    )


def with_sum(own: np.ndarray, other: np.ndarray, total: Sum) -> np.ndarray:
    """What a layer's output ``own`` becomes by a residual addition, both uint8."""
    return reference.add(
        own,
        other,
        total.params,
        a_zero_point=total.own_zero_point,
        b_zero_point=total.other_zero_point,
        a_multiplier=total.own_multiplier,
        b_multiplier=total.other_multiplier,
        requantize_flavour=total.flavour,
        out_zero_point=total.zero_point,
        out_min=total.low,
        out_max=total.high,
    )
