"""Copy of the input into a workspace: padded, widened, or with slack behind the last value."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.geometry import InputPlan
from tvmquant.schedules.linear.rows import Rows
from tvmquant.schedules.linear.tir import Expr, broadcast, cast, i64, load, store

_LANES = 32


def emit_copy(
    plan: InputPlan, x: Expr, x_base: Expr, work: Expr, zero_point: Expr, parallel: bool
) -> None:
    """Fill the workspace of one image.

    Parameters
    ----------
    plan : InputPlan
    x, work : Buffer
        Flat views of the input and of the workspace.
    x_base : Expr
        Offset of the image in ``x``.
    zero_point : Expr
        int32 padding value.
    parallel : bool
        Share the rows out to the threads.
    """
    g = plan.geometry
    rows = Rows.of(g, plan.size)
    left, inside = rows.left, rows.inside
    row_size = rows.columns * plan.channels
    fill, zero = tirx.Cast(plan.dtype, zero_point), tirx.IntImm(plan.dtype, 0)
    surplus = plan.channels - g.channels

    def fill_pixels(start: Expr, count: int) -> None:
        if surplus == 0:
            _fill(work, start, count * plan.channels, fill)
        elif count:
            with T.serial(i64(count)) as pixel:
                base = T.bind(start + pixel * plan.channels)
                _fill(work, base, g.channels, fill)
                _fill(work, base + g.channels, surplus, zero)

    def copy_pixels(start: Expr, source: Expr) -> None:
        if surplus == 0:
            _copy(plan.dtype, work, start, x, source, inside * g.channels)
        elif inside:
            with T.serial(i64(inside)) as pixel:
                base = T.bind(start + pixel * plan.channels)
                _copy(plan.dtype, work, base, x, source + pixel * g.channels, g.channels)
                _fill(work, base + g.channels, surplus, zero)

    def copy_row(row: Expr) -> None:
        start = T.bind(row * row_size)
        middle = start + left * plan.channels
        fill_pixels(start, left)
        copy_pixels(middle, x_base + (row - rows.top) * (rows.width * g.channels))
        fill_pixels(middle + inside * plan.channels, rows.right)

    def fill_row(row: Expr) -> None:
        fill_pixels(T.bind(row * row_size), rows.columns)

    rows.emit(copy_row, fill_row, parallel)
    # The slack is read with zero weights; it only has to hold something.
    _fill(work, i64(plan.workspace - plan.step), plan.step, zero)


def _fill(buffer: Expr, start: Expr, count: int, value: Expr) -> None:
    whole = count // _LANES
    if whole:
        with T.serial(i64(whole)) as i:
            store(buffer, broadcast(value, _LANES), start + i * _LANES, _LANES)
    if count % _LANES:
        with T.serial(i64(count % _LANES)) as i:
            store(buffer, value, start + (whole * _LANES + i), 1)


def _copy(dtype: str, out: Expr, start: Expr, x: Expr, source: Expr, count: int) -> None:
    whole = count // _LANES
    if whole:
        with T.serial(i64(whole)) as i:
            values = load(x, source + i * _LANES, _LANES)
            store(out, cast(dtype, _LANES, values), start + i * _LANES, _LANES)
    if count % _LANES:
        with T.serial(i64(count % _LANES)) as i:
            offset = whole * _LANES + i
            store(out, cast(dtype, 1, x[source + offset]), start + offset, 1)
