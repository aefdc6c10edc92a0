"""What the float kernels share: arguments, padded input, vector variables, tiled loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import (
    Expr,
    i64,
    intrinsic,
    load,
    splat,
    store,
)
from tvmquant.schedules.workload import Workload

_COPY_LANES = 16


def argument(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """Argument of the PrimFunc being built."""
    return T.arg(name, T.buffer(tuple(i64(dim) for dim in shape), dtype))


def begin(name: str) -> None:
    """Name and attributes of the PrimFunc being built."""
    T.func_name(name)
    T.func_attr(
        {"global_symbol": name, "tirx.noalias": True, "tvmquant.scheduled": True, "op_pattern": 8}
    )


class Variable:
    """A float32 vector variable. LLVM keeps small buffers with constant indices in registers."""

    def __init__(self, lanes: int, value: Expr) -> None:
        self.lanes = lanes
        # Not "local": on the CPU that scope is always allocated on the heap.
        self.buffer = T.alloc_buffer((i64(lanes),), "float32")
        self.set(value)

    def get(self) -> Expr:
        """Value of the variable."""
        return load(self.buffer, i64(0), self.lanes)

    def set(self, value: Expr) -> None:
        """Emit the assignment."""
        store(self.buffer, value, i64(0), self.lanes)

    def add_product(self, a: Expr, b: Expr, fma: bool) -> None:
        """Emit ``self += a * b``."""
        # llvm.fma is a library call where the processor has none.
        name = "llvm.fma" if fma else "llvm.fmuladd"
        self.set(intrinsic("float32", self.lanes, name, a, b, self.get()))


@dataclass(frozen=True)
class Geometry:
    """A float convolution, pointwise ones and matrix products as one row of pixels.

    Attributes
    ----------
    x_shape, w_shape, out_shape : tuple of int
        ``[N, H, W, C]``, ``[O, KH, KW, C // groups]``, ``[N, OH, OW, O]``.
    strides, dilation : (int, int)
    padding : tuple of int
        Top, left, bottom, right.
    groups : int
    """

    x_shape: tuple[int, int, int, int]
    w_shape: tuple[int, int, int, int]
    out_shape: tuple[int, int, int, int]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    groups: int

    @classmethod
    def of(cls, workload: Workload) -> Geometry:
        """Simplify a workload."""
        w = workload
        strides, padding = tuple(w.strides), tuple(w.padding)
        dilation, out, x, weight = tuple(w.dilation), w.out_shape, w.x_shape, w.w_shape
        if w.op == "matmul_float":
            weight = (weight[0], 1, 1, weight[1])
        pointwise = weight[1:3] == (1, 1) and strides == (1, 1) and not any(padding)
        if w.op == "matmul_float" or (pointwise and w.groups == 1):
            pixels = x[0] if len(x) == 2 else x[0] * x[1] * x[2]
            x, out = (1, 1, pixels, x[-1]), (1, 1, pixels, out[-1])
            strides, dilation, padding = (1, 1), (1, 1), (0, 0, 0, 0)
        return cls(x, weight, out, strides, dilation, padding, w.groups)

    @property
    def read_size(self) -> tuple[int, int]:
        """Rows and columns of the padded input that are read."""
        sizes = zip(self.out_shape[1:3], self.strides, self.w_shape[1:3], self.dilation)
        rows, columns = ((o - 1) * s + (k - 1) * d + 1 for o, s, k, d in sizes)
        return rows, columns


@dataclass(frozen=True)
class Source:
    """Flat input of one image: element ``base + (row * columns + column) * C + channel``."""

    buffer: Any
    base: Expr
    columns: int


def flat(buffer: Any, shape: tuple[int, ...]) -> Any:
    """One-dimensional view of an argument."""
    return T.decl_buffer((i64(prod(shape)),), "float32", data=buffer.data)


def padded_source(geometry: Geometry, x: Any, image: Expr, loop: Callable) -> Source:
    """Where to read the image: in place, or from a copy with a border of zeros.

    ``loop`` is the kind of loop over the rows of the copy, ``T.serial`` or ``T.parallel``.
    """
    _, height, width, channels = geometry.x_shape
    if not any(geometry.padding):
        return Source(x, T.bind(image * (height * width * channels)), width)
    rows, columns = geometry.read_size
    top, left = geometry.padding[:2]
    work = T.alloc_buffer((i64(rows * columns * channels),), "float32")
    first = min(left, columns)
    inside = max(min(columns - left, width), 0)
    with loop(i64(rows)) as row:
        start = T.bind(row * (columns * channels))
        _zero(work, start, first * channels)
        _zero(work, start + (first + inside) * channels, (columns - first - inside) * channels)
        middle = T.bind(start + first * channels)
        with T.If(tirx.all(row >= top, row < top + height)):
            with T.Then():
                source = T.bind((image * height + (row - top)) * (width * channels))
                _runs(
                    inside * channels,
                    lambda i, n: store(work, load(x, source + i, n), middle + i, n),
                )
            with T.Else():
                _zero(work, middle, inside * channels)
    return Source(work, i64(0), columns)


def _zero(buffer: Any, start: Expr, count: int) -> None:
    _runs(count, lambda i, n: store(buffer, splat("float32", 0.0, n), start + i, n))


def _runs(count: int, body: Callable[[Expr, int], None]) -> None:
    """``body(offset, lanes)`` over ``count`` elements: vectors, then the rest one by one."""
    whole = count // _COPY_LANES
    if whole:
        with T.serial(i64(whole)) as i:
            body(i * _COPY_LANES, _COPY_LANES)
    if count % _COPY_LANES:
        with T.serial(i64(count % _COPY_LANES)) as i:
            body(whole * _COPY_LANES + i, 1)


def start_of(tile: Expr, size: int, extent: int) -> Expr:
    """First element of a tile; the last tile moves back inside."""
    return T.bind(tirx.min(tile * size, i64(extent - size)))


def store_channels(out: Any, offset: Expr, value: Expr, lanes: int, count: int) -> None:
    """Store the first ``count`` lanes of a vector."""
    if count >= lanes:
        store(out, value, offset, lanes)
        return
    value = T.bind(value)
    for lane in range(count):
        store(out, tirx.Shuffle([value], [lane]), offset + lane, 1)
