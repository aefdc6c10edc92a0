"""How long the direct kernel takes: for choosing between weights of several bits, and families.

The model of :mod:`tvmquant.schedules.linear.tiling` chooses sizes for given weights. This one
compares: it knows what unpacking hides behind, and that weights which leave the nearest cache slow
a tile down. Its constants were fitted on measurements of 96 layers of an AVX512 processor and as
many with its 256-bit instructions only.
"""

from __future__ import annotations

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
    tile = sum(count * _tile(plan, vectors) for vectors, count in blocks if count)
    scale = _SCALE if bits == 8 else _SUB_BYTE_SCALE.get(plan.isa.name, _SCALE)
    return tile * tiling.tiles(g) * g.images * g.groups / 2 * scale


def _tile(plan: Plan, vectors: int) -> float:
    """Half cycles of one register tile."""
    isa, bits, steps = plan.isa, plan.workload.w_bits, plan.input.steps
    pixels = plan.tiling.rows * plan.tiling.columns
    loads = pixels + isa.weight_cost * vectors
    step = max(isa.multiplies * pixels * vectors, loads, 8)
    wide = isa.lanes[0] == 16
    if bits < 8:
        step += (_UNPACK_512 if wide else _UNPACK) * vectors
    if steps * vectors * isa.lanes[0] * isa.step * bits // 8 > _LEVEL1_BYTES:
        far = _FAR * vectors * bits / 8
        # Vectors of a whole cache line keep the multipliers waiting, halves come in time.
        step = step + far if wide else max(step, far)
    return steps * (step + 1 + 0.1 * loads) + 6 * pixels * vectors + 20
