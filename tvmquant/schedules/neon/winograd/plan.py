"""How a layer is cut, and what is proven about its sums.

*Long* sums are int32 (``smlal``). *Half* sums are int16 (``mla``, twice the products an
instruction): arithmetic modulo 2**16, the odd part of the scale undone by its inverse, is exact
where the outputs of a chunk of the input channels, times the power of two of the scale, fit into
int16 once they are centred. Several chunks are added in int32. *Byte* sums are half sums of
products of bytes (``smlal``), and where there are dot products, *dot* sums are those of four bytes
(``sdot``), in int32 and stored as int16 under the same condition, else as *dot32*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tvmquant.schedules.linear.packing import pack_outputs
from tvmquant.schedules.winograd.algorithms import ALGORITHMS, SMALL_ALGORITHMS, Algorithm
from tvmquant.schedules.winograd.bounds import Ranges, largest_weight, outputs_fit
from tvmquant.schedules.winograd.choose import applies
from tvmquant.schedules.winograd.packing import pack_biases
from tvmquant.schedules.winograd.plan import Plan as _Plan
from tvmquant.schedules.workload import Workload

_DOTS = ("dot", "dot32")
# A multiplication that keeps the width of its operands takes two cycles, one that widens takes one.
_MLA = 2.0
# On processors with dot products a multiplication of words takes as long as two of those.
_SLOW = 2.0
_BLOCK_BYTES = 512 << 10
_REGISTERS = 32
# Only sixteen registers can be multiplied by one of their lanes.
_MAX_ROWS, _MAX_VECTORS = 8, 4
_MAX_TRIED = 64
# Vector operations of the input and of the output transform of one vector.
_INPUT_WORK = {2: 32, 3: 110, 4: 200}
_OUTPUT_WORK = {2: 24, 3: 72, 4: 140}
# Instructions of the epilogue for four values, and of the loops for one pixel of 16 channels.
_SCALE, _PIXEL = 6, 36


@dataclass(frozen=True)
class Operands:
    """Activations and weights, a weight of each of eight (bytes: 16) output channels a vector.

    Attributes
    ----------
    name : str
        ``long``, ``half``, ``byte``, ``dot`` or ``dot32``.
    """

    name: str

    @property
    def dot(self) -> bool:
        """Whether four channels are multiplied at once."""
        return self.name in _DOTS

    @property
    def step(self) -> int:
        """Channels that are multiplied at once."""
        return 4 if self.dot else 1

    @property
    def flush(self) -> int:
        """Steps of a turn."""
        return 4 if self.dot else 8

    @property
    def unit(self) -> int:
        """Channels of a turn."""
        return self.step * self.flush

    @property
    def byte(self) -> bool:
        """Whether transformed values are bytes."""
        return self.name == "byte" or self.dot

    @property
    def half(self) -> bool:
        """Whether sums are stored as int16."""
        return self.name not in ("long", "dot32")

    @property
    def sum_dtype(self) -> str:
        """Type of the sums in memory."""
        return "int16" if self.half else "int32"

    @property
    def sum_lanes(self) -> int:
        """Sums in a vector from memory."""
        return 8 if self.half else 4

    @property
    def register_dtype(self) -> str:
        """Type of the sums while they are added."""
        return "int32" if self.dot else self.sum_dtype

    @property
    def register_lanes(self) -> int:
        """Sums in a register."""
        return 4 if self.register_dtype == "int32" else 8

    @property
    def dtype(self) -> str:
        """Type of transformed weights."""
        return "int8" if self.byte else "int16"

    @property
    def x_dtype(self) -> str:
        """Type of transformed activations; bytes are signed, but transformed modulo 2**8."""
        return "uint8" if self.byte else "int16"

    @property
    def lanes(self) -> int:
        """Output channels of a vector of weights."""
        return self.width // self.step

    @property
    def width(self) -> int:
        """Elements of a vector of weights or of activations that are transformed."""
        return 16 if self.byte else 8

    @property
    def sums(self) -> int:
        """Registers of sums of a vector of weights."""
        return self.lanes // self.register_lanes


@dataclass(frozen=True)
class Plan(_Plan):
    """Everything that decides the code of one kernel.

    Attributes
    ----------
    chunk : int
        Turns of the input channels whose sums are transformed back together.
    """

    operands: Operands  # type: ignore[assignment]
    chunk: int = 0

    @property
    def chunks(self) -> int:
        """How often sums are transformed back."""
        return -(-self.turns // self.chunk)

    @property
    def rest(self) -> int:
        """Tiles of a last, smaller register block: only where there is one block of tiles."""
        return self.tiles % self.rows if self.blocks == 1 else 0

    @property
    def has_offsets(self) -> bool:
        """Activations are signed."""
        return False

    def biases(self, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``centre`` (of every chunk, for half sums int16) and ``bias``, modulo their types."""
        if not self.operands.half:
            return pack_biases(weight, bias, self)
        algorithm, x_max = self.algorithm, (1 << self.workload.x_bits) - 1
        size = self.chunk * self.operands.unit
        parts = [weight[..., i : i + size] for i in range(0, self.channels, size)]
        sums = [part.astype(np.int64).reshape(self.outputs, -1).sum(axis=1) for part in parts]
        middles = [total * x_max // 2 for total in sums]
        scale = (algorithm.odd << algorithm.shift) // algorithm.gain
        centres = [
            pack_outputs((-middle * scale & 0xFFFF), self.outputs, 1, self.padded_outputs)
            for middle in middles
        ]
        total = (bias.astype(np.int64) + sum(middles)) & 0xFFFFFFFF
        whole = pack_outputs(total, self.outputs, 1, self.padded_outputs)
        centre = np.concatenate(centres).astype(np.uint16).view(np.int16)
        return centre, whole.astype(np.uint32).view(np.int32)

    @property
    def instructions(self) -> float:
        """Estimate for the whole layer."""
        return self._estimate(1.0)

    @property
    def cost(self) -> float:
        """Estimate in cycles of a core that starts one vector operation in each."""
        return self._estimate(_MLA if self.operands.name == "half" else 1.0)

    def _estimate(self, multiplication: float) -> float:
        operands, rows, vectors = self.operands, self.rows, self.vectors
        size, positions = self.algorithm.size, self.algorithm.positions
        sums = rows * vectors * operands.sums
        copies = rows * (operands.name == "byte")
        turn = operands.flush * (sums * multiplication + vectors / 2 + copies) + rows + 4
        full, rest = divmod(self.tiles, self.block)
        groups = full * (self.block // rows) + math.ceil(rest / rows)
        if self.blocks == 1:
            groups = self.tiles / rows
        products = groups * (self.turns * turn + self.chunks * (sums * 0.6 + 20))
        products *= positions * self.channel_blocks
        lanes = min(operands.width, 1 << (self.channels.bit_length() - 1))
        per_input = -(-self.channels // lanes) * (_INPUT_WORK[size] + 2.5 * positions) + 30
        transform = _OUTPUT_WORK[size] + positions + 3 * size**2
        adding = size**2 if self.chunks > 1 else 0
        per_lane = self.chunks * (transform / operands.sum_lanes + adding)
        per_lane += (_SCALE / 4 + _PIXEL / 16) * size**2
        per_output = self.lanes * per_lane + 40
        return products + self.tiles * (per_input + self.channel_blocks * per_output)


def methods(isa: str) -> list[tuple[int, str]]:
    """Sizes of tiles and kinds of sums that an instruction set has."""
    kinds = ("byte", "half", "long") if isa == "neon" else ("byte", "half", "long", *_DOTS)
    return [(size, kind) for kind in kinds for size in (2, 3, 4)]


def method(workload: Workload, size: int, kind: str) -> Plan | None:
    """The smallest plan for a tile size and kind of sums, None if it is not proven exact."""
    if not applies(workload):
        return None
    operands = Operands(kind)
    algorithm = (SMALL_ALGORITHMS if operands.byte else ALGORITHMS)[size]
    plan = Plan(workload, algorithm, operands, 1, 1, 1, 1)
    ranges = Ranges.of(workload, algorithm)
    top = max(-int(ranges.x_low.min()) - 1, int(ranges.x_high.max()), int(ranges.w_size.max()))
    if operands.byte and top > 127:
        return None
    if not operands.half:
        fits = outputs_fit(workload, algorithm) and ranges.fit_words
        return replace(plan, chunk=plan.turns) if fits else None
    chunk = _longest_chunk(workload, algorithm, plan.turns, operands.unit)
    return replace(plan, chunk=chunk) if chunk else None


def _longest_chunk(workload: Workload, algorithm: Algorithm, turns: int, unit: int) -> int:
    """Turns whose outputs are proven to fit, 0 if not even one's are."""
    x_max = (1 << workload.x_bits) - 1
    found = 0
    for chunk in range(1, turns + 1):
        channels = min(chunk * unit, workload.x_shape[3])
        bound = 9 * channels * largest_weight(workload.w_bits)
        if workload.max_abs_sum is not None:
            bound = min(bound, workload.max_abs_sum)
        radius = -(-bound * x_max // 2) + 1  # the centre is rounded
        if radius << algorithm.shift < 1 << 15:
            found = chunk
    # Chunks of equal length.
    return -(-turns // -(-turns // found)) if found else 0


def variants(smallest: Plan) -> Iterator[Plan]:
    """All register blocks that the registers hold."""
    for vectors in range(1, _MAX_VECTORS + 1):
        for rows in range(1, _MAX_ROWS + 1):
            operands = smallest.operands
            sums = rows * vectors * operands.sums
            more = 2 * (operands.name == "byte")
            whole = vectors * operands.lanes % operands.sum_lanes == 0
            if whole and sums + rows + vectors + more <= _REGISTERS:
                yield blocked(smallest, rows, vectors)


def blocked(smallest: Plan, rows: int, vectors: int, size: int = _BLOCK_BYTES) -> Plan:
    """Plan with as many tiles a block as ``size`` bytes hold, in blocks of equal size."""
    plan = replace(smallest, rows=rows, vectors=vectors)
    tile = plan.algorithm.positions * (plan.x_bytes * plan.depth + 4 * plan.lanes)
    most = max(rows, size // tile)
    blocks = -(-plan.tiles // most)
    even = -(-plan.tiles // blocks)
    return replace(plan, block=-(-even // rows) * rows)


def cycles(plan: Plan, isa: str) -> float:
    """Cost of a plan next to that of other kernels of the same processor."""
    return plan.cost * (1.0 if isa == "neon" or plan.operands.dot else _SLOW)


def space(workload: Workload, isa: str) -> list[Plan]:
    """Plans worth measuring, those with the lowest expected cost first."""
    proven = [method(workload, *which) for which in methods(isa)]
    plans = {plan for smallest in proven if smallest for plan in variants(smallest)}
    order = sorted(plans, key=lambda p: (cycles(p, isa), p.rows, p.vectors, p.block))
    return order[:_MAX_TRIED]
