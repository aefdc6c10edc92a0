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
# Additions and shifts of the input and the output transform of one vector.
_INPUT_WORK = {2: 32, 3: 110, 4: 168}
_OUTPUT_WORK = {2: 24, 3: 70, 4: 120}


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
    work = groups * (plan.turns * (turn + 0.25) + 8 + 2 * plan.rows * plan.vectors)
    work *= plan.algorithm.positions * plan.channel_blocks
    line = next(line for size, line in _LINE_CYCLES if plan.expanded_bytes <= size)
    return max(work, plan.blocks * plan.expanded_bytes / _LINE * line + 0.1 * work)


def _transforms(plan: Plan) -> float:
    size, positions = plan.algorithm.size, plan.algorithm.positions
    lanes = min(plan.operands.width, 1 << (plan.channels.bit_length() - 1))
    per_input = 10 + math.ceil(plan.channels / lanes) * (_INPUT_WORK[size] + 2 * positions) / 4
    per_vector = (_OUTPUT_WORK[size] + positions + 10 * size**2) / 4
    per_output = plan.channel_blocks * (10 + 3 * size**2 + plan.vectors * per_vector)
    return plan.tiles * (per_input + per_output)
