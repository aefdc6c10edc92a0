"""What a weight-only kernel on tensor cores should cost, and which sizes are worth trying."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

from tvmquant.schedules.cuda.weight_only_plan import Layout, TensorPlan
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

# Bytes that a multiprocessor gets each cycle: at most, and when all of them read, from the second
# cache and from memory.
_PORT, _CACHE, _SHARE = 40, 26, 18.5
# Cycles: from memory when all read, from its cache, to add the sums of warps; to make the digits
# of 128 activations, by many warps and by one (four times as many are read together).
_FLIGHT, _LATENCY, _TAIL, _DIGITS, _DIGITS_ALONE = 1500, 800, 400, 22, 170
# To start a block; of one more launch. Then the same where launches start while the one before
# still runs: the next one's blocks have room beside this one's, or have not.
_START, _LAUNCH = 1500, 4000
_BESIDE, _BEHIND, _NEXT = 300, 1400, 1500
# A multiprocessor issues so many instructions a cycle, and takes so long for a product: not all
# that it could do.
_ISSUED, _PRODUCT = 3.2, 1.6
_BOTH = 4
# Warps of a block at least, where there is work for so many.
_WARPS = 4


def cycles(plan: TensorPlan) -> float:
    """Relative time that a plain model expects of a multiprocessor.

    It is that of one kernel behind others of its kind, as in a network.
    """
    lay, each = plan.layout, plan.arch.multiprocessors
    waves = -(-plan.grid_blocks // each)
    tiles = waves * plan.items * plan.tiles * plan.warps_m
    part = plan.part / lay.spans
    weights = tiles * lay.tile_bytes * part
    # Blocks of other rows find the weights in the cache. Every block reads digits.
    outputs = plan.batch * lay.tiles * 16 * 4 * (2 * plan.splits if plan.splits > 1 else 1)
    cached = lay.tiles * lay.tile_bytes * plan.row_blocks + plan.copied + outputs
    memory = max(
        weights / _PORT,
        cached / each / _CACHE,
        lay.tiles * lay.tile_bytes / each / _SHARE,
    )
    early, reach = plan.early, plan.flying * plan.reach
    streamed = max(memory, weights * _FLIGHT / min(reach, 4 * plan.flying))
    busy, digits = _busy(plan, tiles, waves), _digits(plan, waves)
    wholly = plan.chunks == 1
    # Digits in chunks: at every one of them warps wait for each other.
    rest = busy if wholly else 1.1 * busy if plan.launches == 2 else 1.1 * (busy + digits)
    rest = max(streamed * (1 - min(1, reach / weights)), rest)
    chain = (digits if wholly else 0) + _LATENCY + rest + _TAIL * plan.items
    # The longer one of both, and some of the other.
    both = (streamed**_BOTH + chain**_BOTH) ** (1 / _BOTH)
    start = (_BESIDE if plan.resident > 1 else _BEHIND) if early else _START
    launches = (plan.launches - 1) + (plan.splits > 1)
    return launches * (_NEXT if early else _LAUNCH) + waves * start + both


def _busy(plan: TensorPlan, tiles: int, waves: int) -> float:
    """Cycles of products and what belongs to them."""
    lay = plan.layout
    units = lay.span_units * -(-plan.part // plan.warps_k)
    each, products = _unit_instructions(plan)
    all_units = units * tiles * plan.warps_k
    spans = -(-plan.part // (plan.warps_k * plan.ahead)) * plan.ahead
    # A warp issues every other cycle at most, and waits for its products.
    alone = each * units * plan.tiles * 2 + (lay.unit + 90) * lay.span_units * spans
    alone *= plan.items * waves
    return max(all_units * each / _ISSUED, all_units * products * _PRODUCT, alone)


def _digits(plan: TensorPlan, waves: int) -> float:
    """Cycles in which a block makes or copies its digits."""
    made = 1 if plan.chunks == 1 else plan.items
    if plan.launches == 2:
        return waves * made * plan.chunks * plan.digit_bytes(plan.rounds) / _PORT
    pieces = waves * made * plan.rows * plan.part * plan.layout.span / 128
    return pieces * max(_DIGITS, _DIGITS_ALONE / (plan.threads / 32))


def _unit_instructions(plan: TensorPlan) -> tuple[float, int]:
    """Of a tile and a unit: unpacking, products, what a unit's sums cost; how many products."""
    steps, tiles = plan.layout.unit // 32, plan.tiles
    unpack = {8: 0, 4: 6, 2: 7}[plan.layout.bits] * steps
    # Loops and addresses.
    around = 3 + (50 + 10 * (plan.reach > 1)) / (plan.ahead * tiles)
    # Whether there is another span is asked everywhere, if that is not the same for all warps.
    around += 4 * (plan.part % (plan.warps_k * plan.ahead) > 0)
    if plan.planes:
        sets, sums, reads = plan.rows // 8 * 3, 16 + 4 * plan.zero_points, (3 * steps + 2) / tiles
        groups = plan.rows // 8
    else:
        sets = groups = max(1, plan.rows // 2)
        sums, reads = 6 + 2 * plan.zero_points, (steps + 1) / tiles
    products = sets * steps
    return unpack + around + products + groups * (sums + reads), products


def plans(workload: Workload, arch: Arch) -> Iterator[TensorPlan]:
    """All sizes worth trying, unordered."""
    layout, batch = Layout.of(workload), workload.x_shape[0]
    # Two or four rows, or eights of them; no more than twice what is needed.
    heights = {1} if batch == 1 else {n for n in (2, 4, 8, 16, 24, 32) if n < 2 * batch}
    base = (layout, arch, batch, workload.zero_points)
    for tiles, warps_m, warps_k, ahead, rows in itertools.product(
        (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16), (1, 2, 3, 4, 8), sorted(heights)
    ):
        if tiles * warps_m > layout.tiles or warps_k > layout.spans:
            continue
        more = 2 * warps_k <= layout.spans or 2 * tiles * warps_m <= layout.tiles
        if warps_m * warps_k < _WARPS and more:
            continue
        whole = TensorPlan(*base, tiles, warps_m, warps_k, ahead, rows)
        for splits, launches in itertools.product(_splits(whole), (1, 2)):
            own = -(-layout.spans // splits)
            # Weights beyond the last ones are not asked for.
            if warps_k > own or (ahead > 1 and ahead > -(-own // warps_k)):
                continue
            for reach in _reaches(own / (warps_k * ahead), arch):
                sizes = (
                    tiles,
                    warps_m,
                    warps_k,
                    ahead,
                    rows,
                    launches,
                    splits,
                    reach,
                    arch.sm >= 90,
                )
                plan = TensorPlan(*base, *sizes)
                try:
                    plan.check()
                except ConfigError:
                    continue
                yield plan


def _splits(plan: TensorPlan) -> list[int]:
    """Parts of K, where the channels alone do not keep all multiprocessors busy."""
    room = plan.arch.multiprocessors // (plan.places * plan.row_blocks)
    return [1, *(n for n in (2, 4, 8) if n <= min(room, plan.layout.spans // 2))]


def _reaches(rounds: float, arch: Arch) -> list[int]:
    """How far ahead the second cache may be."""
    return [1, *(n for n in (2, 4) if arch.sm >= 90 and n < rounds + 1)]


@lru_cache(maxsize=256)
def choose(workload: Workload, arch: Arch) -> TensorPlan | None:
    """Sizes that the model likes best."""
    return min(plans(workload, arch), key=cycles, default=None)
