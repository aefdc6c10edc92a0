"""How a plan meets a layer: what lies in memory, how many blocks and slots there are."""

from __future__ import annotations

import math

from tvmquant.schedules.cuda.plan import OPERAND_BITS, Plan
from tvmquant.schedules.workload import Workload

# Padded pixels may have this many times the bytes of plain ones, to be read in longer pieces,
# and this many times the channels.
_LONGER, _EMPTIER = 1.25, 4


def rows_of(workload: Workload) -> int:
    """Output pixels, or rows of a matrix product."""
    return math.prod(workload.out_shape[:-1])


def outputs_of(workload: Workload) -> int:
    """Output channels of a group."""
    return workload.w_shape[0] // workload.groups


def channels_of(workload: Workload) -> int:
    """Input channels of a group."""
    return workload.x_shape[-1] // workload.groups


def pixels_of(workload: Workload) -> int:
    """Input pixels, or rows of a matrix product."""
    return math.prod(workload.x_shape[:-1])


def pixel_bytes(workload: Workload, plan: Plan) -> int:
    """Bytes of a packed pixel, of one group: whole words, longer pieces if that adds little."""
    least = -(-channels_of(workload) * plan.element_bits // 32) * 4
    padded = (-(-least // unit) * unit for unit in (16, 8))
    return next((size for size in padded if size <= _LONGER * least), least)


def packed_bytes(workload: Workload, plan: Plan) -> int:
    """Bytes of packed activations: all pixels, one of padding, and a chunk of zeros."""
    pixels = pixels_of(workload) * workload.groups + 1
    return pixels * pixel_bytes(workload, plan) + 16


def packable(workload: Workload, product: str) -> bool:
    """Whether packing makes activations smaller, or lets more than bytes be read."""
    channels = channels_of(workload)
    words = -(-channels * OPERAND_BITS[product] // 32)
    if product == "U8S8":
        return _common(workload) < 4
    return words * 32 <= _EMPTIER * channels * OPERAND_BITS[product]


def padded_channels(workload: Workload, plan: Plan) -> int:
    """Elements of K of one tap."""
    if plan.packed:
        return pixel_bytes(workload, plan) * 8 // plan.element_bits
    return channels_of(workload)


def depth_of(workload: Workload, plan: Plan) -> int:
    """Elements of K."""
    taps = math.prod(workload.w_shape[1:-1])
    return taps * padded_channels(workload, plan)


def slots_of(workload: Workload, plan: Plan) -> int:
    """Slots of K, of all splits together."""
    return -(-depth_of(workload, plan) // plan.block_k)


def is_unpadded(workload: Workload) -> bool:
    """Whether no tap of any output meets padding."""
    return not any(workload.padding)


def blocks_of(workload: Workload, plan: Plan) -> tuple[int, int]:
    """Blocks of a group along pixels and channels."""
    return -(-rows_of(workload) // plan.block_m), -(-outputs_of(workload) // plan.block_n)


def part_count(workload: Workload, plan: Plan) -> int:
    """Numbers that all splits write: whole fragments of 16 pixels and 8 channels."""
    fragments = -(-rows_of(workload) // 16) * -(-outputs_of(workload) // 8)
    return plan.splits * workload.groups * fragments * 128


def vector_of(workload: Workload, plan: Plan) -> int:
    """Bytes of activations that are read together: they lie in one tap of one pixel."""
    if plan.packed:
        return math.gcd(16, pixel_bytes(workload, plan))
    vector = _common(workload)
    return vector if vector >= 4 else 1


def _common(workload: Workload) -> int:
    return math.gcd(16, workload.x_shape[-1], channels_of(workload))
