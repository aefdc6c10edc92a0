"""The transforms of F(2×2) to F(4×4) for 3×3 filters, scaled so that all are integers.

A tile of ``rows × columns`` outputs needs two more rows and columns of inputs ``d``. With
``V = Bᵀ d B`` and ``U = G g Gᵀ`` the tile is ``Aᵀ (U ∘ V) A / scale`` (Lavin and
Gray 2016, "Fast Algorithms for Convolutional Neural Networks"). Rows of ``G`` are integers, so that
``scale = odd * 2**shift`` and the division is exact: a multiplication with ``1/odd`` modulo
2**32, then an arithmetic shift to the right.

The transforms are functions of a list of values that know ``+``, ``-`` and ``<<``: NumPy arrays
or vectors of the generated code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Values = list[Any]


@dataclass(frozen=True)
class Axis:
    """What happens along the rows or along the columns.

    Attributes
    ----------
    size : int
        Outputs of a tile.
    odd, shift : int
        The transforms together multiply every output by ``odd * 2**shift``.
    filter_matrix : tuple of tuple of int
        ``G``, ``[points, 3]``.
    input_transform, output_transform : callable
        ``Bᵀ`` and ``Aᵀ`` on one row or column.
    gain : int
        The second column of ``Aᵀ`` holds only this number: what is added at point 1 comes out
        ``gain`` times in all outputs.
    """

    size: int
    odd: int
    shift: int
    filter_matrix: tuple[tuple[int, ...], ...]
    input_transform: Callable[[Values], Values]
    output_transform: Callable[[Values], Values]
    gain: int = 1

    @property
    def points(self) -> int:
        """Inputs of a tile."""
        return self.size + 2

    @cached_property
    def input_matrix(self) -> np.ndarray:
        """``Bᵀ``, int64 ``[points, points]``."""
        return np.array(self.input_transform(list(np.eye(self.points, dtype=np.int64))))

    @cached_property
    def output_matrix(self) -> np.ndarray:
        """``Aᵀ``, int64 ``[size, points]``."""
        return np.array(self.output_transform(list(np.eye(self.points, dtype=np.int64))))


@dataclass(frozen=True)
class Algorithm:
    """One tile size.

    Attributes
    ----------
    rows, columns : Axis
    """

    rows: Axis
    columns: Axis

    @property
    def size(self) -> int:
        """Name of the tile size: 4 for 4×4 outputs, 34 for 3 rows of 4."""
        if self.rows.size == self.columns.size:
            return self.rows.size
        return 10 * self.rows.size + self.columns.size

    @property
    def label(self) -> str:
        """The tile size for people: ``f4``, ``f3x4``."""
        if self.rows.size == self.columns.size:
            return f"f{self.rows.size}"
        return f"f{self.rows.size}x{self.columns.size}"

    @property
    def outputs(self) -> int:
        """Outputs of a tile."""
        return self.rows.size * self.columns.size

    @property
    def positions(self) -> int:
        """Values of one channel of a transformed tile."""
        return self.rows.points * self.columns.points

    @property
    def odd(self) -> int:
        """Odd part of the scale of the outputs."""
        return self.rows.odd * self.columns.odd

    @property
    def shift(self) -> int:
        """Power of two in the scale of the outputs."""
        return self.rows.shift + self.columns.shift

    @property
    def gain(self) -> int:
        """How often what is added at position (1, 1) comes out in every output."""
        return self.rows.gain * self.columns.gain

    def inverse(self, bits: int) -> int:
        """``1 / odd`` modulo ``2**bits``, as a signed integer."""
        value = pow(self.odd, -1, 1 << bits)
        return value - (1 << bits) * (value >> (bits - 1))


def _input2(d: Values) -> Values:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output2(q: Values) -> Values:
    return [q[0] + q[1] + q[2], q[1] - q[2] - q[3]]


def _input3(d: Values) -> Values:
    high, step = d[3] - d[1], d[3] - d[2]
    return [
        high + ((d[0] - d[2]) << 1),
        step - (d[1] << 1),
        step + ((d[1] - d[2]) << 1),
        high,
        d[4] - d[2] - (high << 1),
    ]


def _output3(q: Values) -> Values:
    even = q[1] + q[2]
    return [q[0] + even + q[3], q[1] - q[2] + (q[3] << 1), even + q[4] + (q[3] << 2)]


def _input4(d: Values) -> Values:
    even, odd = (d[2] << 2) - d[4], (d[1] << 2) - d[3]
    high, low = d[4] - d[2], d[3] - d[1]
    twice = low << 1
    return [
        high + ((d[0] - d[2]) << 2),
        even + odd,
        even - odd,
        high + twice,
        high - twice,
        d[5] - d[3] - (low << 2),
    ]


def _output4(q: Values) -> Values:
    even, odd = q[1] + q[2], q[1] - q[2]
    wide, skew = q[3] + q[4], q[3] - q[4]
    return [
        q[0] + even + wide,
        odd + (skew << 1),
        even + (wide << 2),
        odd + (skew << 3) + (q[5] << 2),
    ]


def _small3(q: Values) -> Values:
    return _output3([q[0], q[1] + (q[1] << 1), *q[2:]])


def _small4(q: Values) -> Values:
    return _output4([q[0], q[1] << 2, q[2] << 2, *q[3:]])


_G2 = ((2, 0, 0), (1, 1, 1), (1, -1, 1), (0, 0, 2))
_G3 = ((3, 0, 0), (-3, -3, -3), (-1, 1, -1), (1, 2, 4), (0, 0, 6))
# Rows 1 and 2 of Bᵀ are negated together with those of G, which saves negations.
_G4 = ((6, 0, 0), (4, 4, 4), (4, -4, 4), (1, 2, 4), (1, -2, 4), (0, 0, 6))

_AXES = {
    2: Axis(2, 1, 1, _G2, _input2, _output2),
    3: Axis(3, 3, 1, _G3, _input3, _output3),
    4: Axis(4, 3, 3, _G4, _input4, _output4),
}
# The same with the smallest transformed weights, at the price of more work in Aᵀ.
_SMALL_AXES = {
    2: _AXES[2],
    3: Axis(3, 3, 1, (_G3[0], (-1, -1, -1), *_G3[2:]), _input3, _small3, 3),
    4: Axis(4, 3, 3, (_G4[0], (1, 1, 1), (1, -1, 1), *_G4[3:]), _input4, _small4, 4),
}
_TILES = ((2, 2), (3, 3), (4, 4), (2, 3), (3, 4))


def _algorithms(axes: dict[int, Axis]) -> dict[int, Algorithm]:
    made = [Algorithm(axes[rows], axes[columns]) for rows, columns in _TILES]
    return {algorithm.size: algorithm for algorithm in made}


# By their ``size``.
ALGORITHMS = _algorithms(_AXES)
SMALL_ALGORITHMS = _algorithms(_SMALL_AXES)
