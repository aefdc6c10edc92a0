"""How a Winograd layer is cut: tiles of outputs, blocks of tiles, blocks of output channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tvmquant.schedules.winograd.algorithms import Algorithm
from tvmquant.schedules.winograd.bounds import Ranges, output_radius
from tvmquant.schedules.winograd.operands import Bytes, Operands
from tvmquant.schedules.workload import Workload

_PARALLEL_MACS = 1 << 21
# From so many blocks of tiles on the threads share those, below they share output channels.
_MANY_BLOCKS = 4
PIECES = 16


@dataclass(frozen=True)
class Plan:
    """Everything that decides the code of one kernel.

    Attributes
    ----------
    workload : Workload
    algorithm : Algorithm
    operands : Operands
    rows : int
        Tiles of a register block.
    vectors : int
        Vectors of output channels of a register block.
    block : int
        Tiles of a block, a multiple of ``rows``.
    """

    workload: Workload
    algorithm: Algorithm
    operands: Operands
    rows: int
    vectors: int
    block: int

    @property
    def channels(self) -> int:
        """Input channels."""
        return self.workload.x_shape[3]

    @property
    def outputs(self) -> int:
        """Output channels."""
        return self.workload.w_shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles of an image."""
        _, oh, ow, _ = self.workload.out_shape
        return -(-oh // self.algorithm.rows.size), -(-ow // self.algorithm.columns.size)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.workload.x_shape[0] * self.grid[0] * self.grid[1]

    @property
    def blocks(self) -> int:
        """Blocks of tiles."""
        return -(-self.tiles // self.block)

    @property
    def turns(self) -> int:
        """Turns of the inner loop over the channels."""
        return -(-self.channels // self.operands.unit)

    @property
    def depth(self) -> int:
        """Input channels, padding included."""
        return self.turns * self.operands.unit

    @property
    def lanes(self) -> int:
        """Output channels of a register block."""
        return self.vectors * self.operands.lanes

    @property
    def channel_blocks(self) -> int:
        """Register blocks that cover the output channels."""
        return -(-self.outputs // self.lanes)

    @property
    def padded_outputs(self) -> int:
        """Output channels, padding included."""
        return self.channel_blocks * self.lanes

    @property
    def x_stride(self) -> int:
        """Elements from one position of transformed activations to the next: no power of two."""
        return self.block * self.depth + 3 * 64 // self.x_bytes

    @property
    def sum_dtype(self) -> str:
        """int16 where its 16 bits determine the outputs, int32 elsewhere."""
        radius = output_radius(self.workload)
        return "int16" if radius << self.algorithm.shift < 1 << 15 else "int32"

    @property
    def sum_stride(self) -> int:
        """Elements from one position of sums to the next."""
        return self.block * self.lanes + 64 // np.dtype(self.sum_dtype).itemsize

    @property
    def x_bytes(self) -> int:
        """Bytes of one transformed activation."""
        return np.dtype(self.operands.x_dtype).itemsize

    @property
    def expanded_bytes(self) -> int:
        """Bytes of the transformed weights."""
        return int(np.prod(self.expanded_shape)) * np.dtype(self.operands.dtype).itemsize

    @property
    def expanded_shape(self) -> tuple[int, ...]:
        """``[channel block, position, turn, flush * vectors * lanes * step]``."""
        step = self.lanes * self.operands.unit
        return (self.channel_blocks, self.algorithm.positions, self.turns, step)

    @property
    def prefetch_share(self) -> int:
        """Elements of the next position's weights that one turn of a group fetches."""
        groups = -(-min(self.tiles, self.block) // self.rows)
        return -(-self.lanes * self.operands.unit // groups)

    @property
    def has_offsets(self) -> bool:
        """Whether activations got an offset that the sums must lose."""
        return isinstance(self.operands, Bytes)

    @cached_property
    def ranges(self) -> Ranges:
        """Of the transformed values."""
        return Ranges.of(self.workload, self.algorithm)

    @property
    def parallel(self) -> str | None:
        """What the threads share: ``tiles``, ``channels`` or nothing."""
        if self.workload.macs < _PARALLEL_MACS:
            return None
        if self.blocks >= _MANY_BLOCKS or (self.blocks > 1 and self.channel_blocks == 1):
            return "tiles"
        return "channels" if self.channel_blocks > 1 else None
