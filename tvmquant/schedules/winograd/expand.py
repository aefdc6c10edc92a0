"""Transformed weights, made from the packed ones when a model is loaded."""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.functions import argument, flat, mark
from tvmquant.schedules.linear.tir import (
    Expr,
    Register,
    cast,
    i64,
    load,
    splat,
    store,
)
from tvmquant.schedules.winograd.algorithms import Axis
from tvmquant.schedules.winograd.packing import packed_vectors
from tvmquant.schedules.winograd.plan import Plan
from tvmquant.schedules.winograd.values import wrapping
from tvmquant.schedules.workload import Expansion


def make_expansion(plan: Plan, name: str) -> Expansion:
    """Expansion of a kernel: transformed weights and, for bytes, what sums start from."""
    outputs = [(plan.expanded_shape, plan.operands.dtype)]
    if plan.has_offsets:
        outputs.append(((plan.channel_blocks, plan.algorithm.positions, plan.lanes), "int32"))
    return Expansion(_prim_func(plan, name), 1, tuple(outputs))


def _prim_func(plan: Plan, name: str) -> Any:
    per = 8 // plan.workload.w_bits
    size = plan.lanes * plan.operands.unit
    stored = (plan.channel_blocks, packed_vectors(plan) // per, size)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            packed = argument("packed", stored, "uint8")
            out = argument("expanded", plan.expanded_shape, plan.operands.dtype)
            offsets = None
            if plan.has_offsets:
                shape = (plan.channel_blocks, plan.algorithm.positions, plan.lanes)
                offsets = argument("offsets", shape, "int32")
            mark(name)
            packed, out = flat(packed), flat(out)
            with T.parallel(i64(plan.channel_blocks)) as block:
                with T.serial(i64(plan.turns)) as turn:
                    _turn(plan, packed, out, block, turn)
                if offsets is not None:
                    _offsets(plan, out, flat(offsets), block)
    return builder.get()


def _turn(plan: Plan, packed: Expr, out: Expr, block: Expr, turn: Expr) -> None:
    """Transform the weights of one turn of the inner loop."""
    operands, rows, columns = plan.operands, plan.algorithm.rows, plan.algorithm.columns
    lanes, size = operands.width, plan.lanes * operands.unit
    bits = plan.workload.w_bits
    per = 8 // bits
    start = T.bind(block * (packed_vectors(plan) // per * size))
    with T.serial(i64(size // lanes)) as part:
        taps = []
        for tap in range(9):
            vector = T.bind(turn * 9 + tap)
            at = T.bind(start + (vector // per) * size + part * lanes)
            value = cast("int16", lanes, load(packed, at, lanes))
            lower = tirx.Cast("int16", (vector % per) * bits)
            high = value << tirx.Broadcast(tirx.IntImm("int16", 16 - bits) - lower, lanes)
            if bits == 1:
                code = (high >> splat("int16", 15, lanes)) | splat("int16", 1, lanes)
                taps.append(T.bind(_existing(plan, code, turn, part)))
            else:
                taps.append(T.bind(high >> splat("int16", 16 - bits, lanes)))
        down = [_filter(rows, [taps[3 * i + j] for i in range(3)], lanes) for j in range(3)]
        for i in range(rows.points):
            values = _filter(columns, [column[i] for column in down], lanes)
            for j, value in enumerate(values):
                slot = block * plan.algorithm.positions + (i * columns.points + j)
                at = (slot * plan.turns + turn) * size + part * lanes
                store(out, cast(operands.dtype, lanes, value), at, lanes)


def _filter(axis: Axis, g: list[Expr], lanes: int) -> list[Expr]:
    """``G`` on one column or row of int16 vectors."""
    rows = []
    for factors in axis.filter_matrix:
        terms = [value * splat("int16", f, lanes) for f, value in zip(factors, g) if f]
        rows.append(T.bind(sum(terms[1:], terms[0])))
    return rows


def _existing(plan: Plan, code: Expr, turn: Expr, part: Expr) -> Expr:
    """±1 weights, zero where they belong to channels that only fill the last turn up."""
    operands = plan.operands
    lanes = operands.width
    if plan.depth == plan.channels:
        return code
    index = tirx.Cast("int32", turn * operands.unit + part // plan.vectors * operands.step)
    within = _channels(operands.step, lanes)
    channel = tirx.Broadcast(index, lanes) + within
    return tirx.Select(
        channel < splat("int32", plan.channels, lanes), code, splat("int16", 0, lanes)
    )


def _channels(step: int, lanes: int) -> Expr:
    """int32 vector ``0, 1, …, step - 1`` over and over."""
    numbers = tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), lanes)
    return numbers & splat("int32", step - 1, lanes)


def _offsets(plan: Plan, out: Expr, offsets: Expr, block: Expr) -> None:
    """Minus the product of the activations' offsets and the weights."""
    operands, points = plan.operands, plan.algorithm.columns.points
    lanes, width = operands.lanes, operands.width
    for position in range(plan.algorithm.positions):
        offset = int(plan.ranges.offsets[position // points, position % points])
        x = [splat("uint8", offset, width)] * operands.flush
        slot = T.bind(block * plan.algorithm.positions + position)
        with T.serial(i64(plan.vectors)) as v:
            total = Register("int32", lanes)
            total.set(splat("int32", 0, lanes))
            with T.serial(i64(plan.turns)) as turn:
                row = T.bind((slot * plan.turns + turn) * (plan.lanes * operands.unit))
                w = [
                    load(out, row + (part * plan.vectors + v) * width, width)
                    for part in range(operands.flush)
                ]
                total.set(operands.dot(total.get(), x, w))
            negative = wrapping("sub", lanes, splat("int32", 0, lanes), total.get())
            store(offsets, negative, slot * plan.lanes + v * lanes, lanes)
