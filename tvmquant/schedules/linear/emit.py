"""The PrimFunc of a dense integer kernel.

Loop nest, outermost first: images, chunks of pixels and blocks (shared out to the threads),
groups, blocks of output channels, register tiles, reduction steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.epilogue import PARAM_DTYPES, Epilogue
from tvmquant.schedules.linear.geometry import InputPlan
from tvmquant.schedules.linear.isa import InstructionSet
from tvmquant.schedules.linear.tiling import Tiling
from tvmquant.schedules.linear.tir import Expr, Register, broadcast, i64, load, splat
from tvmquant.schedules.linear.workspace import emit_copy
from tvmquant.schedules.workload import Workload


@dataclass(frozen=True)
class Plan:
    """Everything that decides the code of one kernel."""

    name: str
    workload: Workload
    isa: InstructionSet
    input: InputPlan
    tiling: Tiling

    @property
    def weight_count(self) -> int:
        """Elements of the packed weights."""
        per = 8 // self.workload.w_bits
        words = -(-self.input.steps // per) * self.input.step
        return self.input.geometry.groups * self.tiling.group_lanes * words

    @property
    def param_count(self) -> int:
        """Elements of the bias and of each requantize parameter."""
        return self.input.geometry.groups * self.tiling.group_lanes

    @property
    def has_table(self) -> bool:
        """Whether the offsets of the reduction steps come from a table."""
        return len(self.input.run_starts) > 1


def emit_prim_func(plan: Plan) -> tirx.PrimFunc:
    """Build ``(x, weights, bias, *params, [offsets], qinfo, out)``."""
    workload, flavour = plan.workload, plan.workload.requantize
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(plan.name)
            x = _arg("x", workload.x_shape, "uint8")
            w = _arg("w", (plan.weight_count,), "int8" if workload.w_bits == 8 else "uint8")
            bias = _arg("bias", (plan.param_count,), "int32")
            params = [
                _arg(f"param{i}", (plan.param_count,), dtype)
                for i, dtype in enumerate(PARAM_DTYPES[flavour])
            ]
            table = _arg("offsets", (plan.input.steps,), "int32") if plan.has_table else None
            qinfo = _arg("qinfo", (4,), "int32")
            out = _arg("out", workload.out_shape, workload.out_dtype)
            T.func_attr(
                {
                    "global_symbol": plan.name,
                    "tirx.noalias": True,
                    "tvmquant.scheduled": True,
                    "op_pattern": 8,
                }
            )
            flat_out = _flat(out, workload.out_shape, workload.out_dtype)
            numbers = [T.bind(qinfo[i64(i)]) for i in range(4)]
            epilogue = Epilogue(flavour, plan.isa.x86, flat_out, params, *numbers[1:])
            flat_x = _flat(x, workload.x_shape, "uint8")
            _Nest(plan, flat_x, w, bias, table, epilogue).emit(numbers[0])
    return builder.get()


def _arg(name: str, shape: tuple[int, ...], dtype: str) -> Expr:
    return T.arg(name, T.Buffer(tuple(i64(d) for d in shape), dtype))


def _flat(buffer: Expr, shape: tuple[int, ...], dtype: str) -> Expr:
    size = 1
    for extent in shape:
        size *= extent
    return T.decl_buffer((i64(size),), dtype, data=buffer.data)


@dataclass
class _Nest:
    plan: Plan
    x: Expr
    w: Expr
    bias: Expr
    table: Expr | None
    epilogue: Epilogue

    def emit(self, x_zero_point: Expr) -> None:
        source, tiling = self.plan.input, self.plan.tiling
        g = source.geometry
        work = None
        if source.copied:
            work = T.alloc_buffer((i64(source.workspace),), source.dtype)
        image_size = g.height * g.width * g.channels
        with T.serial(i64(g.images)) as image:
            if work is not None:
                base = T.bind(image * image_size)
                emit_copy(source, self.x, base, work, x_zero_point, tiling.parallel)
            x_base = image * image_size if work is None else i64(0)
            reads = self.x if work is None else work
            out_base = image * (g.out[0] * g.out[1] * g.out_channels)
            loop = T.parallel if tiling.parallel else T.serial
            with loop(i64(tiling.chunks * tiling.block_chunks)) as chunk:
                self._chunk(chunk, reads, T.bind(x_base), T.bind(out_base))

    def _chunk(self, chunk: Expr, reads: Expr, x_base: Expr, out_base: Expr) -> None:
        plan, tiling = self.plan, self.plan.tiling
        g = plan.input.geometry
        part, share = i64(0), tiling.full_blocks
        pixels = chunk
        if tiling.block_chunks > 1:
            share = -(-tiling.full_blocks // tiling.block_chunks)
            pixels = T.bind(chunk // tiling.block_chunks)
            part = T.bind(chunk % tiling.block_chunks)
        tiles = -(-g.out[0] // tiling.rows) * -(-g.out[1] // tiling.columns)
        first = T.bind(pixels * tiling.chunk_tiles)
        count = T.bind(T.min(i64(tiling.chunk_tiles), i64(tiles) - first))
        step_bytes = plan.weight_count // plan.param_count
        with T.serial(i64(g.groups)) as group:
            lanes = tiling.group_lanes
            x_group = T.bind(x_base + group * (plan.input.channels // g.groups))
            out_group = T.bind(out_base + group * g.group_outputs)
            params = T.bind(group * lanes)
            block_lanes = sum(tiling.vectors)

            def tile_loop(channel: Expr, vectors: tuple[int, ...], valid: int) -> None:
                place = _Place(
                    reads, x_group, out_group, T.bind(params + channel), channel, step_bytes
                )
                with T.serial(count) as tile:
                    self._tile(T.bind(first + tile), vectors, valid, place)

            begin = part * share
            stop = T.min(i64(share), i64(tiling.full_blocks) - begin)
            valid = block_lanes if tiling.tail else min(block_lanes, g.group_outputs)
            if not tiling.tail and tiling.full_blocks > 1:
                valid = g.group_outputs - (tiling.full_blocks - 1) * block_lanes
            whole = stop
            split_last = not tiling.tail and valid < block_lanes and tiling.full_blocks > 1
            del whole
            with T.serial(stop) as block:
                tile_loop(T.bind((begin + block) * block_lanes), tiling.vectors, valid)
            del split_last
            if tiling.tail:
                channel = tiling.full_blocks * block_lanes
                self._tail(part, lambda: tile_loop(i64(channel), tiling.tail,
                                                   g.group_outputs - channel))
