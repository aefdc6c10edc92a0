"""Which plan a layer gets before anything was measured: a plain model of time."""

from __future__ import annotations

import math

from tvmquant.schedules.cuda.packed import layout_of
from tvmquant.schedules.cuda.plan import STEP, Plan
from tvmquant.schedules.cuda.tiles import (
    blocks_of,
    is_inside,
    part_count,
    rows_of,
    slots_of,
    vector_of,
)
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

# Multiply-accumulates of a cycle and multiprocessor.
_RATE = {"U8S8": 2048, "U4S4": 4096, "BITS_XOR": 16384, "BITS_AND": 16384}
# Cycles: from shared memory through the tensor core, from global memory, of a barrier, of one
# more kernel.
_STEP_LATENCY, _MEMORY_LATENCY, _BARRIER, _LAUNCH = 60, 500, 40, 4000
# Bytes of a cycle: that a multiprocessor gets from the cache, that all of them read and write.
_COPY_RATE, _MEMORY_RATE = 32, 2000
# Instructions of a thread for every slot, to bring a vector of bytes in, or a single byte, to
# requantize an output.
_SLOT, _COPY, _BYTE, _OUTPUT = 60, 8, 25, 9
# Cycles of a multiprocessor for counting the bits of 16 rows and 256 channels.
_COUNTING = 7
FILE = 65536
_OVERHEAD = 40


def registers(workload: Workload, plan: Plan, arch: Arch) -> int:
    """Registers that a thread is expected to need."""
    vector = vector_of(workload, plan)
    # A thread remembers where its rows lie: an offset, of two words if need be, and coordinates.
    size = layout_of(workload, plan).bytes if plan.packed else math.prod(workload.x_shape)
    each = (2 if is_inside(workload, plan) else 4) * (1 if size < 1 << 32 else 2)
    rows = plan.block_m * plan.row_bytes // vector // plan.threads if vector >= 4 else 0
    # Copies pass through registers where they cannot be asynchronous.
    copied = 0 if arch.sm >= 80 else (4 * rows + plan.weight_bytes // (4 * plan.threads)) // 2
    fragments = plan.warp_m // 4 + plan.warp_n // 4
    counted = plan.warp_m // 4 if plan.product == "BITS_AND" else 0
    sums = plan.warp_m * plan.warp_n // 32
    return sums + fragments + counted + each * rows + copied + _OVERHEAD


def estimate(workload: Workload, plan: Plan, arch: Arch) -> float:
    """Relative time that the model expects: waves of blocks, their traffic and their waste."""
    blocks = math.prod(blocks_of(workload, plan)) * workload.groups * plan.splits
    tile = plan.block_m * plan.block_n
    slots = -(-slots_of(workload, plan) // plan.splits)
    room = FILE // (plan.threads * registers(workload, plan, arch))
    resident = max(1, min(arch.blocks_by_memory(plan.shared_bytes), 2048 // plan.threads, room, 16))
    waves = -(-blocks // (arch.multiprocessors * resident))
    # Cycles of a slot: products at the rate of one block's share, fragments from shared memory.
    products = tile * plan.block_k / _RATE[plan.product]
    warps = plan.threads // 32 // plan.slices
    rows = plan.warp_m * plan.element_bits / 8
    fragments = warps * plan.block_k * (rows + plan.warp_n * plan.w_bits / 8) / 128
    copies = (plan.block_m * plan.row_bytes + plan.weight_bytes) / _COPY_RATE
    steps = plan.block_k / plan.step
    operands = warps * steps * plan.warp_m / 16 * _operand_cycles(plan)
    issued = plan.threads / 128 * _instructions(workload, plan)
    busy = min(resident, -(-blocks // arch.multiprocessors))
    # A warp's own steps follow each other; memory answers late, if blocks are few.
    own = steps / plan.slices * (_STEP_LATENCY + plan.warp_m * plan.warp_n / 128 * 4)
    latency = _MEMORY_LATENCY / (plan.stages - 1)
    work = max(products, fragments, copies, operands, issued)
    slot = max(work * busy, own, latency)
    # Memory is not equally late each time: more stages are a little better.
    slot += _BARRIER + latency / 16
    sums = plan.slices * tile / 16 if plan.slices > 1 else 0
    # While a block stores, another one computes.
    stored = (tile * _OUTPUT / 128 + sums) * max(1, busy / 2)
    main = waves * (slots * slot + 400 + stored)
    return main + _other_launches(workload, plan)


def _operand_cycles(plan: Plan) -> float:
    """Cycles of arithmetic for a fragment of activations."""
    parts = plan.element_bits * STEP[plan.product] // 256
    packing = (parts - 1) * 4 / 2
    return packing + (_COUNTING if plan.product == "BITS_AND" else 0)


def _instructions(workload: Workload, plan: Plan) -> float:
    """Instructions of a thread for a slot."""
    vector, rows, columns = vector_of(workload, plan), plan.warp_m / 16, plan.warp_n / 8
    vectors = plan.block_m * plan.row_bytes / vector / plan.threads
    step = rows * columns + columns + rows * (1 + 2 * _operand_cycles(plan))
    steps = plan.block_k / plan.step / plan.slices
    return _SLOT + steps * step + vectors * (_COPY if vector >= 4 else _BYTE)


def _other_launches(workload: Workload, plan: Plan) -> float:
    time = 0.0
    if plan.packed:
        moved = math.prod(workload.x_shape) + layout_of(workload, plan).bytes
        time += _LAUNCH + moved / _MEMORY_RATE
    if plan.splits > 1:
        # Rows of the last fragment that are not there are neither written nor read.
        used = min(1.0, rows_of(workload) / 16)
        time += _LAUNCH + 2 * 4 * part_count(workload, plan) * used / _MEMORY_RATE
    return time
