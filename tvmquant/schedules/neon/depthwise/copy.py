"""The workspace of a task: the lines of one block of channels, padded, as int8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, bits_as, broadcast, i64, load, store
from tvmquant.schedules.neon.depthwise.chains import Form
from tvmquant.schedules.neon.depthwise.plan import WIDTH, Plan, Task

# Columns that one turn of the copying loop takes.
_UNROLL = 8


@dataclass
class Copy:
    """Emitter of the copy.

    Attributes
    ----------
    plan : Plan
    form : Form
    x : Buffer
        Flat input.
    zero_point : Expr
        uint8 padding value.
    """

    plan: Plan
    form: Form
    x: Expr
    zero_point: Expr

    def emit(self, work: Expr, task: Task) -> None:
        """Fill ``work``, flat int8: ``[line, column, WIDTH]``."""
        w, columns = self.plan.workload, self.plan.read_columns
        _, height, width, channels = w.x_shape
        top, left = w.padding[:2]
        before = min(left, columns)
        inside = max(0, min(columns - before, width))
        start = T.bind(task.first * w.strides[0] - top)
        base = T.bind(task.image * (height * width * channels) + task.channel)
        lines = T.bind((task.rows - 1) * w.strides[0] + self.plan.span)
        with T.serial(lines) as line:
            row = T.bind(start + line)
            masks = self._masks(line)
            at = T.bind(line * (columns * WIDTH))
            fill = broadcast(self.zero_point, WIDTH)

            def columns_of(begin: int, count: int, read: Callable[[Expr], Expr]) -> None:
                def turn(column: Expr, size: int) -> None:
                    for i in range(size):
                        mask = masks[(begin + i) % 2]
                        value = read(column + i)
                        value = value if mask is None else value ^ mask
                        place = at + (column + (begin + i)) * WIDTH
                        store(work, bits_as("int8", WIDTH, value), place, WIDTH)

                if count >= _UNROLL:
                    with T.serial(i64(count // _UNROLL)) as i:
                        turn(T.bind(i * _UNROLL), _UNROLL)
                turn(i64(count // _UNROLL * _UNROLL), count % _UNROLL)

            def copy() -> None:
                source = T.bind(base + row * (width * channels))
                columns_of(0, before, lambda _: fill)
                columns_of(
                    before, inside, lambda i: T.bind(load(self.x, source + i * channels, WIDTH))
                )
                columns_of(before + inside, columns - before - inside, lambda _: fill)

            if top == 0 and self._last_line < height:
                copy()
                return
            with T.If(tirx.all(row >= 0, row < height)):
                with T.Then():
                    copy()
                with T.Else():
                    columns_of(0, columns, lambda _: fill)

    @property
    def _last_line(self) -> int:
        w = self.plan.workload
        return (w.out_shape[1] - 1) * w.strides[0] + self.plan.span - 1

    def _masks(self, line: Expr) -> list[Expr | None]:
        """What activations of even and of odd columns of a line are combined with."""
        first, second = self.form.masks
        if first == second:
            mask = broadcast(tirx.IntImm("uint8", first), WIDTH) if first else None
            return [mask, mask]
        even = line % 2 == 0
        pairs = ((first, second), (second, first))
        masks = [
            T.bind(tirx.Select(even, *(tirx.IntImm("uint8", mask) for mask in pair)))
            for pair in pairs
        ]
        return [broadcast(mask, WIDTH) for mask in masks]
