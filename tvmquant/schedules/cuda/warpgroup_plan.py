"""Sizes of kernels on Hopper's products of four warps, and which of them to use."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from tvmquant.schedules.cuda.plan import products_of, stored_bits
from tvmquant.schedules.cuda.tiles import outputs_of, rows_of, vector_of
from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

SIZES = ("block_m", "block_n", "block_k", "warp_m", "warp_n", "stages")
# Rows of a product, and the columns that products of bytes may have (PTX ISA, wgmma.mma_async).
ROWS = 64
COLUMNS = (8, 16, 24, *range(32, 257, 16))
# Threads of a warpgroup, and how the warpgroups of a block share its pixels and channels.
_THREADS = 128
_GROUPS = ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (2, 2), (1, 4), (4, 1))
_WIDTHS = (32, 64, 96, 128, 160, 192, 224, 256)
# Slots start where the pattern of the swizzle does.
ALIGNMENT = 1024
# Multiply-accumulates of a cycle and multiprocessor; bytes of the cache and of shared memory.
_RATE, _GLOBAL, _SHARED = 4096, 32, 128
# Instructions of a thread for every slot, to bring a vector of bytes in, or a single byte, to
# requantize an output; cycles of one warp alone for one of them.
_SLOT, _COPY, _BYTE, _OUTPUT, _ALONE = 60, 8, 25, 9, 3
# Cycles: from global memory; between the products of two slots, if all threads meet there and if
# they only wait for producers; before the first product.
_MEMORY_LATENCY, _BARRIER, _HANDOVER, _START = 500, 60, 20, 600
# Registers that a thread may have, and those that everything but the tile needs.
_REGISTERS, _FILE, _OVERHEAD = 216, 65536, 40
# Those that producers keep beside their rows, where the others need theirs; most for the rows.
_LEFT, _ROWS = 24, 48
# Registers that a product names beside its sums, and what lies around them.
_NAMED = 30


@dataclass(frozen=True)
class WarpgroupPlan:
    """Sizes of a kernel.

    Attributes
    ----------
    w_bits : int
        Bits of a stored weight; fewer than 8 are unpacked in registers.
    block_m, block_n : int
        Outputs of a block: pixels and channels.
    block_k : int
        Elements of K in a slot of shared memory: 64 or 128.
    warp_m, warp_n : int
        Outputs of a warpgroup; channels are a multiple of 64.
    stages : int
        Slots.
    producers : int
        Warpgroups, none or one, that only bring slots in for the others.
    source : str
        Where products take weights from: ``registers`` or ``shared`` memory.
    """

    w_bits: int
    block_m: int
    block_n: int
    block_k: int
    warp_m: int
    warp_n: int
    stages: int
    producers: int = 0
    source: str = "registers"

    @property
    def packed(self) -> bool:
        """Whether another kernel packs the activations: never."""
        return False

    @property
    def threads(self) -> int:
        """Threads of a block."""
        groups = (self.block_m // self.warp_m) * (self.block_n // self.warp_n)
        return _THREADS * (groups + self.producers)

    @property
    def feeding(self) -> int:
        """Threads that bring slots in."""
        return _THREADS if self.producers else self.threads

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in a slot."""
        return self.block_n * self.block_k * self.w_bits // 8

    @property
    def parts(self) -> int:
        """Parts of a slot's K whose products are waited for together."""
        return 2 if self.source == "registers" else 1

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: slots and two barriers for each, later a tile of bytes."""
        slots = self.stages * (self.block_m * self.block_k + self.weight_bytes + 16)
        return ALIGNMENT + max(slots, self.block_m * (self.block_n + 16))

    def check(self, arch: Arch) -> None:
        """Raise ``ConfigError`` where sizes do not fit each other or the architecture."""
        if not arch.wgmma:
            raise ConfigError(f"{arch.name} ({arch.about}) has no products of four warps")
        fits = (
            self.block_m % self.warp_m == 0
            and self.block_n % self.warp_n == 0
            and self.warp_m in COLUMNS
            and self.warp_n % ROWS == 0
            and self.block_k in (64, 128)
            # A thread's weights of a part are whole words.
            and (self.source == "shared" or self.block_k * self.w_bits >= 128)
            and (self.w_bits == 8 or self.source == "registers")
            and self.stages >= 3
            and self.producers in (0, 1)
            and self.threads <= 1024
            and self.shared_bytes <= arch.shared_bytes
        )
        if not fits:
            raise ConfigError(f"sizes {self} do not fit {arch.name}")

    def with_config(self, config: Config) -> WarpgroupPlan:
        """Other sizes.

        Raises
        ------
        ConfigError
            If sizes are missing.
        """
        config = dict(config)
        source = config.pop("source", self.source)
        if source not in ("registers", "shared"):
            raise ConfigError(f"weights come from registers or shared memory, not {source!r}")
        producers = config.pop("producers", 0)
        sizes = dict(zip(SIZES, integers(config, *SIZES)))
        return replace(self, source=source, producers=producers, **sizes)

    @property
    def config(self) -> Config:
        """Sizes as plain data."""
        sizes = {name: getattr(self, name) for name in SIZES}
        return {"source": self.source, "producers": self.producers, **sizes}


def warpgroup_plans(workload: Workload, arch: Arch) -> Iterator[WarpgroupPlan]:
    """All sizes worth trying, unordered."""
    if not arch.wgmma or "U8S8" not in products_of(workload, arch):
        return
    w_bits = stored_bits("U8S8", workload)
    outputs = outputs_of(workload)
    sources = ("registers", "shared") if w_bits == 8 else ("registers",)
    for (groups_m, groups_n), warp_m, tiles in itertools.product(_GROUPS, _WIDTHS, (1, 2)):
        warp_n = tiles * ROWS
        block_m, block_n = groups_m * warp_m, groups_n * warp_n
        # Channels and pixels that nobody has would fill whole warpgroups.
        if block_n - warp_n >= outputs or block_m - warp_m >= rows_of(workload):
            continue
        tile = WarpgroupPlan(w_bits, block_m, block_n, 128, warp_m, warp_n, 3)
        rest = itertools.product((64, 128), (3, 4, 5, 6), (0, 1), sources)
        for block_k, stages, producers, source in rest:
            plan = replace(tile, block_k=block_k, stages=stages, producers=producers, source=source)
            if _fits(workload, plan, arch):
                yield plan


@lru_cache(maxsize=16)
def known_warpgroup_plans(workload: Workload, arch: Arch) -> frozenset[WarpgroupPlan]:
    """The same, to look one up."""
    return frozenset(warpgroup_plans(workload, arch))


def _fits(workload: Workload, plan: WarpgroupPlan, arch: Arch) -> bool:
    try:
        plan.check(arch)
    except ConfigError:
        return False
    vectors = plan.block_k // vector_of(workload, plan)
    if plan.feeding % vectors or plan.block_m % (plan.feeding // vectors):
        return False
    # One product names all its registers, and ptxas wants them before any are moved.
    if plan.warp_m // 2 + _NAMED > _most(plan):
        return False
    needed = warpgroup_registers(workload, plan)
    return needed <= min(_REGISTERS, max(_most(plan), moved_registers(workload, plan)[1]))


def _most(plan: WarpgroupPlan) -> int:
    """Registers that every thread can have; they are given out by eight."""
    return _FILE // plan.threads // 8 * 8


def moved_registers(workload: Workload, plan: WarpgroupPlan) -> tuple[int, int]:
    """Registers of producers and of those that multiply, where these need more; else zeros."""
    rows = _row_registers(workload, plan)
    enough = warpgroup_registers(workload, plan) <= _most(plan)
    if not plan.producers or enough or rows > _ROWS:
        return 0, 0
    groups = plan.threads // _THREADS
    if groups > 4:  # too little comes to each
        return 0, 0
    left = max(40, -(-(rows + _LEFT) // 8) * 8)
    return left, (groups * _most(plan) - left) // (groups - 1) // 8 * 8


def _row_registers(workload: Workload, plan: WarpgroupPlan) -> int:
    """Registers that a thread remembers its rows of activations in."""
    vector = vector_of(workload, plan)
    each = 3 if math.prod(workload.x_shape) < 1 << 32 else 6
    return each * (plan.block_m * plan.block_k // vector // plan.feeding) if vector >= 4 else 0


def warpgroup_registers(workload: Workload, plan: WarpgroupPlan) -> int:
    """Registers that a thread is expected to need."""
    tiles = plan.warp_n // ROWS
    weights = tiles * plan.block_k // 8 if plan.source == "registers" else 0
    multiplying, feeding = tiles * plan.warp_m // 2 + weights, _row_registers(workload, plan)
    both = max(multiplying - 8, feeding) if plan.producers else multiplying + feeding
    return both + _OVERHEAD


def estimate_warpgroup(workload: Workload, plan: WarpgroupPlan, arch: Arch) -> float:
    """Relative time that a plain model expects, in the cycles of the other kernels' model."""
    blocks = -(-rows_of(workload) // plan.block_m) * -(-outputs_of(workload) // plan.block_n)
    blocks *= workload.groups
    tile = plan.block_m * plan.block_n
    slots = -(-math.prod(workload.w_shape[1:]) // plan.block_k)
    room = _FILE // (plan.threads * warpgroup_registers(workload, plan))
    resident = max(1, min(arch.blocks_by_memory(plan.shared_bytes), 2048 // plan.threads, room))
    waves = -(-blocks // (arch.multiprocessors * resident))
    busy = min(resident, -(-blocks // arch.multiprocessors))
    copied = plan.block_m * plan.block_k + plan.weight_bytes
    # Every product reads its columns, and its rows where those lie in shared memory, too.
    tiles = plan.block_n // ROWS * (plan.block_m // plan.warp_m)
    rows = ROWS if plan.source == "shared" else ROWS * plan.w_bits / 8
    read = tiles * plan.block_k * (plan.warp_m + rows)
    vector = vector_of(workload, plan)
    vectors = plan.block_m * plan.block_k / vector / plan.feeding
    feeding = vectors * (_COPY if vector >= 4 else _BYTE)
    issued = (plan.threads * _SLOT + plan.feeding * feeding) / 128
    products = tile * plan.block_k / _RATE
    busiest = max(products, (copied + read) / _SHARED, copied / _GLOBAL, issued)
    latency = _MEMORY_LATENCY / (plan.stages - 2)
    if plan.producers:
        slot = max(busiest * busy, latency, feeding * _ALONE) + _HANDOVER
    else:
        slot = max(busiest * busy, latency) + _BARRIER
    # Memory is not equally late each time: more stages are a little better. While a block stores,
    # another one computes.
    slot += latency / 16
    return waves * (slots * slot + _START + tile * _OUTPUT / 128 * max(1, busy / 2))


@lru_cache(maxsize=256)
def choose_warpgroup(workload: Workload, arch: Arch) -> WarpgroupPlan | None:
    """Sizes that the model likes best; ``None`` if the layer cannot have any."""
    return min(
        warpgroup_plans(workload, arch),
        key=lambda plan: estimate_warpgroup(workload, plan, arch),
        default=None,
    )
