"""How long the direct kernel takes: for choosing between weights of several bits, and families.

The model of :mod:`tvmquant.schedules.linear.model` chooses sizes for given weights. This one
compares: it knows what unpacking hides behind, and that weights which leave the nearest cache slow
a tile down. Its constants were fitted on measurements of 96 layers of an AVX512 processor and as
many with its 256-bit instructions only.
"""

from __future__ import annotations

from tvmquant.schedules.linear.model import work
from tvmquant.schedules.linear.plan import Plan

_UNPACK = 2.0  # half cycles a vector of sub-byte weights
_UNPACK_512 = 0.5
_LEVEL1_BYTES = 40 << 10
_FAR = 4.0  # a vector of 8-bit weights from the second-level cache
# Measured cycles over those of the model.
_SCALE, _SUB_BYTE_SCALE = 0.93, {"avx2_maddubs": 1.05}


def cycles(plan: Plan) -> float:
    """Expected cycles of the whole layer on one core."""
    tiling, g, bits = plan.tiling, plan.input.geometry, plan.workload.w_bits
    blocks = [(len(tiling.vectors), tiling.full_blocks), (len(tiling.tail), bool(tiling.tail))]
    image = sum(
        count * tiles * _tile(plan, vectors, pixels, segments)
        for vectors, count in blocks
        if count
        for tiles, pixels, segments in work(plan.input, tiling.rows, tiling.columns)
    )
    scale = _SCALE if bits == 8 else _SUB_BYTE_SCALE.get(plan.isa.name, _SCALE)
    return image * g.images * g.groups / 2 * scale


def _tile(plan: Plan, vectors: int, pixels: int, segments: list[tuple[int, int, float]]) -> float:
    """Half cycles of one register tile."""
    isa, bits = plan.isa, plan.workload.w_bits
    wide = isa.lanes[0] == 16
    block = plan.input.steps * vectors * isa.lanes[0] * isa.step * bits // 8
    cost = 6.0 * pixels * vectors + 20
    for steps, used, rows in segments:
        loads = used + isa.weight_cost * vectors
        step = max(isa.multiplies * used * vectors, loads, 8)
        if bits < 8:
            step += (_UNPACK_512 if wide else _UNPACK) * vectors
        if block > _LEVEL1_BYTES:
            far = _FAR * vectors * bits / 8
            # Vectors of a whole cache line keep the multipliers waiting, halves come in time.
            step = step + far if wide else max(step, far)
        cost += rows * steps * (step + 1 + 0.1 * loads)
    return cost
