"""How a plan meets a layer: what lies in memory, how many blocks and slots there are."""

from __future__ import annotations

import math

from tvmquant.schedules.cuda.packed import layout_of
from tvmquant.schedules.cuda.plan import Plan
from tvmquant.schedules.workload import Workload


def rows_of(workload: Workload) -> int:
    """Output pixels, or rows of a matrix product."""
    return math.prod(workload.out_shape[:-1])


def outputs_of(workload: Workload) -> int:
    """Output channels of a group."""
    return workload.w_shape[0] // workload.groups


def channels_of(workload: Workload) -> int:
    """Input channels of a group."""
    return workload.x_shape[-1] // workload.groups


def depth_of(workload: Workload, plan: Plan) -> int:
    """Elements of K."""
    if not plan.packed:
        return math.prod(workload.w_shape[1:])
    layout = layout_of(workload, plan)
    rows = math.prod(workload.w_shape[1:-2])
    return rows * layout.kernel_w * layout.tap_bytes * 8 // plan.element_bits


def slots_of(workload: Workload, plan: Plan) -> int:
    """Slots of K, of all splits together."""
    return -(-depth_of(workload, plan) // plan.block_k)


def is_inside(workload: Workload, plan: Plan) -> bool:
    """Whether all taps of all outputs lie in memory."""
    return plan.packed or not any(workload.padding)


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
        return math.gcd(16, layout_of(workload, plan).tap_bytes)
    vector = math.gcd(16, workload.x_shape[-1], channels_of(workload))
    return vector if vector >= 4 else 1
