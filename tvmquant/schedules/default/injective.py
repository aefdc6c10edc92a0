"""Elementwise and data movement: one long contiguous inner loop, the rest parallel."""

from __future__ import annotations

from math import gcd, prod
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.ir import TensorLoad

from tvmquant.schedules.default.analysis import Axis, Nest, largest_divisor
from tvmquant.schedules.default.parallel import parallelize

# Side of a transposed tile: 32 rows of 64 bytes stay in the first-level cache.
_TILE = 32
# Bytes after which addresses fall into the same set of a first-level cache.
_WAY = 4096
_ROWS_A_SET = 4
# Cache lines that surely survive until the next element of each is wanted.
_CACHED_LINES = 64
_MAX_PARTS = 8
_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE)


def schedule_injective(nest: Nest, cores: int) -> str | None:
    """Schedule a block without reduction; returns the name of the rule.

    LLVM vectorizes a contiguous inner loop of any length by itself, remainder included, better
    than a split with a predicate does; what it cannot do is change the order of the loops, drop
    the conditions of a concatenation, or join short loops.
    """
    if nest.reduction or nest.store is None:
        return None
    return _transpose(nest, cores) or _partition(nest, cores) or _contiguous(nest, cores)


def _accesses(nest: Nest) -> list[Any]:
    return [nest.store, *nest.loads]


def _contiguous(nest: Nest, cores: int) -> str:
    """Join the innermost loops through which every access moves on evenly."""
    axes = nest.axes
    joined = [axes[-1]]
    tested = _tested_variables(nest)
    for axis in reversed(axes[:-1]):
        if any(axis.var.same_as(var) or joined[0].var.same_as(var) for var in tested):
            break
        if not all(_continues(nest, access, axis, joined) for access in _accesses(nest)):
            break
        joined.insert(0, axis)
    sch, outer = nest.sch, [axis.loop for axis in axes[: len(axes) - len(joined)]]
    inner = sch.fuse(*(axis.loop for axis in joined)) if len(joined) > 1 else joined[0].loop
    parallelize(sch, outer or [inner], nest.nanoseconds, cores)
    return "elementwise"


def _tested_variables(nest: Nest) -> list[tirx.Var]:
    """Variables on which a comparison depends: joining them would hide when it changes."""
    found: list[tirx.Var] = []
    # The index of a value that is compared does not matter.
    callbacks = [(TensorLoad, lambda _: tvm_ffi.WalkResult.SKIP), (tirx.Var, found.append)]

    def visit(node: Any) -> None:
        tvm_ffi.structural_walk([node.a, node.b], callbacks, order="pre")

    tvm_ffi.structural_walk(nest.stmt.body, (_COMPARISONS, visit))
    return found


def _continues(nest: Nest, access: Any, outer: Axis, joined: list[Axis]) -> bool:
    """Whether stepping ``outer`` equals running once more through ``joined``."""
    if outer.extent == 1:
        return nest.stride(access, outer) is not None
    longer = [axis for axis in joined if axis.extent > 1]
    if not longer:
        return nest.stride(access, outer) is not None
    step, next_step = nest.stride(access, outer), nest.stride(access, longer[0])
    return None not in (step, next_step) and step == next_step * longer[0].extent


def _transpose(nest: Nest, cores: int) -> str | None:
    """Tile the two axes of a transposition so that both sides stay in cached lines."""
    inner = next((axis for axis in reversed(nest.axes) if axis.extent > 1), None)
    if inner is None or nest.stride(nest.store, inner) != 1:
        return None
    for load in nest.loads:
        if nest.stride(load, inner) in (None, 0, 1):
            continue
        for axis in nest.axes:
            if _revisits_lines(nest, axis, inner) and nest.stride(load, axis) == 1:
                return _tile(nest, axis, inner, cores)
    return None


def _revisits_lines(nest: Nest, source: Axis, inner: Axis) -> bool:
    """Whether so many cache lines lie between two steps of ``source`` that each is read again."""
    if source is inner or source.extent == 1:
        return False
    inside = nest.axes[nest.axes.index(source) + 1 :]
    return prod(axis.extent for axis in inside) > _CACHED_LINES


def _tile(nest: Nest, source: Axis, inner: Axis, cores: int) -> str | None:
    # A short axis (the channels of an image) is walked in registers already.
    if source.extent < 8 or inner.extent < 8:
        return None
    sch = nest.sch
    so, si = sch.split(source.loop, [None, _side(source.extent, _rows(nest, source))])
    io, ii = sch.split(inner.loop, [None, _side(inner.extent)])
    others = [axis.loop for axis in nest.axes if axis not in (source, inner)]
    sch.reorder(*others, so, io, si, ii)
    parallelize(sch, [*others, so], 4 * nest.nanoseconds, cores)
    return "transpose"


def _rows(nest: Nest, source: Axis) -> int:
    """Most rows of the output for a tile to write in turn.

    Rows a multiple of 4 KiB apart (64×64 float32) all fall into one set of the cache.
    """
    step = nest.stride(nest.store, source)
    size = tvm.DataType(str(nest.store.buffer.dtype)).bits // 8
    sets = _WAY // gcd(abs(step) * size, _WAY) if step else _TILE
    return min(_TILE, _ROWS_A_SET * sets)


def _side(extent: int, most: int = _TILE) -> int:
    """Side of a tile; one that divides the extent needs no conditions."""
    side = largest_divisor(extent, most)
    return side if side >= most // 4 else min(most, extent)


def _partition(nest: Nest, cores: int) -> str | None:
    """Cut the inner loop where a condition on it changes (concatenation, padding)."""
    inner = nest.axes[-1]
    cuts = _cuts(nest, inner)
    if not cuts or len(nest.axes) < 2:
        return None
    sch = nest.sch
    parallelize(sch, [axis.loop for axis in nest.axes[:-1]], nest.nanoseconds, cores)
    sizes = [stop - start for start, stop in zip([0, *cuts], cuts)]
    sch.loop_partition(inner.loop, [*sizes, None])
    return "partition"


def _cuts(nest: Nest, inner: Axis) -> list[int]:
    """Values of the inner variable at which a comparison with a constant flips."""
    found: set[int] = set()

    def visit(node: Any) -> None:
        left, right, flip = node.a, node.b, isinstance(node, tirx.LE | tirx.GT)
        if right.same_as(inner.var) and isinstance(left, tirx.IntImm):
            found.add(int(left) + (0 if flip else 1))
        elif left.same_as(inner.var) and isinstance(right, tirx.IntImm):
            found.add(int(right) + (1 if flip else 0))

    tvm_ffi.structural_walk(nest.stmt.body, (_COMPARISONS, visit))
    cuts = sorted(cut for cut in found if 0 < cut < inner.extent)
    return cuts if len(cuts) <= _MAX_PARTS else []
