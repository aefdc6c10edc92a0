"""Transposed convolution as an ordinary convolution followed by a pixel shuffle.

Output position ``o + pad = s·i + d·k`` receives input ``i`` through tap ``k``. Sorting the outputs
by their phase ``(o + pad) mod s`` leaves, for each phase, a stride-1 convolution with the taps of
that phase; all phases together are one convolution with ``O·sh·sw`` channels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from tvmquant.graph import Builder, const_value, name_of
from tvmquant.ops.integer import ints, shape_of
from tvmquant.ops.waist import dequantize


def _phase_taps(kernel: int, stride: int, dilation: int) -> list[dict[int, int]]:
    """For each phase the input offset of every tap: ``{offset: tap}``, offsets ≤ 0."""
    phases: list[dict[int, int]] = [{} for _ in range(stride)]
    for tap in range(kernel):
        position = tap * dilation
        phases[position % stride][-(position // stride)] = tap
    return phases


def phase_weights(
    weight: np.ndarray, strides: tuple[int, int], dilation: tuple[int, int], groups: int
) -> tuple[np.ndarray, tuple[int, int]]:
    """Rearrange transposed-convolution weights.

    Parameters
    ----------
    weight : np.ndarray
        ``[C, O // groups, KH, KW]`` (IOHW).
    strides, dilation : tuple of 2 int
    groups : int

    Returns
    -------
    np.ndarray
        ``[groups · sh · sw · O // groups, TH, TW, C // groups]`` (OHWI), channel order group,
        phase row, phase column, output channel; absent taps are zero.
    tuple of 2 int
        TH and TW, the taps of a phase.
    """
    c, og, kh, kw = weight.shape
    sh, sw = strides
    rows = _phase_taps(kh, sh, dilation[0])
    cols = _phase_taps(kw, sw, dilation[1])
    th = 1 + max((-offset for phase in rows for offset in phase), default=0)
    tw = 1 + max((-offset for phase in cols for offset in phase), default=0)
    out = np.zeros((groups, sh, sw, og, th, tw, c // groups), weight.dtype)
    grouped = weight.reshape(groups, c // groups, og, kh, kw).transpose(0, 2, 3, 4, 1)
    for ph, row in enumerate(rows):
        for pw, col in enumerate(cols):
            for dy, ky in row.items():
                for dx, kx in col.items():
                    out[:, ph, pw, :, th - 1 + dy, tw - 1 + dx] = grouped[:, :, ky, kx]
    return out.reshape(groups * sh * sw * og, th, tw, c // groups), (th, tw)


def _phase_weight_expr(builder: Builder, weight: Any, args: tuple) -> tuple[Any, Any]:
    value = const_value(weight)
    if value is not None:
        new, taps = phase_weights(value, *args)
        return relax.const(new), taps
    inner = builder.value(weight)
    if name_of(inner) != "tvmquant.dequantize" or const_value(inner.args[0]) is None:
        return None, None
    q, scale, zero = (const_value(a) for a in inner.args)
    per_channel = scale.size > 1
    if int(inner.attrs["block_size"]) or (per_channel and int(inner.attrs["axis"]) != 1):
        return None, None
    # Absent taps are zero, so the zero point must be.
    moved = q.astype(np.int32) - (zero.reshape(1, -1, 1, 1) if zero.size > 1 else zero)
    if moved.min(initial=0) < -128 or moved.max(initial=0) > 127:
        return None, None
    new, taps = phase_weights(moved.astype(np.int8), *args)
    scale = np.tile(scale, len(new) // scale.size) if per_channel else scale
    call = dequantize(
        relax.const(new),
        relax.const(scale),
        relax.const(np.zeros(scale.shape, np.int8)),
        bits=int(inner.attrs["bits"]),
    )
    return call, taps


def conv2d_transpose(builder: Builder, x: Any, call: relax.Call, name: str) -> Any:
    """Channels-last form of ``relax.nn.conv2d_transpose`` (NCHW, IOHW) with constant weights.

    Parameters
    ----------
    builder : Builder
    x : relax.Var
        Input, already ``[N, H, W, C]``.
    call : relax.Call
        The original operator.
    name : str
        Name for the convolution.

    Returns
    -------
    relax.Expr or None
        ``[N, OH, OW, O]``; ``None`` when the weights are not constant or have zero points.
    """
    attrs = call.attrs
    if str(attrs["data_layout"]) != "NCHW" or str(attrs["kernel_layout"]) != "IOHW":
        return None
    sh, sw = ints(attrs["strides"])
    groups = int(attrs["groups"])
    weight, taps = _phase_weight_expr(
        builder, call.args[1], ((sh, sw), tuple(ints(attrs["dilation"])), groups)
    )
    if weight is None:
        return None
    th, tw = taps
    n, o, oh, ow = shape_of(call)
    top, left = ints(attrs["padding"])[:2]
    _, h, wd, _ = shape_of(x)
    # Blocks of s outputs, numbered from output -top; the last block holds output oh - 1.
    blocks_h, blocks_w = -(-(oh + top) // sh), -(-(ow + left) // sw)
    conv = relax.op.nn.conv2d(
        x,
        builder.emit(weight, f"{name}/weight"),
        padding=[th - 1, tw - 1, max(blocks_h - h, 0), max(blocks_w - wd, 0)],
        groups=groups,
        data_layout="NHWC",
        kernel_layout="OHWI",
    )
    y = builder.emit(conv, name)
    _, rows, cols, _ = shape_of(y)
    og = o // groups
    y = builder.emit(relax.op.reshape(y, [n, rows, cols, groups, sh, sw, og]), f"{name}/phases")
    y = builder.emit(relax.op.permute_dims(y, [0, 1, 4, 2, 5, 3, 6]), f"{name}/shuffle")
    y = builder.emit(relax.op.reshape(y, [n, rows * sh, cols * sw, o]), f"{name}/image")
    return relax.op.strided_slice(y, [1, 2], [top, left], [top + oh, left + ow], [1, 1])
