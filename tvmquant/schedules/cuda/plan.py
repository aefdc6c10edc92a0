"""How a layer runs on tensor cores: which product of which operands, in which tiles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

# Elements of K that one product of fragments takes.
STEP = {"U8S8": 32, "U4S4": 64, "BITS_XOR": 256, "BITS_AND": 256}
SIZES = ("block_m", "block_n", "block_k", "warp_m", "warp_n", "stages", "slices")
# Largest sizes of blocks whose warps share K: the others have warps enough.
_SLICED = 64
# Multiply-accumulates of a cycle and multiprocessor.
_RATE = {"U8S8": 2048, "U4S4": 4096, "BITS_XOR": 16384, "BITS_AND": 16384}
_FEWEST_FIRST = ("BITS_XOR", "BITS_AND", "U4S4", "U8S8")
# Rows or channels of a block, and the warps that share them.
_HEIGHTS = ((16, 1), (32, 1), (32, 2), (64, 1), (64, 2), (128, 2), (128, 4), (256, 4))
_WIDTHS = ((8, 1), *_HEIGHTS)
# Cycles: from shared memory through the tensor core, from global memory, of a barrier.
_STEP_LATENCY, _MEMORY_LATENCY, _BARRIER = 60, 500, 40
# Registers that a thread may have, and those that everything but the tile needs.
_REGISTERS = 216
_FILE = 65536
_OVERHEAD = 40


@dataclass(frozen=True)
class Plan:
    """Sizes of a kernel.

    Attributes
    ----------
    product : str
        ``U8S8``, ``U4S4``, ``BITS_XOR`` or ``BITS_AND``: what the tensor cores multiply.
    w_bits : int
        Bits of a stored weight; fewer than the product's are unpacked in registers.
    block_m, block_n : int
        Outputs of a block: pixels and channels.
    block_k : int
        Elements of K in a slot of shared memory.
    warp_m, warp_n : int
        Outputs of a warp.
    stages : int
        Slots.
    slices : int
        Sets of warps that have a part of each slot's K and add their sums in the end.
    """

    product: str
    w_bits: int
    block_m: int
    block_n: int
    block_k: int
    warp_m: int
    warp_n: int
    stages: int
    slices: int = 1

    @property
    def threads(self) -> int:
        """Threads of a block."""
        warps = (self.block_m // self.warp_m) * (self.block_n // self.warp_n)
        return 32 * warps * self.slices

    @property
    def step(self) -> int:
        """Elements of K of one product of fragments."""
        return STEP[self.product]

    @property
    def unpacked(self) -> bool:
        """Whether weights of fewer bits become bytes in registers."""
        return self.product == "U8S8" and self.w_bits < 8

    @property
    def granule(self) -> int:
        """Elements of K that whole words of weights come in."""
        return self.step * 4 // self.w_bits if self.unpacked else self.step

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in a slot."""
        return self.block_n * self.block_k * self.w_bits // 8

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: the slots, later the sums of slices and a tile of bytes."""
        slots = self.stages * (self.block_m * self.block_k + self.weight_bytes)
        parts = self.slices * self.block_m * self.block_n * 4 if self.slices > 1 else 0
        return max(slots, parts + self.block_m * (self.block_n + 16))

    def check(self, arch: Arch) -> None:
        """Raise ``ConfigError`` where sizes do not fit each other or the architecture."""
        if self.product not in arch.products:
            raise ConfigError(
                f"the tensor cores of {arch.name} ({arch.about}) do not have {self.product}, they "
                f"only emulate it slowly: use {' or '.join(arch.products)}"
            )
        fits = (
            self.block_m % self.warp_m == 0
            and self.block_n % self.warp_n == 0
            and self.warp_m % 16 == 0
            and self.warp_n % 8 == 0
            and self.block_k % (self.granule * self.slices) == 0
            and self.stages >= 2
            and 32 <= self.threads <= 1024
            and self.weight_bytes % 16 == 0
            and self.shared_bytes <= arch.shared_bytes
        )
        if not fits:
            raise ConfigError(f"sizes {self} do not fit {arch.name}")

    def with_config(self, config: Config, workload: Workload) -> Plan:
        """Another product of a workload, if the configuration names one, at other sizes.

        Raises
        ------
        ConfigError
            If the bits of the workload are too many for the product, or sizes are missing.
        """
        config = dict(config)
        product = config.pop("product", self.product)
        if product not in STEP or not _takes(product, workload):
            raise ConfigError(
                f"{product} cannot multiply {workload.w_bits}-bit weights by "
                f"{workload.x_bits}-bit activations"
            )
        w_bits = _stored_bits(product, workload)
        sizes = dict(zip(SIZES, integers(config, *SIZES)))
        return replace(self, product=product, w_bits=w_bits, **sizes)

    @property
    def config(self) -> Config:
        """Product and sizes as plain data."""
        return {"product": self.product, **{name: getattr(self, name) for name in SIZES}}


def _takes(product: str, workload: Workload) -> bool:
    bits = max(workload.x_bits, workload.w_bits)
    return bits <= {"U8S8": 8, "U4S4": 4}.get(product, 1)


def _stored_bits(product: str, workload: Workload) -> int:
    if product != "U8S8":
        return 4 if product == "U4S4" else 1
    # Unpacked weights lie in the upper bits of their bytes: sums are larger by that much.
    depth = math.prod(workload.w_shape[1:])
    if workload.w_bits < 8 and depth * (2**workload.x_bits - 1) * 128 >= 2**31:
        return 8
    return workload.w_bits


def products_of(workload: Workload, arch: Arch) -> list[str]:
    """Products that the layer can use on this architecture, those of fewest bits first."""
    return [product for product in _FEWEST_FIRST if _usable(product, workload, arch)]


def _usable(product: str, workload: Workload, arch: Arch) -> bool:
    return product in arch.products and _takes(product, workload)


def rows_of(workload: Workload) -> int:
    """Output pixels, or rows of a matrix product."""
    return math.prod(workload.out_shape[:-1])


def vector_of(workload: Workload, plan: Plan) -> int:
    """Bytes of activations that are read together: they lie in one tap of one pixel."""
    channels = workload.x_shape[-1]
    vector = math.gcd(16, channels, channels // workload.groups)
    return vector if vector >= 4 else 1


def plans(workload: Workload, arch: Arch) -> Iterator[Plan]:
    """All sizes worth trying, unordered."""
    for product in products_of(workload, arch):
        base = Plan(product, _stored_bits(product, workload), 16, 8, STEP[product], 16, 8, 2)
        for (block_m, warps_m), (block_n, warps_n) in itertools.product(_HEIGHTS, _WIDTHS):
            tile = replace(
                base,
                block_m=block_m,
                block_n=block_n,
                warp_m=block_m // warps_m,
                warp_n=block_n // warps_n,
            )
            most = 8 if max(block_m, block_n) <= _SLICED else 1
            for slices in (1, 2, 4, 8)[: most.bit_length()]:
                for block_k in _depths(base.granule * slices):
                    for stages in (2, 3, 4):
                        plan = replace(tile, block_k=block_k, slices=slices, stages=stages)
                        if _fits(workload, plan, arch):
                            yield plan


def _depths(unit: int) -> list[int]:
    """Elements of K that a slot may have: multiples of what the warps share."""
    return [k for k in (32, 64, 128, 256, 512, 1024, 2048) if k % unit == 0 and k <= 4 * unit][:3]


def _fits(workload: Workload, plan: Plan, arch: Arch) -> bool:
    try:
        plan.check(arch)
    except ConfigError:
        return False
    vector = vector_of(workload, plan)
    vectors = plan.block_k // vector
    if plan.threads % vectors or plan.block_m % (plan.threads // vectors):
        return False
    if not 2 <= plan.threads // 32 <= 8:
        return False
    return _registers(workload, plan, arch) <= min(_REGISTERS, _FILE // plan.threads)


def _registers(workload: Workload, plan: Plan, arch: Arch) -> int:
    """Registers that a thread is expected to need."""
    vector = vector_of(workload, plan)
    # A thread remembers where its rows lie: an offset, of two words if need be, and coordinates.
    each = 4 if math.prod(workload.x_shape) < 1 << 32 else 8
    rows = plan.block_m * plan.block_k // vector // plan.threads if vector >= 4 else 0
    # Copies pass through registers where they cannot be asynchronous.
    copied = 0 if arch.sm >= 80 else (4 * rows + plan.weight_bytes // (4 * plan.threads)) // 2
    fragments = plan.warp_m // 4 + plan.warp_n // 4
    return plan.warp_m * plan.warp_n // 32 + fragments + each * rows + copied + _OVERHEAD


def estimate(workload: Workload, plan: Plan, arch: Arch) -> float:
    """Relative time that a plain model expects: waves of blocks, their traffic and their waste."""
    outputs = workload.w_shape[0] // workload.groups
    blocks = -(-rows_of(workload) // plan.block_m) * -(-outputs // plan.block_n) * workload.groups
    tile = plan.block_m * plan.block_n
    depth = math.prod(workload.w_shape[1:])
    slots = -(-depth // plan.block_k)
    room = _FILE // (plan.threads * _registers(workload, plan, arch))
    resident = max(1, min(arch.shared_bytes // plan.shared_bytes, 2048 // plan.threads, room, 16))
    waves = -(-blocks // (arch.multiprocessors * resident))
    # Cycles of a slot: products at the rate of one block's share, fragments from shared memory.
    products = tile * plan.block_k / _RATE[plan.product]
    warps = plan.threads // 32 // plan.slices
    fragments = warps * plan.block_k * (plan.warp_m + plan.warp_n * plan.w_bits / 8) / 128
    copies = (plan.block_m * plan.block_k + plan.weight_bytes) / 40
    busy = min(resident, -(-blocks // arch.multiprocessors))
    # A warp's own steps follow each other; memory answers late, if blocks are few.
    steps = plan.block_k / plan.step / plan.slices
    own = steps * (_STEP_LATENCY + plan.warp_m * plan.warp_n / 128 * 4)
    latency = _MEMORY_LATENCY / (plan.stages - 1)
    slot = max(max(products, fragments, copies) * busy, own, latency) + _BARRIER
    sums = plan.slices * tile / 16 if plan.slices > 1 else 0
    return waves * (slots * slot + 400 + (tile / 64 + sums) * busy)


def choose(workload: Workload, arch: Arch) -> Plan | None:
    """Sizes that the model likes best."""
    best = products_of(workload, arch)[0]
    found = (plan for plan in plans(workload, arch) if plan.product == best)
    return min(found, key=lambda plan: estimate(workload, plan, arch), default=None)
