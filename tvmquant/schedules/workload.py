"""What a kernel must know about one integer operator, and what a kernel gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Workload:
    """One compute-heavy operator with every number that shapes its kernel.

    Zero points and clamp bounds are deliberately absent: kernels read them from a small constant
    (``qinfo``), so that layers of one shape share one kernel.

    Attributes
    ----------
    op : str
        ``conv2d`` (groups == 1 or grouped), ``depthwise_conv2d`` (groups == channels, one input
        channel a group) or ``matmul``; ``conv2d_float``, ``depthwise_conv2d_float`` and
        ``matmul_float`` for the float32 layers that remain.
    x_shape : tuple of int
        ``[N, H, W, C]``, or ``[M, K]`` for ``matmul``.
    w_shape : tuple of int
        ``[O, KH, KW, C // groups]``, or ``[O, K]``.
    strides, padding, dilation : tuple of int
        As in :func:`tvmquant.reference.conv2d`; empty for ``matmul``.
    groups : int
    x_bits, w_bits : int
        Bits of the stored values (8, 4, 2, 1); 32 for float values.
    requantize : str
        One of :data:`tvmquant.reference.FLAVOURS`; for the float operators ``float32``.
    no_saturation : bool
        The layer's own 8-bit weights are proven safe for saturating int16 pair sums, see
        :func:`tvmquant.schedules.linear.cannot_saturate`.
    max_abs_sum : int or None
        Bound on the sum of the weights' magnitudes of every output channel, see
        :func:`tvmquant.schedules.winograd.weight_bound`; None if unknown.
    group_size : int
        Of ``matmul_weight_only``: inputs that share a scale; 0 for one scale an output channel.
    zero_points : bool
        Of ``matmul_weight_only``: whether groups have zero points.
    residual : str
        How the kernel adds another tensor to its uint8 output before it stores it, see
        :mod:`tvmquant.schedules.linear.addition`; empty if it does not.
    """

    op: str
    x_shape: tuple[int, ...]
    w_shape: tuple[int, ...]
    strides: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    x_bits: int = 8
    w_bits: int = 8
    requantize: str = "float"
    no_saturation: bool = False
    max_abs_sum: int | None = None
    group_size: int = 0
    zero_points: bool = False
    residual: str = ""

    @property
    def out_shape(self) -> tuple[int, ...]:
        """``[N, OH, OW, O]``, or ``[M, O]`` for a matmul."""
        if self.op.startswith("matmul"):
            return (self.x_shape[0], self.w_shape[0])
        n, h, w, _ = self.x_shape
        top, left, bottom, right = self.padding
        kh, kw = self.w_shape[1:3]
        oh = (h + top + bottom - (kh - 1) * self.dilation[0] - 1) // self.strides[0] + 1
        ow = (w + left + right - (kw - 1) * self.dilation[1] - 1) // self.strides[1] + 1
        return (n, oh, ow, self.w_shape[0])

    @property
    def out_dtype(self) -> str:
        """Dtype of the output: uint8, int32 or float32."""
        return {"none": "int32", "dequantize": "float32", "float32": "float32"}.get(
            self.requantize, "uint8"
        )

    @property
    def numbers(self) -> int:
        """How many numbers ``qinfo`` holds."""
        return 12 if self.residual else 4

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the operator."""
        per_output = int(np.prod(self.w_shape[1:]))
        return int(np.prod(self.out_shape)) * per_output


@dataclass(frozen=True)
class Expansion:
    """Constants that a kernel makes bigger once, when the model is loaded.

    Winograd's transformed weights, tables of sub-byte weights: several bytes a weight that would
    bloat the file. The first ``len(inputs)`` arrays of :meth:`Kernel.pack` are stored; ``func``
    turns them into the arrays that the kernel's PrimFunc takes in their place.

    Attributes
    ----------
    func : PrimFunc
        ``(*stored, *expanded)``, marked ``tvmquant.scheduled``.
    inputs : int
        How many of the packed arrays it reads.
    outputs : tuple of (shape, dtype)
        The expanded arrays.
    """

    func: Any
    inputs: int
    outputs: tuple[tuple[tuple[int, ...], str], ...]


class Kernel(Protocol):
    """A kernel made for one workload on one device."""

    name: str

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Turn the plain constants into the arrays that the PrimFunc reads, in its order."""

    def prim_func(self) -> Any:
        """Return the PrimFunc ``(x, *packed, qinfo, out)``.

        ``qinfo`` is int32 ``[4]``: x_zero_point, out_zero_point, out_min, out_max (absent for
        the float operators). With a residual addition its numbers follow, and between ``qinfo``
        and ``out`` comes the other tensor, uint8 of the output's shape.
        """

    # A kernel may also have ``expansion() -> Expansion | None``; without it nothing is expanded.
    # And ``with_residual(form) -> Kernel``: the same kernel for a workload with this ``residual``.
