"""How long a plan takes, in cycles of one core: a model to choose by, not a promise.

Two multiplications, three vector operations of any kind and two loads a cycle; weights that no
near cache holds arrive at a line in some cycles. The constants were fitted on measurements.
"""

from __future__ import annotations

import math

from tvmquant.schedules.linear.kernel import dense
from tvmquant.schedules.winograd.plan import Plan
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

_LEVEL1_BYTES = 24 << 10
_LINE = 64
# Weights up to so many bytes arrive at a line in so many cycles.
_LINE_CYCLES = ((1 << 20, 0.0), (6 << 20, 7.0), (1 << 62, 11.0))
# Measured cycles of the direct kernel over those of its own model: instruction set, weight bits.
_DIRECT = {("vnni", 8): 0.92, ("vnni", 4): 0.75, ("avx2", 8): 0.95, ("avx2", 4): 1.05}
# Additions and shifts of the input and the output transform along one axis.
_INPUT_WORK = {2: 4, 3: 11, 4: 14}
_OUTPUT_WORK = {2: 4, 3: 9, 4: 12}


def cycles(plan: Plan) -> float:
    """Cycles of the whole layer."""
    return _products(plan) + _transforms(plan)


def direct_cycles(workload: Workload, device: Device) -> float:
    """Cycles of the direct kernel for the same layer."""
    kernel = dense(workload, device)
    half_cycles = kernel.estimate(kernel.configs()[0])
    family = "vnni" if device.isa.endswith("vnni") else "avx2"
    return half_cycles / 2 * _DIRECT[family, 8 if workload.w_bits == 8 else 4]


def _products(plan: Plan) -> float:
    operands = plan.operands
    full, rest = divmod(plan.tiles, plan.block)
    groups = full * (plan.block // plan.rows) + math.ceil(rest / plan.rows)
    products = plan.rows * plan.vectors * operands.flush * operands.cycles
    loads = operands.flush * (plan.rows + plan.vectors) / 2
    # A sum can be used again after four cycles.
    turn = max(products, loads, 4.0)
    # Weights that the first-level cache cannot hold come slower.
    block_bytes = plan.expanded_bytes / plan.channel_blocks / plan.algorithm.positions
    if block_bytes > _LEVEL1_BYTES:
        turn = max(turn, 2.0 * operands.flush * plan.vectors) + 0.3 * operands.flush * plan.vectors
    work = groups * (plan.turns * (turn + 0.25) + _block_overhead(plan))
    work *= plan.algorithm.positions * plan.channel_blocks
    line = next(line for size, line in _LINE_CYCLES if plan.expanded_bytes <= size)
    return max(work, plan.blocks * plan.expanded_bytes / _LINE * line + 0.1 * work)


def _block_overhead(plan: Plan) -> float:
    """Cycles in which a register block starts and ends."""
    sums = plan.rows * plan.vectors
    if not plan.operands.wide:
        return 8 + 2 * sums
    # Of up to twelve sums it is hidden.
    return 2 + 1.5 * max(0, sums - 12)


def _transforms(plan: Plan) -> float:
    rows, columns = plan.algorithm.rows, plan.algorithm.columns
    outputs, positions = plan.algorithm.outputs, plan.algorithm.positions
    lanes = min(plan.operands.width, 1 << (plan.channels.bit_length() - 1))
    work = columns.points * _INPUT_WORK[rows.size] + rows.points * _INPUT_WORK[columns.size]
    per_input = 10 + math.ceil(plan.channels / lanes) * (work + 2 * positions) / 4
    work = columns.points * _OUTPUT_WORK[rows.size] + rows.size * _OUTPUT_WORK[columns.size]
    if plan.sum_dtype == "int16":
        work, positions = work / 2, positions / 2
    per_vector = (work + positions + 10 * outputs) / 4
    per_output = plan.channel_blocks * (10 + 3 * outputs + plan.vectors * per_vector)
    return plan.tiles * (per_input + per_output)
