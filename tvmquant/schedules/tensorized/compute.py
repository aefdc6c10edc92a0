"""The TE definition: convolution on packed weights with its whole epilogue."""

from __future__ import annotations

from tvm import te, tirx

from tvmquant.schedules.compute.requantize import OutputSpec, requantize_te
from tvmquant.schedules.tensorized.intrinsic import STEP
from tvmquant.schedules.workload import Workload


def convolution(workload: Workload, lanes: int) -> tirx.PrimFunc:
    """Unscheduled ``(x, weights, bias, multiplier, qinfo, out)``.

    The output has the shape ``[N, OH, OW, O // lanes, lanes]``: the same memory, in which the
    epilogue is elementwise and so can be fused into the tiles of the sum.
    """
    w = workload
    n, height, width, channels = w.x_shape
    outputs, kh, kw, _ = w.w_shape
    _, oh, ow, _ = w.out_shape
    (sh, sw), (dh, dw) = w.strides, w.dilation
    top, left, bottom, right = w.padding
    blocks = outputs // lanes
    x = te.placeholder((n, height, width, channels), "uint8", name="x")
    weights = te.placeholder((blocks, kh, kw, channels // STEP, lanes, STEP), "int8", name="w")
    bias = te.placeholder((blocks, lanes), "int32", name="bias")
    multiplier = te.placeholder((blocks, lanes), "float32", name="multiplier")
    qinfo = te.placeholder((4,), "int32", name="qinfo")

    def padded(i: tirx.Var, h: tirx.Var, v: tirx.Var, c: tirx.Var) -> tirx.PrimExpr:
        inside = tirx.all(h >= top, h < top + height, v >= left, v < left + width)
        zero_point = qinfo[0].astype("uint8")
        return tirx.if_then_else(inside, x[i, h - top, v - left, c], zero_point)

    shape = (n, height + top + bottom, width + left + right, channels)
    source = te.compute(shape, padded, name="padded") if any(w.padding) else x
    i, j = te.reduce_axis((0, kh), "i"), te.reduce_axis((0, kw), "j")
    c, k = te.reduce_axis((0, channels // STEP), "c"), te.reduce_axis((0, STEP), "k")
    sums = te.compute(
        (n, oh, ow, blocks, lanes),
        lambda b, h, v, o, lane: te.sum(
            source[b, h * sh + i * dh, v * sw + j * dw, c * STEP + k].astype("int32")
            * weights[o, i, j, c, lane, k].astype("int32"),
            axis=[i, j, c, k],
        ),
        name="sums",
    )
    spec = OutputSpec(w.requantize, qinfo[1], qinfo[2], qinfo[3])
    out = te.compute(
        (n, oh, ow, blocks, lanes),
        lambda b, h, v, o, lane: requantize_te(
            sums[b, h, v, o, lane] + bias[o, lane], [multiplier], spec, (b, h, v, o, lane)
        ),
        name="out",
    )
    return te.create_prim_func([x, weights, bias, multiplier, qinfo, out])
