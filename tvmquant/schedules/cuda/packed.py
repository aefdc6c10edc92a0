"""Where packed activations lie: padded images whose pixels are whole words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tvmquant.schedules.cuda.geometry import geometry
from tvmquant.schedules.cuda.plan import OPERAND_BITS, Plan
from tvmquant.schedules.workload import Workload

# Padded pixels may have this many times the bytes of plain ones, to be read in longer pieces,
# and this many times the channels; folded taps this many times the taps.
_LONGER, _EMPTIER, _FOLDED = 1.25, 4, 1.5
# Bytes that are read together at most.
_CHUNK = 16


@dataclass(frozen=True)
class Layout:
    """Images with their padding, so that all taps lie inside; behind them a chunk of zeros.

    Where strides step over pixels of few bytes, neighbouring pixels are folded into one of more
    channels, so that longer pieces are read: the layer has fewer taps, a smaller stride and no
    other outputs.

    Attributes
    ----------
    batch, height, width : int
        Folded pixels of the padded images.
    fold : int
        Pixels in a folded one.
    size : int
        Bytes of a pixel, of one group.
    kernel_w, stride_w : int
        Along the width, in folded pixels.
    groups : int
    """

    batch: int
    height: int
    width: int
    fold: int
    size: int
    kernel_w: int
    stride_w: int
    groups: int

    @property
    def pixels(self) -> int:
        """Of all images, not folded, of all groups."""
        return self.batch * self.height * self.width * self.fold * self.groups

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.pixels * self.size + _CHUNK

    @property
    def tap_bytes(self) -> int:
        """Bytes of a folded pixel, of one group."""
        return self.size * self.fold

    @property
    def constants(self) -> dict[str, int]:
        """Of the layer, as its products see it."""
        return {
            "HEIGHT": self.height,
            "WIDTH": self.width,
            "CHANNELS": self.groups * self.tap_bytes,
            "KERNEL_W": self.kernel_w,
            "STRIDE_W": self.stride_w,
            "PAD_TOP": 0,
            "PAD_LEFT": 0,
        }


def layout_of(workload: Workload, plan: Plan) -> Layout:
    """Of the packed activations of a layer."""
    return _layout(workload, plan.element_bits)


@lru_cache(maxsize=256)
def _layout(workload: Workload, bits: int) -> Layout:
    g = geometry(workload)
    top, left, bottom, right = workload.padding or (0, 0, 0, 0)
    least = -(-workload.x_shape[-1] // workload.groups * bits // 32) * 4
    padded = (-(-least // unit) * unit for unit in (_CHUNK, 8))
    size = next((size for size in padded if size <= _LONGER * least), least)
    # Bits have no zero: a tap that the layer does not have would count.
    most = 1.0 if bits == 1 else _FOLDED
    fold = _fold(workload, g, size, most)
    kernel_w, stride_w = -(-g["KERNEL_W"] // fold), g["STRIDE_W"] // fold
    reached = (g["OUT_W"] - 1) * stride_w + (kernel_w - 1) * g["DILATION_W"] + 1
    width = max(-(-(g["WIDTH"] + left + right) // fold), reached)
    height = g["HEIGHT"] + top + bottom
    return Layout(g["BATCH"], height, width, fold, size, kernel_w, stride_w, workload.groups)


def _fold(workload: Workload, g: dict[str, int], size: int, most: float) -> int:
    if workload.groups > 1 or g["DILATION_W"] > 1:
        return 1
    for fold in (4, 2):
        taps = -(-g["KERNEL_W"] // fold) * fold
        fits = g["STRIDE_W"] % fold == 0 and size * fold <= _CHUNK
        if fits and taps <= most * g["KERNEL_W"]:
            return fold
    return 1


def packable(workload: Workload, product: str) -> bool:
    """Whether packing makes activations smaller, or lets more than bytes be read."""
    channels = workload.x_shape[-1] // workload.groups
    if product == "U8S8":
        return math.gcd(workload.x_shape[-1], channels) % 4 != 0
    bits = channels * OPERAND_BITS[product]
    return -(-bits // 32) * 32 <= _EMPTIER * bits


def packed_weight(weight: np.ndarray, workload: Workload, plan: Plan) -> np.ndarray:
    """Weights ``[O, ..., C]`` with a zero for all that packed activations have besides."""
    if not plan.packed:
        return weight
    layout = layout_of(workload, plan)
    outputs, channels = weight.shape[0], weight.shape[-1]
    kernel_w = weight.shape[-2] if weight.ndim > 2 else 1
    taps = weight.reshape(outputs, -1, kernel_w, channels)
    more_taps = layout.kernel_w * layout.fold - kernel_w
    more_channels = layout.size * 8 // plan.element_bits - channels
    return np.pad(taps, ((0, 0), (0, 0), (0, more_taps), (0, more_channels)))
