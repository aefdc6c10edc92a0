"""How a layer runs on tensor cores: which product of which operands, in which tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

# Elements of K that one product of fragments takes.
STEP = {"U8S8": 32, "U4S4": 64, "BITS_XOR": 256, "BITS_AND": 256}
SIZES = ("block_m", "block_n", "block_k", "warp_m", "warp_n", "stages")
# Registers that a thread may have, and those that everything but the tile needs.
_REGISTERS = 216
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
    """

    product: str
    w_bits: int
    block_m: int
    block_n: int
    block_k: int
    warp_m: int
    warp_n: int
    stages: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * (self.block_m // self.warp_m) * (self.block_n // self.warp_n)

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
        """Shared memory of a block."""
        return self.stages * (self.block_m * self.block_k + self.weight_bytes)

    def check(self, arch: Arch) -> None:
        """Raise ``ConfigError`` where sizes do not fit each other or the architecture."""
        fits = (
            self.block_m % self.warp_m == 0
            and self.block_n % self.warp_n == 0
            and self.warp_m % 16 == 0
            and self.warp_n % 8 == 0
            and self.block_k % self.granule == 0
            and self.stages >= 2
            and 32 <= self.threads <= 1024
            and self.weight_bytes % 16 == 0
            and self.shared_bytes <= arch.shared_bytes
        )
        if not fits:
            raise ConfigError(f"sizes {self} do not fit {arch.name}")

    def with_config(self, config: Config) -> Plan:
        """Other sizes, unchecked."""
        return replace(self, **dict(zip(SIZES, integers(config, *SIZES))))

    @property
    def config(self) -> Config:
        """The sizes as plain data."""
        return {name: getattr(self, name) for name in SIZES}


def product_of(workload: Workload, arch: Arch) -> tuple[str, int] | None:
    """Product and stored weight bits of a layer; ``None`` if int32 sums could overflow.

    Raises
    ------
    ConfigError
        Never; what an architecture only emulates is not chosen.
    """
    if workload.x_bits == workload.w_bits == 1 and arch.bits:
        return f"BITS_{arch.bits.upper()}", 1
    if max(workload.x_bits, workload.w_bits) <= 4 and arch.int4:
        return "U4S4", 4
    # Unpacked weights lie in the upper bits of their bytes: sums are larger by that much.
    depth = math.prod(workload.w_shape[1:])
    if workload.w_bits < 8 and depth * (2**workload.x_bits - 1) * 128 >= 2**31:
        return "U8S8", 8
    return "U8S8", workload.w_bits


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
    product, w_bits = product_of(workload, arch)
    base = Plan(product, w_bits, 16, 8, STEP[product], 16, 8, 2)
    shapes = ((16, 1), (32, 1), (32, 2), (64, 1), (64, 2), (128, 2), (128, 4), (256, 4))
    widths = ((16, 1), (32, 1), (32, 2), (64, 1), (64, 2), (128, 2), (128, 4), (256, 4))
    for block_m, warps_m in shapes:
        for block_n, warps_n in widths:
            for times in (1, 2, 4):
                for stages in (2, 3, 4):
                    plan = replace(
                        base,
                        block_m=block_m,
                        block_n=block_n,
                        block_k=max(base.granule, 32 * times if base.step < 256 else 256),
                        warp_m=block_m // warps_m,
                        warp_n=block_n // warps_n,
                        stages=stages,
                    )
                    if _fits(workload, plan, arch):
                        yield plan


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
    # A thread remembers where its rows lie: an address and two coordinates.
    rows = plan.block_m * vectors // plan.threads if vector >= 4 else 0
    fragments = plan.warp_m // 4 + plan.warp_n // 4
    registers = plan.warp_m * plan.warp_n // 32 + fragments + 4 * rows + _OVERHEAD
    return registers <= min(_REGISTERS, 65536 // plan.threads)


def estimate(workload: Workload, plan: Plan, arch: Arch) -> float:
    """Relative time that a plain model expects: waves of blocks, their traffic and their waste."""
    outputs = workload.w_shape[0] // workload.groups
    blocks = -(-rows_of(workload) // plan.block_m) * -(-outputs // plan.block_n) * workload.groups
    depth = math.prod(workload.w_shape[1:])
    slots = -(-depth // plan.block_k)
    resident = max(1, min(arch.shared_bytes // plan.shared_bytes, 2048 // plan.threads, 16))
    waves = -(-blocks // (arch.multiprocessors * resident))
    # Cycles of a slot: products at the rate of one block's share, fragments from shared memory.
    products = plan.block_m * plan.block_n * plan.block_k / (8192 if plan.step == 32 else 16384)
    warps = plan.threads // 32
    fragments = warps * plan.block_k * (plan.warp_m + plan.warp_n * plan.w_bits / 8) / 128
    copies = (plan.block_m * plan.block_k + plan.weight_bytes) / 64
    busy = min(resident, -(-blocks // arch.multiprocessors))
    slot = max(products, fragments, copies) * busy + 60 / min(plan.stages - 1, 3)
    return waves * (slots * slot + 400 + plan.block_m * plan.block_n / 64 * busy)


def choose(workload: Workload, arch: Arch) -> Plan | None:
    """Sizes that the model likes best."""
    if product_of(workload, arch) is None:
        return None
    return min(plans(workload, arch), key=lambda plan: estimate(workload, plan, arch), default=None)
