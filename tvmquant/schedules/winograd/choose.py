"""Which plan: tile size, operands, register block and blocks of tiles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tvmquant.schedules.winograd.algorithms import ALGORITHMS, SMALL_ALGORITHMS
from tvmquant.schedules.winograd.bounds import Ranges, outputs_fit
from tvmquant.schedules.winograd.cost import cycles
from tvmquant.schedules.winograd.operands import Operands, byte_operands
from tvmquant.schedules.winograd.plan import Plan
from tvmquant.schedules.workload import Workload

# Tile sizes and kinds of operands.
METHODS = tuple((size, kind) for kind in ("words", "bytes") for size in ALGORITHMS)
# The workspaces of one block of tiles should stay in the second-level cache.
_BLOCK_BYTES = 512 << 10
_TRIED_BYTES = (_BLOCK_BYTES // 2, _BLOCK_BYTES, 2 * _BLOCK_BYTES)
_MAX_TRIED = 96
_MAX_ROWS, _MAX_VECTORS = 12, 7


def applies(workload: Workload) -> bool:
    """Whether the layer is a 3×3 convolution of stride 1."""
    return (
        workload.op == "conv2d"
        and workload.w_shape[1:3] == (3, 3)
        and workload.groups == 1
        and (*workload.strides, *workload.dilation) == (1, 1, 1, 1)
    )


def method(workload: Workload, isa: str, size: int, kind: str) -> Plan | None:
    """The smallest plan for a tile size and kind of operands, None if it is not proven exact.

    Parameters
    ----------
    workload : Workload
    isa : str
        See :func:`tvmquant.schedules.winograd.operands.instruction_set`.
    size, kind : int, str
        One of :data:`METHODS`.
    """
    if not applies(workload):
        return None
    algorithm = (SMALL_ALGORITHMS if kind == "bytes" else ALGORITHMS)[size]
    if not outputs_fit(workload, algorithm):
        return None
    ranges = Ranges.of(workload, algorithm)
    operands = byte_operands(isa, ranges.pair_sum) if kind == "bytes" else Operands(isa)
    fits = ranges.fit_bytes if kind == "bytes" else ranges.fit_words
    return Plan(workload, algorithm, operands, 1, 1, 1) if operands and fits else None


def variants(smallest: Plan, sizes: Sequence[int] = (_BLOCK_BYTES,)) -> Iterator[Plan]:
    """All register blocks that the registers hold, with workspaces of up to ``sizes`` bytes."""
    operands = smallest.operands
    for vectors in range(1, _MAX_VECTORS + 1):
        for rows in range(1, _MAX_ROWS + 1):
            needed = rows * vectors + operands.flush * vectors + operands.scratch
            if needed <= operands.registers:
                for size in sizes:
                    yield _blocked(smallest, rows, vectors, size)


def _blocked(smallest: Plan, rows: int, vectors: int, size: int) -> Plan:
    """Plan with as many tiles a block as ``size`` bytes hold, in blocks of equal size."""
    plan = replace(smallest, rows=rows, vectors=vectors)
    tile = plan.algorithm.positions * (plan.depth * plan.x_bytes + 4 * plan.lanes)
    most = max(rows, size // tile)
    blocks = -(-plan.tiles // most)
    even = -(-plan.tiles // blocks)
    return replace(plan, block=-(-even // rows) * rows)


def fastest(workload: Workload, isa: str, methods: Iterable[tuple[int, str]]) -> Plan | None:
    """The plan that the model expects to be fastest, None if no method is proven exact."""
    proven = [method(workload, isa, size, kind) for size, kind in methods]
    plans = [plan for smallest in proven if smallest for plan in variants(smallest)]
    return min(plans, key=cycles, default=None)


def space(workload: Workload, isa: str) -> list[Plan]:
    """Plans worth measuring, the most promising first, those of :func:`fastest` among them."""
    proven = [method(workload, isa, *which) for which in METHODS]
    plans = {plan for smallest in proven if smallest for plan in variants(smallest, _TRIED_BYTES)}
    ranked = sorted(plans, key=lambda plan: (cycles(plan), plan.rows, plan.vectors, plan.block))
    return ranked[:_MAX_TRIED]
