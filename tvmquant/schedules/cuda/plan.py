"""How a layer runs on tensor cores: which product of which operands, in which tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

# Elements of K that one product of fragments takes.
STEP = {"U8S8": 32, "U4S4": 64, "BITS_XOR": 256, "BITS_AND": 256}
SIZES = ("block_m", "block_n", "block_k", "warp_m", "warp_n", "stages", "slices", "splits")
# Bits of an operand of a product.
OPERAND_BITS = {"U8S8": 8, "U4S4": 4, "BITS_XOR": 1, "BITS_AND": 1}
_FEWEST_FIRST = ("BITS_XOR", "BITS_AND", "U4S4", "U8S8")


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
    splits : int
        Sets of blocks that have a part of K; another kernel adds their sums.
    packed : bool
        Whether another kernel before packs the activations: as many bits as the product takes,
        channels padded to whole words.
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
    splits: int = 1
    packed: bool = False

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
    def element_bits(self) -> int:
        """Bits of an activation in shared memory."""
        return OPERAND_BITS[self.product] if self.packed else 8

    @property
    def row_bytes(self) -> int:
        """Bytes of activations in a slot, of one row."""
        return self.block_k * self.element_bits // 8

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights in a slot."""
        return self.block_n * self.block_k * self.w_bits // 8

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block: the slots, later the sums of slices and a tile of bytes."""
        slots = self.stages * (self.block_m * self.row_bytes + self.weight_bytes)
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
        w_bits, packed = stored_bits(product, workload), bool(config.pop("packed", False))
        sizes = dict(zip(SIZES, integers(config, *SIZES)))
        return replace(self, product=product, w_bits=w_bits, packed=packed, **sizes)

    @property
    def config(self) -> Config:
        """Product and sizes as plain data."""
        sizes = {name: getattr(self, name) for name in SIZES}
        return {"product": self.product, "packed": self.packed, **sizes}


def _takes(product: str, workload: Workload) -> bool:
    return max(workload.x_bits, workload.w_bits) <= OPERAND_BITS[product]


def stored_bits(product: str, workload: Workload) -> int:
    """Bits that a weight has in memory."""
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
