"""What a weight-only kernel on tensor cores should cost, and which sizes are worth trying."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

from tvmquant.schedules.cuda.weight_only_plan import Layout, TensorPlan
from tvmquant.schedules.space import ConfigError
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

# Bytes that memory gives a multiprocessor each cycle, at most and when all of them read.
_PORT, _SHARE = 40, 18.5
# Cycles: from memory, to start a block, of a launch before; to make the digits of 128 activations.
_LATENCY, _START, _LAUNCH, _DIGITS = 800, 1500, 4000, 22
_BOTH = 4


def cycles(plan: TensorPlan) -> float:
    """Relative time that a plain model expects of a multiprocessor."""
    lay, each = plan.layout, plan.arch.multiprocessors
    waves = -(-plan.blocks * plan.row_blocks // each)
    tiles = waves * plan.items * plan.tiles * plan.warps_m
    weights = tiles * lay.tile_bytes
    # Blocks of other rows find the weights in the cache, at little more speed.
    share = lay.tiles * lay.tile_bytes * (1 + 0.7 * (plan.row_blocks - 1)) / each
    flying = plan.threads * 16 * plan.tiles * lay.loads * plan.ahead
    products = _unit_instructions(plan) * lay.span_units * -(-lay.spans // plan.warps_k)
    own_spans = -(-lay.spans // (plan.warps_k * plan.ahead)) * plan.ahead
    # A warp issues every other cycle at most, and waits for its products.
    alone = products * plan.tiles * 2 + (lay.unit + 90) * lay.span_units * own_spans
    products *= tiles * plan.warps_k
    wholly = plan.chunks == 1
    made = 1 if wholly else plan.items
    pieces = waves * made * plan.rows * lay.spans * lay.span / 128
    # One warp's digits: reading four pieces takes as long as one.
    digits = pieces * max(_DIGITS, (_LATENCY / 4 + 120) / (plan.threads / 32))
    if plan.launches == 2:
        digits = pieces * 512 / _PORT
    busy = max(products / 3, alone * plan.items * waves)
    memory = max(weights / _PORT, share / _SHARE, weights * _LATENCY / flying)
    late = digits + _LATENCY if wholly else _LATENCY
    # Digits in chunks: at every one of them warps wait for each other.
    rest = busy if wholly else 1.1 * busy if plan.launches == 2 else 1.1 * (busy + digits)
    rest = max(memory * (1 - min(1, flying / weights)), rest)
    # The longer one of both, and some of the other.
    both = (memory**_BOTH + (late + rest) ** _BOTH) ** (1 / _BOTH)
    launch = _LAUNCH if plan.launches == 2 else 0
    return launch + waves * _START + both + 100 * plan.items


def _unit_instructions(plan: TensorPlan) -> float:
    """Of a tile and a unit: unpacking, products, what a unit's sums cost."""
    steps, pairs = plan.layout.unit // 32, max(1, plan.rows // 2)
    unpack = {8: 0, 4: 6, 2: 7}[plan.layout.bits] * steps
    sums = 14 if plan.zero_points else 10
    # Loops and addresses.
    around = 3 + 50 / (plan.ahead * plan.tiles)
    return unpack + around + pairs * (steps + sums + (steps + 1) / plan.tiles)


def plans(workload: Workload, arch: Arch) -> Iterator[TensorPlan]:
    """All sizes worth trying, unordered."""
    layout, batch = Layout.of(workload), workload.x_shape[0]
    even = batch if batch == 1 else -(-batch // 2) * 2
    heights = {1} if batch == 1 else {min(even, n) for n in (2, 4, 8, 16, 32)}
    for tiles, warps_m, warps_k, ahead, rows, launches in itertools.product(
        (1, 2, 4), (1, 2, 4), (1, 2, 4, 8, 16), (1, 2, 3, 4, 8), sorted(heights), (1, 2)
    ):
        if tiles * warps_m > layout.tiles or warps_k > layout.spans:
            continue
        base = (layout, arch, batch, workload.zero_points)
        plan = TensorPlan(*base, tiles, warps_m, warps_k, ahead, rows, launches)
        # Weights beyond the last ones are not asked for.
        if ahead > 1 and ahead > -(-layout.spans // warps_k):
            continue
        try:
            plan.check()
        except ConfigError:
            continue
        yield plan


@lru_cache(maxsize=256)
def choose(workload: Workload, arch: Arch) -> TensorPlan | None:
    """Sizes that the model likes best."""
    return min(plans(workload, arch), key=cycles, default=None)
