"""Inline the producers that cost nothing to repeat."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import Expr, TensorLoad

from tvmquant.schedules.default.analysis import Nest, leaf_blocks, nest_of
from tvmquant.schedules.default.contraction import is_contraction
from tvmquant.schedules.default.threads import in_threads

# Nodes of the largest expression that inlining may build: a producer that is read twice doubles
# it, and a chain of those would grow without bound.
_LARGEST = 400
# TVM's simplifier takes seconds for some tens of nested selections.
_MOST_SELECTS = 6


def inline_producers(sch: s_tir.Schedule) -> None:
    """Inline every elementwise producer that its consumers do not recompute at a price.

    Consumers that reread their input (contractions, overlapping windows) keep it in memory.
    """
    _inline(sch, _worth)


def inline_for_gpu(sch: s_tir.Schedule) -> None:
    """The same for a GPU, where arithmetic is cheaper than memory, and a loop is a launch.

    Blocks without a loop get one, unless they have threads of their own.
    """
    for block in leaf_blocks(sch):
        if not sch.get_loops(block) and not in_threads(sch.get(block).body):
            sch.add_unit_loop(block)
    _inline(sch, _worth_on_gpu)


def _inline(sch: s_tir.Schedule, worth: Callable[[Nest, list[Nest]], bool]) -> None:
    for block in leaf_blocks(sch)[:-1]:
        nest = nest_of(sch, block)
        if nest is None or nest.reduction or nest.store is None:
            continue
        consumers = [nest_of(sch, consumer) for consumer in sch.get_consumers(block)]
        if consumers and None not in consumers and worth(nest, consumers):
            _try_inline(sch, nest)


def _worth(nest: Nest, consumers: list[Nest]) -> bool:
    elements = prod(axis.extent for axis in nest.axes)
    for consumer in consumers:
        if is_contraction(consumer) or _scrambled(nest, consumer) or _too_large(nest, consumer):
            return False
    reads = sum(consumer.iterations for consumer in consumers)
    return reads <= elements or (_is_copy(nest) and not any(c.reduction for c in consumers))


def _worth_on_gpu(nest: Nest, consumers: list[Nest]) -> bool:
    if any(_too_large(nest, consumer) for consumer in consumers):
        return False
    reads = sum(consumer.iterations for consumer in consumers)
    return reads <= nest.iterations or not nest.heavy


def _is_copy(nest: Nest) -> bool:
    """Whether the block only moves, converts or fills: free to do again wherever it is read."""
    value = nest.store.value
    while isinstance(value, tirx.Cast):
        value = value.value
    return isinstance(value, TensorLoad) or not nest.loads


def _too_large(nest: Nest, consumer: Nest) -> bool:
    """Whether the consumer's body would grow too large with every read replaced."""
    reads: list[TensorLoad] = []

    def visit(load: TensorLoad) -> None:
        if load.source.same_as(nest.store.buffer):
            reads.append(load)

    tvm_ffi.structural_walk(consumer.stmt.body, (TensorLoad, visit))
    for kind, limit in ((Expr, _LARGEST), (tirx.Select, _MOST_SELECTS)):
        mine, theirs = _count(nest.store.value, kind), _count(consumer.stmt.body, kind)
        if mine and theirs + len(reads) * mine > limit:
            return True
    return False


def _count(node: Any, kind: type) -> int:
    found: list[Any] = []
    tvm_ffi.structural_walk(node, (kind, found.append))
    return len(found)


def _scrambled(nest: Nest, consumer: Nest) -> bool:
    """Whether the consumer reads through divisions, as after a reshape of permuted axes."""
    buffer = nest.store.buffer
    return any(
        consumer.stride(load, axis) is None
        for load in consumer.loads
        if load.source.same_as(buffer)
        for axis in consumer.axes
        if axis.extent > 1
    )


def _try_inline(sch: s_tir.Schedule, nest: Nest) -> None:
    try:
        sch.compute_inline(nest.block)
    except s_tir.ScheduleError:
        return  # for example: an output of the function, or read through another index
