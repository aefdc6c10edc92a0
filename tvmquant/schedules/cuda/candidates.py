"""The plans that are worth trying for a layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from tvmquant.schedules.cuda.estimate import FILE, estimate, registers
from tvmquant.schedules.cuda.packed import packable
from tvmquant.schedules.cuda.plan import STEP, Plan, products_of, stored_bits
from tvmquant.schedules.cuda.tiles import blocks_of, slots_of, vector_of
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

# Largest sizes of blocks whose warps share K: the others have warps enough.
_SLICED = 64
# Rows or channels of a block, and the warps that share them.
_HEIGHTS = ((16, 1), (32, 1), (32, 2), (64, 1), (64, 2), (128, 2), (128, 4), (256, 4))
_WIDTHS = ((8, 1), *_HEIGHTS)
# Registers that a thread may have: fewer where activations are packed in registers.
_REGISTERS, _REGISTERS_PACKED = 216, 240
# Parts of K of different blocks, and the slots that each must have at least.
_SPLITS = (2, 4, 8, 16)
_FEWEST_SLOTS = 4


def plans(workload: Workload, arch: Arch) -> Iterator[Plan]:
    """All sizes worth trying, unordered."""
    for product in products_of(workload, arch):
        base = Plan(product, stored_bits(product, workload), 16, 8, STEP[product], 16, 8, 2)
        forms = [base]
        if packable(workload, product):
            forms.append(replace(base, packed=True))
        for form, height, width in itertools.product(forms, _HEIGHTS, _WIDTHS):
            yield from _of_tile(workload, _tile(form, height, width), arch)


@lru_cache(maxsize=16)
def known_plans(workload: Workload, arch: Arch) -> frozenset[Plan]:
    """The same, to look one up."""
    return frozenset(plans(workload, arch))


def _tile(plan: Plan, height: tuple[int, int], width: tuple[int, int]) -> Plan:
    (block_m, warps_m), (block_n, warps_n) = height, width
    warp_m, warp_n = block_m // warps_m, block_n // warps_n
    return replace(plan, block_m=block_m, block_n=block_n, warp_m=warp_m, warp_n=warp_n)


def _of_tile(workload: Workload, tile: Plan, arch: Arch) -> Iterator[Plan]:
    most = 8 if max(tile.block_m, tile.block_n) <= _SLICED else 1
    for slices in (1, 2, 4, 8)[: most.bit_length()]:
        for block_k, stages in itertools.product(_depths(tile.granule * slices), (2, 3, 4)):
            plan = replace(tile, block_k=block_k, slices=slices, stages=stages)
            if _fits(workload, plan, arch):
                yield plan
                for splits in _splits(workload, plan, arch):
                    yield replace(plan, splits=splits)


def _depths(unit: int) -> list[int]:
    """Elements of K that a slot may have: multiples of what the warps share."""
    return [k for k in (32, 64, 128, 256, 512, 1024, 2048) if k % unit == 0 and k <= 4 * unit][:3]


def _splits(workload: Workload, plan: Plan, arch: Arch) -> Iterator[int]:
    """Parts of K, where whole sums keep the smaller part of the GPU busy."""
    if plan.slices > 2 or plan.stages < 3:
        return
    blocks = math.prod(blocks_of(workload, plan)) * workload.groups
    slots = slots_of(workload, plan)
    for splits in _SPLITS:
        if blocks * splits <= 2 * arch.multiprocessors and slots >= splits * _FEWEST_SLOTS:
            yield splits


def _fits(workload: Workload, plan: Plan, arch: Arch) -> bool:
    try:
        plan.check(arch)
    except ConfigError:
        return False
    vectors = plan.row_bytes // vector_of(workload, plan)
    if plan.threads % vectors or plan.block_m % (plan.threads // vectors):
        return False
    if not 2 <= plan.threads // 32 <= 8:
        return False
    most = min(_REGISTERS_PACKED if plan.packed else _REGISTERS, FILE // plan.threads)
    return registers(workload, plan, arch) <= most


@lru_cache(maxsize=256)
def choose(workload: Workload, arch: Arch) -> Plan | None:
    """Sizes that the model likes best."""
    best = products_of(workload, arch)[0]
    found = (plan for plan in plans(workload, arch) if plan.product == best)
    return min(found, key=lambda plan: estimate(workload, plan, arch), default=None)
