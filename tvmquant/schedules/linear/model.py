"""What the tiles of a layer have to do, and a small model of how long they take."""

from __future__ import annotations

import math

from tvmquant.schedules.linear.geometry import InputPlan
from tvmquant.schedules.linear.isa import InstructionSet

_LEVEL1_WEIGHTS = 24 << 10
# Half cycles: to begin a segment, and for a multiplication in the code, which has to come from
# memory once.
_SEGMENT = 10
_CODE = 20
# Multiplications in the code of all kinds of tiles: TVM takes seconds over more.
_MAX_CODE = 400

# Tiles of one kind: how many there are, their pixels, and (steps of a row of the filter, pixels
# that use them, mean number of such rows).
Work = list[tuple[int, int, list[tuple[int, int, float]]]]


def work(plan: InputPlan, rows: int, columns: int) -> Work:
    """What there is to do for one block of output channels."""
    kinds = []
    for patch in plan.patches(rows, columns):
        segments = [
            (part.count, len(part.pixels), sweep.rows(patch.rows.count))
            for sweep in plan.sweeps(patch)
            for part in sweep.parts
        ]
        kinds.append((patch.rows.count * patch.columns.count, len(patch.pixels), segments))
    return kinds


def image_cost(
    plan: InputPlan, isa: InstructionSet, kinds: Work, blocks: list[int], w_bits: int
) -> float:
    """Half cycles of the whole image; infinite where the code would be too long.

    Parameters
    ----------
    plan : InputPlan
    isa : InstructionSet
    kinds : list
        See :func:`work`.
    blocks : list of int
        Vectors of every block of output channels.
    w_bits : int
    """
    each = {
        vectors: sum(
            tiles * _tile_cost(plan, isa, pixels, segments, vectors, w_bits)
            for tiles, pixels, segments in kinds
        )
        for vectors in set(blocks)
    }
    code = sum(pixels * len(segments) for _, pixels, segments in kinds) * sum(each)
    code *= 8 // max(w_bits, 2)
    if len(kinds) > 1 and code > _MAX_CODE:
        return math.inf
    return sum(each[vectors] for vectors in blocks) + plan.copy_cost + _CODE * code


def _tile_cost(
    plan: InputPlan,
    isa: InstructionSet,
    pixels: int,
    segments: list[tuple[int, int, float]],
    vectors: int,
    w_bits: int,
) -> float:
    """Half cycles of one tile.

    Two multiplications and two loads a cycle, four cycles of latency, half a vector a cycle
    from the second-level cache for weights that the first one cannot hold.
    """
    unpack = 0 if w_bits == 8 else 2 * vectors
    heavy = plan.steps * vectors * isa.lanes[0] * isa.step * w_bits // 8 > _LEVEL1_WEIGHTS
    cost = 6.0 * pixels * vectors + 20
    for steps, used, rows in segments:
        loads = used + isa.weight_cost * vectors
        step = max(isa.multiplies * used * vectors + unpack, loads, 8)
        if heavy:
            step = max(step, 4 * vectors * w_bits // 8)
        cost += rows * (steps * (step + 1 + 0.1 * loads) + _SEGMENT)
    return cost
