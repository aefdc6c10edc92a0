"""The rows of a workspace: what of them lies in the image, and the loop that fills them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.geometry import Geometry
from tvmquant.schedules.linear.tir import Expr, i64

_MAX_PIECES = 32


@dataclass(frozen=True)
class Rows:
    """Rows of a padded image.

    Attributes
    ----------
    count, columns : int
        Of the workspace.
    top, left : int
        Padding before the image; ``left`` at most ``columns``.
    height, width : int
        Of the image.
    is_cut : bool
        Whether one long row was cut, so that threads can share it.
    """

    count: int
    columns: int
    top: int
    left: int
    height: int
    width: int
    is_cut: bool

    @classmethod
    def of(cls, geometry: Geometry, size: tuple[int, int]) -> Rows:
        """Rows of a workspace of ``size`` (rows, columns)."""
        (count, columns), (top, left) = size, geometry.pad
        height, width = geometry.height, geometry.width
        is_cut = not geometry.padded and height == 1
        if is_cut:
            count = height = max(d for d in range(1, _MAX_PIECES + 1) if columns % d == 0)
            columns = width = columns // count
        return cls(count, columns, top, min(left, columns), height, width, is_cut)

    @property
    def inside(self) -> int:
        """Columns that exist in the input and are read."""
        return max(0, min(self.columns - self.left, self.width))

    @property
    def right(self) -> int:
        """Columns of padding behind the image."""
        return self.columns - self.left - self.inside

    def emit(
        self, copy: Callable[[Expr], None], fill: Callable[[Expr], None], parallel: bool
    ) -> None:
        """Loop over the rows: ``copy(row)`` where the image is, else ``fill(row)``."""
        loop = T.parallel if parallel and self.count > 1 else T.serial
        with loop(i64(self.count)) as row:
            if self.top == 0 and self.count <= self.height:
                copy(row)
                return
            with T.If(tirx.all(row >= self.top, row < self.top + self.height)):
                with T.Then():
                    copy(row)
                with T.Else():
                    fill(row)
