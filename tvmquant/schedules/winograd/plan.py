"""How a Winograd layer is cut: tiles of outputs, blocks of tiles, blocks of output channels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tvmquant.schedules.winograd.algorithms import (
    ALGORITHMS,
    SMALL_ALGORITHMS,
    Algorithm,
)
from tvmquant.schedules.winograd.bounds import Ranges, outputs_fit
from tvmquant.schedules.winograd.operands import Bytes, Operands
from tvmquant.schedules.workload import Workload

# The workspaces of one block of tiles should stay in the second-level cache.
_BLOCK_BYTES = 512 << 10
_LEVEL1_BYTES = 32 << 10
_MAX_TILES, _MAX_VECTORS = 12, 7
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
        return -(-oh // self.algorithm.size), -(-ow // self.algorithm.size)

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
        return self.block * self.depth + 64 // np.dtype(self.operands.x_dtype).itemsize * 3

    @property
    def sum_stride(self) -> int:
        """int32 elements from one position of sums to the next."""
        return self.block * self.lanes + 16

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


def make_plan(workload: Workload, isa: str, size: int, kind: str) -> Plan | None:
    """Plan for one tile size and operand type, None where it is not proven to be exact.

    Parameters
    ----------
    workload : Workload
    isa : str
        See :func:`tvmquant.schedules.winograd.operands.instruction_set`.
    size : int
        2, 3 or 4.
    kind : str
        ``words`` or ``bytes``.
    """
    algorithm = (SMALL_ALGORITHMS if kind == "bytes" else ALGORITHMS)[size]
    ranges = Ranges.of(workload, algorithm)
    if not applies(workload) or not outputs_fit(workload, algorithm):
        return None
    if kind == "bytes":
        operands: Operands = Bytes(isa, ranges.pair_sum)
        if not ranges.fit_bytes or not (operands.vnni or ranges.pair_sum <= 32767):
            return None
    else:
        operands = Operands(isa)
        if not ranges.fit_words:
            return None
    whole = Plan(workload, algorithm, operands, 1, 1, 1)
    options = [
        (rows, vectors)
        for vectors in range(1, _MAX_VECTORS + 1)
        for rows in range(1, _MAX_TILES + 1)
        if rows * vectors + operands.flush * vectors + operands.scratch <= operands.registers
    ]
    rows, vectors = min(options, key=lambda option: _register_cost(whole, *option))
    return Plan(workload, algorithm, operands, rows, vectors, _block(whole, rows, vectors))


def applies(workload: Workload) -> bool:
    """Whether the layer is a 3×3 convolution of stride 1."""
    return (
        workload.op == "conv2d"
        and workload.w_shape[1:3] == (3, 3)
        and workload.groups == 1
        and (*workload.strides, *workload.dilation) == (1, 1, 1, 1)
    )


def _block(whole: Plan, rows: int, vectors: int) -> int:
    """Tiles of a block: as many as the cache holds, in blocks of equal size."""
    x_bytes = whole.depth * np.dtype(whole.operands.x_dtype).itemsize
    tile = whole.algorithm.positions * (x_bytes + 4 * vectors * whole.operands.lanes)
    most = max(rows, _BLOCK_BYTES // tile)
    blocks = -(-whole.tiles // most)
    return -(-(-(-whole.tiles // blocks)) // rows) * rows


def _register_cost(whole: Plan, rows: int, vectors: int) -> float:
    """Half cycles of one position with this register block."""
    operands = whole.operands
    block = _block(whole, rows, vectors)
    full, rest = divmod(whole.tiles, block)
    groups = full * (block // rows) + -(-rest // rows)
    channel_blocks = -(-whole.outputs // (vectors * operands.lanes))
    products = rows * vectors * operands.instructions
    # Two multiplications and two loads a cycle; four cycles until a sum can be used again.
    turn = max(operands.flush * products, operands.flush * (rows + vectors), 8)
    w_bytes = whole.depth * vectors * operands.lanes * np.dtype(operands.dtype).itemsize
    if w_bytes > _LEVEL1_BYTES:
        turn = max(turn, 4 * operands.flush * vectors)
    # Weights that few tiles share come slowly.
    far = 4 * whole.turns * operands.flush * vectors * (full + (rest > 0))
    work = groups * (whole.turns * turn + 6 + 4 * rows * vectors)
    return channel_blocks * (work + far)
