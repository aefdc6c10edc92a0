"""A layer as a convolution, in the constants that the CUDA sources use."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tvmquant.schedules.functions import PARAM_DTYPES
from tvmquant.schedules.workload import Workload

C_TYPES = {"uint8": "uint8_t", "int8": "int8_t", "int32": "int", "float32": "float"}

_LAYER = "BATCH HEIGHT WIDTH CHANNELS OUTPUTS KERNEL_H KERNEL_W OUT_H OUT_W".split()
_STEPS = "STRIDE_H STRIDE_W DILATION_H DILATION_W PAD_TOP PAD_LEFT GROUPS".split()


def geometry(workload: Workload) -> dict[str, int]:
    """Constants of a layer; a matrix product is a convolution of one tap over a row of pixels."""
    w = workload
    matmul = w.op.startswith("matmul")
    batch, height, width, channels = (1, 1, *w.x_shape) if matmul else w.x_shape
    outputs, kh, kw = (w.w_shape[0], 1, 1) if matmul else w.w_shape[:3]
    _, oh, ow, _ = (1, 1, *w.out_shape) if matmul else w.out_shape
    steps = (*(w.strides or (1, 1)), *(w.dilation or (1, 1)), *(w.padding or (0, 0))[:2], w.groups)
    layer = (batch, height, width, channels, outputs, kh, kw, oh, ow)
    return {**dict(zip([*_LAYER, *_STEPS], (*layer, *steps))), "PACKED": 0}


def definition(name: str, arguments: Sequence[tuple[str, str]], call: str) -> str:
    """A device function ``name(arguments, shared)`` of pointers that does ``call``.

    Parameters
    ----------
    name : str
    arguments : sequence of (name, dtype)
        The last one is written.
    call : str
        Text of a call.
    """
    *read, (out, dtype) = arguments
    pointers = [f"const {C_TYPES[kind]} *{argument}" for argument, kind in read]
    pointers += [f"{C_TYPES[dtype]} *{out}", "uint8_t *shared"]
    head = f"__device__ __forceinline__ void {name}({', '.join(pointers)})"
    return f"{head} {{\n  {call};\n}}\n"


def requantize_arguments(workload: Workload) -> str:
    """The two pointers to requantize parameters, as text."""
    count = len(PARAM_DTYPES[workload.requantize])
    given = [f"reinterpret_cast<const int *>(p{i})" for i in range(count)]
    return ", ".join(given + ["nullptr"] * (2 - count))


def residual_arguments(workload: Workload) -> list[tuple[str, tuple[int, ...], str]]:
    """The tensor that a residual addition adds: name, shape, dtype; none without one."""
    return [("other", workload.out_shape, "uint8")] if workload.residual else []


def residual_argument(workload: Workload) -> str:
    """The pointer to that tensor, as text."""
    return "other" if workload.residual else "nullptr"


def flavours(workload: Workload) -> dict[str, str]:
    """Constants for the requantization of the layer, and of the sum if it has an addition."""
    names = {"FLAVOUR": workload.requantize, "RESIDUAL": workload.residual or "none"}
    return {key: f"Flavour::{name.upper()}" for key, name in names.items()}


def name_of(workload: Workload, suffix: str, *sizes: object) -> str:
    """Name of a kernel: what it computes, ``suffix``, and a number that no other kernel has.

    Functions of one name must have one source.
    """
    w = workload
    taps = "" if w.op.startswith("matmul") else "_{}x{}".format(*w.w_shape[1:3])
    bits = "" if w.x_bits == 32 == w.w_bits else f"_w{w.w_bits}a{w.x_bits}"
    # What only the proofs of other kernels need makes no difference here.
    plain = replace(w, no_saturation=False, max_abs_sum=None)
    number = zlib.crc32(repr((plain, suffix, *sizes)).encode())
    return f"{w.op}{taps}{bits}_{suffix}_{number:08x}"


def integer_arguments(
    workload: Workload, weights: tuple[int, ...], dtype: str
) -> list[tuple[str, tuple[int, ...], str]]:
    """Arguments of an integer layer's kernel: name, shape, dtype; the last one is written.

    Parameters
    ----------
    workload : Workload
    weights : tuple of int
        Shape of the packed weights.
    dtype : str
        Theirs.
    """
    w = workload
    channels = w.w_shape[:1]
    return [
        ("x", w.x_shape, "uint8"),
        ("weights", weights, dtype),
        ("bias", channels, "int32"),
        *((f"p{i}", channels, kind) for i, kind in enumerate(PARAM_DTYPES[w.requantize])),
        ("qinfo", (w.numbers,), "int32"),
        *residual_arguments(w),
        ("out", w.out_shape, w.out_dtype),
    ]


def channel_constants(outputs: int, *values: np.ndarray) -> list[np.ndarray]:
    """Arrays ``[O]`` or ``[1]`` as ``[O]``."""
    return [np.ascontiguousarray(np.broadcast_to(v.reshape(-1), outputs)) for v in values]
