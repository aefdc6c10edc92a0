"""Sizes of the weight-only kernel on tensor cores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from tvmquant.schedules.space import Config, ConfigError, integers
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import Arch

SIZES = ("tiles", "warps_m", "warps_k", "ahead", "rows", "launches", "splits", "reach")
# Elements of K with one step of activations: sums of so many products fit 23 bits.
_UNITS = (128, 64, 32)
# Longer units are worth this share of padding.
_PADDING = 1 / 16
# Registers of a multiprocessor, of a thread at most.
_FILE, _REGISTERS = 65536, 212
# Shared memory that the GPU keeps of each block; of digits that are copied together.
_RESERVED, _CHUNK = 1024, 32 << 10


@dataclass(frozen=True)
class Layout:
    """How the weights of a layer lie, whatever the sizes of its kernel.

    Attributes
    ----------
    tiles : int
        Sixteen output channels each.
    depth, group, groups : int
        K, inputs that share a scale, how many such groups.
    unit : int
        Inputs whose sums are exact.
    group_units, span_units : int
        Units of a group; of a span, which is what whole vectors of weights hold.
    spans : int
    bits : int
        Of a weight.
    """

    tiles: int
    depth: int
    group: int
    groups: int
    unit: int
    group_units: int
    span_units: int
    spans: int
    bits: int

    @classmethod
    def of(cls, workload: Workload) -> Layout:
        """Layout of a ``matmul_weight_only``."""
        (outputs, depth), bits = workload.w_shape, workload.w_bits
        group = min(workload.group_size or depth, depth)
        groups = -(-depth // group)
        least = -(-group // _UNITS[-1]) * _UNITS[-1]
        unit = next(u for u in _UNITS if -(-group // u) * u <= least * (1 + _PADDING))
        units = -(-group // unit)
        span_units = max(1, 256 // bits // unit)
        spans = -(-groups * units // span_units)
        tiles = -(-outputs // 16)
        return cls(tiles, depth, group, groups, unit, units, span_units, spans, bits)

    @property
    def span(self) -> int:
        """Elements of K in a span."""
        return self.unit * self.span_units

    @property
    def loads(self) -> int:
        """Vectors of 16 bytes that a lane reads of a span of a tile."""
        return self.span * self.bits // 256

    @property
    def tile_bytes(self) -> int:
        """Bytes of the weights and scales of a tile."""
        return self.spans * self.loads * 512 + self.groups * 64


@dataclass(frozen=True)
class TensorPlan:
    """Sizes of a kernel.

    Attributes
    ----------
    layout : Layout
    arch : Arch
    batch : int
        Rows of activations.
    zero_points : bool
    tiles : int
        Tiles of sixteen channels of a warp.
    warps_m, warps_k : int
        Warps with channels of their own, and those that share K.
    ahead : int
        Spans whose weights are on their way.
    rows : int
        Rows of activations of a block: 1, even, or, as planes of digits, a multiple of 8.
    launches : int
        1 where every block makes the digits of its activations, 2 where a launch before does.
    splits : int
        Parts of K of different blocks, which another launch adds.
    reach : int
        How far ahead weights are asked for, in times of what registers hold: more than once goes
        to the second cache.
    early : bool
        Whether launches start while the one before still runs.
    """

    layout: Layout
    arch: Arch
    batch: int
    zero_points: bool
    tiles: int
    warps_m: int
    warps_k: int
    ahead: int
    rows: int
    launches: int = 1
    splits: int = 1
    reach: int = 1
    early: bool = False

    @property
    def config(self) -> Config:
        """Sizes as plain data."""
        return {**{name: getattr(self, name) for name in SIZES}, "early": self.early}

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.warps_m * self.warps_k

    @property
    def places(self) -> int:
        """Blocks that would have all channels if each took one tile a warp."""
        return -(-self.layout.tiles // (self.tiles * self.warps_m))

    @property
    def items(self) -> int:
        """Places that a block goes through, so that each multiprocessor has one block."""
        return -(-self.places // max(1, self.arch.multiprocessors // self.splits))

    @property
    def blocks(self) -> int:
        """Blocks along the channels."""
        return -(-self.places // self.items)

    @property
    def row_blocks(self) -> int:
        """Blocks along the rows of activations."""
        return -(-self.batch // self.rows)

    @property
    def grid_blocks(self) -> int:
        """All blocks."""
        return self.blocks * self.row_blocks * self.splits

    @property
    def part(self) -> int:
        """Spans of a block."""
        return -(-self.layout.spans // self.splits)

    @property
    def planes(self) -> bool:
        """Whether products have one digit of eight rows, or all digits of one or two."""
        return self.rows % 8 == 0

    @property
    def flying(self) -> int:
        """Bytes of weights that a block's registers wait for."""
        return self.threads * 16 * self.tiles * self.layout.loads * self.ahead

    @cached_property
    def rounds(self) -> int:
        """Spans of a warp whose digits are in shared memory together; 0 where none fit."""
        needed, step = -(-self.part // self.warps_k), self.ahead
        whole = -(-needed // step) * step
        # Digits that another launch has made come beside the products, where they are many.
        apart = self.launches == 2 and self.digit_bytes(whole) > 2 * _CHUNK
        if not apart and self._memory(whole, 1) <= self.arch.shared_bytes:
            return whole
        sums = 0 if self.items == 1 else 2 * self._sums
        most = (self.arch.shared_bytes - sums) // 2
        # Without what fills up 16 bytes.
        spans = (min(most, _CHUNK) if apart else most) // 16 * 16 // self._span_bytes
        fitting = min(spans // self.warps_k // step * step, whole - step)
        if self._memory(fitting, 2) > self.arch.shared_bytes:
            return 0
        # Chunks that are all as long, if there are such.
        even = (n for n in range(fitting, fitting // 2, -step) if apart and needed % n == 0)
        return next(even, fitting)

    @property
    def chunks(self) -> int:
        """How often digits are made for a block's part of K."""
        return -(-self.part // (self.warps_k * self.rounds))

    @cached_property
    def _span_bytes(self) -> int:
        """Bytes of the digits of a span."""
        per_unit = 16 + (4 if self.planes else 8) * self.zero_points
        digits = 3 if self.planes else 4
        return (self.layout.span * digits + self.layout.span_units * per_unit) * self.rows

    def digit_bytes(self, rounds: int) -> int:
        """Bytes of the digits of so many spans of every warp that shares K."""
        return -(-min(rounds * self.warps_k, self.part) * self._span_bytes // 16) * 16

    @property
    def copied(self) -> int:
        """Bytes of digits that all blocks have in the end."""
        again = self.items if self.chunks > 1 else 1
        return self.grid_blocks * again * self.chunks * self.digit_bytes(self.rounds)

    @property
    def _sums(self) -> int:
        """Bytes of the sums of warps."""
        return self.warps_k * self.rows * self.tiles * self.warps_m * 16 * 4

    def _memory(self, rounds: int, slots: int) -> int:
        """Shared memory with so many slots of digits; the sums of warps may take their place."""
        digits = slots * self.digit_bytes(rounds)
        return max(digits, self._sums) if self.items == 1 else digits + 2 * self._sums

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a block."""
        return self._memory(self.rounds, 2 if self.chunks > 1 else 1)

    @property
    def registers(self) -> int:
        """Registers that a thread is expected to need."""
        lay = self.layout
        span = lay.loads * 4 + lay.span_units * (4 if self.zero_points else 2)
        unpacked = 0 if lay.bits == 8 else lay.unit // 8
        if self.rows == 1:
            tile, more = self.ahead * span + 6 + unpacked // 2, 30
        elif self.planes:
            tile = self.ahead * span * 5 // 4 + self.rows * 5 // 4 - 5 + unpacked
            more = 52 + 12 * (self.reach > 1) + 16 * (self.chunks > 1)
        else:
            tile, more = self.ahead * span + self.rows + 4 + unpacked, 58
            # Digits that are made beside the sums.
            more += 8 * (self.chunks > 1 and self.launches == 1)
        return self.tiles * tile + more + 12 * (self.rows > 1 and self.zero_points)

    @property
    def resident(self) -> int:
        """Blocks of a multiprocessor: with two, the next launch starts while this one ends."""
        memory = 2 * (self.shared_bytes + _RESERVED) <= self.arch.shared_bytes + _RESERVED
        registers = 2 * self.threads * self.registers <= _FILE
        return 2 if memory and registers and self.threads <= 512 else 1

    def check(self) -> None:
        """Raise ``ConfigError`` where sizes do not fit each other or the architecture."""
        fits = (
            32 <= self.threads <= 512
            and self.launches <= 2
            and self.reach <= 64
            and (self.arch.sm >= 90 or not self.early)
            # Every part has a span.
            and (self.splits - 1) * self.part < self.layout.spans
            and (self.rows == 1 or self.rows % 2 == 0)
            and self.roundings <= self.layout.group + self.layout.groups + 6
            and self.rounds > 0
            and self.registers <= min(_REGISTERS, _FILE // self.threads)
        )
        if not fits:
            raise ConfigError(f"sizes {dict(self.config)} do not fit {self.arch.name}")

    def with_config(self, config: Config) -> TensorPlan:
        """Other sizes.

        Raises
        ------
        ConfigError
            If they do not fit.
        """
        sizes = dict(config)
        early = bool(sizes.pop("early", False))
        plan = replace(self, **dict(zip(SIZES, integers(sizes, *SIZES))), early=early)
        plan.check()
        return plan

    @property
    def roundings(self) -> int:
        """Most roundings that a product passes through, as :func:`weight_only_bound` counts them.

        Of pairs, the two halves of an activation are summed apart. A half's sum over a unit is
        rounded (once more with its zero point), added to others of the warp; then halves, warps,
        parts and bias meet. Of planes, a sum is rounded when the second and when the third digit
        is added. No more are allowed than the bound has. That the magnitudes of the halves (of the
        first two digits) are larger than their sum's, by 2**-13 (2**-15) of the largest of the
        unit, is little beside the bound's 2**-22 for rounded activations, of which 2**-30 (2**-23)
        are used.
        """
        units = -(-self.part // self.warps_k) * self.layout.span_units
        return 2 + int(self.zero_points) + units + self.warps_k - 1 + self.splits - 1 + 1
