"""How a layer is cut, and what is proven about its sums.

*Long* sums are int32 (``smlal``). *Half* sums are int16 (``mla``, twice the products an
instruction): arithmetic modulo 2**16, the odd part of the scale undone by its inverse, is exact
where the outputs of a chunk of the input channels, times the power of two of the scale, fit into
int16 once they are centred. Several chunks are added in int32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from tvmquant.schedules.linear.packing import pack_outputs
from tvmquant.schedules.winograd.algorithms import ALGORITHMS, Algorithm
from tvmquant.schedules.winograd.bounds import Ranges, largest_weight, outputs_fit
from tvmquant.schedules.winograd.choose import applies
from tvmquant.schedules.winograd.packing import pack_biases
from tvmquant.schedules.winograd.plan import Plan as _Plan
from tvmquant.schedules.workload import Workload

METHODS = tuple((size, kind) for kind in ("half", "long") for size in (2, 3, 4))
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
    """int16 activations and weights, a weight of each of eight output channels a vector.

    Attributes
    ----------
    half : bool
        Whether sums are int16.
    """

    half: bool

    dtype: ClassVar[str] = "int16"
    x_dtype: ClassVar[str] = "int16"
    lanes: ClassVar[int] = 8
    width: ClassVar[int] = 8
    step: ClassVar[int] = 1
    flush: ClassVar[int] = 8
    unit: ClassVar[int] = 8

    @property
    def name(self) -> str:
        """``half`` or ``long``."""
        return "half" if self.half else "long"

    @property
    def sum_dtype(self) -> str:
        """Type of the sums."""
        return "int16" if self.half else "int32"


@dataclass(frozen=True)
class Plan(_Plan):
    """Everything that decides the code of one kernel.

    Attributes
    ----------
    chunk : int
        Turns (of eight input channels) whose sums are transformed back together.
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
        half, rows, vectors = self.operands.half, self.rows, self.vectors
        size, positions = self.algorithm.size, self.algorithm.positions
        sums = rows * vectors * (1 if half else 2)
        turn = 8 * (sums + vectors / 2) + rows + 4
        full, rest = divmod(self.tiles, self.block)
        groups = full * (self.block // rows) + math.ceil(rest / rows)
        if self.blocks == 1:
            groups = self.tiles / rows
        products = groups * (self.turns * turn + self.chunks * (sums * 0.6 + 20))
        products *= positions * self.channel_blocks
        lanes = min(8, 1 << (self.channels.bit_length() - 1))
        per_input = -(-self.channels // lanes) * (_INPUT_WORK[size] + 2.5 * positions) + 30
        transform = (_OUTPUT_WORK[size] + positions + 3 * size**2) * (1 if half else 2)
        adding = 8 * size**2 if self.chunks > 1 else 0
        per_vector = self.chunks * (transform + adding) + 2 * _SCALE * size**2
        per_output = vectors * per_vector + size**2 * _PIXEL * vectors / 2 + 40
        return products + self.tiles * (per_input + self.channel_blocks * per_output)


def method(workload: Workload, size: int, kind: str) -> Plan | None:
    """The smallest plan for a tile size and kind of sums, None if it is not proven exact."""
    if not applies(workload):
        return None
    algorithm, operands = ALGORITHMS[size], Operands(kind == "half")
    plan = Plan(workload, algorithm, operands, 1, 1, 1, 1)
    if not operands.half:
        fits = outputs_fit(workload, algorithm) and Ranges.of(workload, algorithm).fit_words
        return replace(plan, chunk=plan.turns) if fits else None
    chunk = _longest_chunk(workload, algorithm, plan.turns)
    return replace(plan, chunk=chunk) if chunk else None


def _longest_chunk(workload: Workload, algorithm: Algorithm, turns: int) -> int:
    """Turns whose outputs are proven to fit, 0 if not even one's are."""
    x_max = (1 << workload.x_bits) - 1
    found = 0
    for chunk in range(1, turns + 1):
        channels = min(chunk * Operands.unit, workload.x_shape[3])
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
            sums = rows * vectors * (1 if smallest.operands.half else 2)
            if sums + rows + vectors <= _REGISTERS:
                yield blocked(smallest, rows, vectors)


def blocked(smallest: Plan, rows: int, vectors: int, size: int = _BLOCK_BYTES) -> Plan:
    """Plan with as many tiles a block as ``size`` bytes hold, in blocks of equal size."""
    plan = replace(smallest, rows=rows, vectors=vectors)
    tile = plan.algorithm.positions * (2 * plan.depth + 4 * plan.lanes)
    most = max(rows, size // tile)
    blocks = -(-plan.tiles // most)
    even = -(-plan.tiles // blocks)
    return replace(plan, block=-(-even // rows) * rows)


def space(workload: Workload) -> list[Plan]:
    """Plans worth measuring, those with the fewest expected instructions first."""
    proven = [method(workload, *which) for which in METHODS]
    plans = {plan for smallest in proven if smallest for plan in variants(smallest)}
    return sorted(plans, key=lambda p: (p.instructions, p.rows, p.vectors, p.block))[:_MAX_TRIED]
