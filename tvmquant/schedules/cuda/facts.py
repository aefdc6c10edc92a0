"""What a cost model should know of a kernel's sizes: how they fill a GPU, what they move."""

from __future__ import annotations

import math
from typing import Protocol

from tvmquant.schedules.cuda.tiles import outputs_of, rows_of
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

# Of a multiprocessor: registers, threads, blocks.
_REGISTERS, _THREADS, _BLOCKS = 65536, 2048, 32


class Sizes(Protocol):
    """What plans of tiles have in common."""

    block_m: int
    block_n: int
    block_k: int
    stages: int
    threads: int
    shared_bytes: int
    weight_bytes: int


def facts_of(workload: Workload, plan: Sizes, arch: Arch, registers: int) -> dict[str, float]:
    """Numbers by name.

    Parameters
    ----------
    workload : Workload
    plan : Sizes
        Where it has them, ``splits`` and ``row_bytes`` as in
        :class:`tvmquant.schedules.cuda.plan.Plan`.
    arch : Arch
    registers : int
        Of a thread.
    """
    splits = getattr(plan, "splits", 1)
    slot_bytes = plan.block_m * getattr(plan, "row_bytes", plan.block_k) + plan.weight_bytes
    tiles = -(-rows_of(workload) // plan.block_m) * -(-outputs_of(workload) // plan.block_n)
    tiles *= workload.groups
    slots = -(-math.prod(workload.w_shape[1:]) // plan.block_k) / splits
    products = plan.block_m * plan.block_n * plan.block_k
    return {
        **occupancy(tiles * splits, plan.threads, plan.shared_bytes, registers, arch),
        "slots": slots,
        "in_flight": float(slot_bytes * (plan.stages - 1)),
        "moved": tiles * splits * slots * slot_bytes,
        "intensity": products / slot_bytes,
        "covered": tiles * splits * slots * products / workload.macs,
    }


def occupancy(
    blocks: int, threads: int, shared_bytes: int, registers: int, arch: Arch
) -> dict[str, float]:
    """How many blocks there are, and how many of them at once.

    Parameters
    ----------
    blocks : int
    threads, shared_bytes : int
        Of a block.
    registers : int
        Of a thread.
    arch : Arch
    """
    room = (
        arch.blocks_by_memory(shared_bytes),
        _THREADS // threads,
        _REGISTERS // (threads * registers),
    )
    resident = max(1, min(*room, _BLOCKS))
    waves = blocks / (arch.multiprocessors * resident)
    return {
        "blocks": float(blocks),
        "threads": float(threads),
        "shared_bytes": float(shared_bytes),
        "registers": float(registers),
        "resident": float(resident),
        "waves": waves,
        # Of the multiprocessors, when the last blocks run.
        "full": waves / math.ceil(waves),
    }
