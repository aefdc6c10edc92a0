"""The loops of a Winograd convolution that are the same on every processor.

For every block of tiles: transform the input, then for every block of output channels what the
subclass does. Threads share the blocks of tiles where there are many, else the blocks of output
channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.tirx.script import builder as T

from tvmquant.schedules.functions import loop
from tvmquant.schedules.linear.tir import Expr, i64
from tvmquant.schedules.winograd.emit_input import InputTransform
from tvmquant.schedules.winograd.plan import PIECES


@dataclass
class Nest:
    """Emitter of the loops.

    Attributes
    ----------
    plan : Plan
        Of either kind.
    x : Buffer
        Flat input.
    zero_point : Expr
        uint8 padding value.
    """

    plan: Any
    x: Expr
    zero_point: Expr

    def emit(self) -> None:
        """Emit all loops."""
        plan = self.plan
        shared = plan.parallel
        with loop(plan.blocks, shared == "tiles") as block:
            first = T.bind(block * plan.block)
            count = i64(plan.block)
            if plan.tiles % plan.block:
                count = T.bind(T.min(count, i64(plan.tiles) - first))
            x_size = plan.algorithm.positions * plan.x_stride
            transformed = T.alloc_buffer((i64(x_size),), plan.operands.x_dtype)
            self._input(first, count, transformed, shared == "channels")
            with loop(plan.channel_blocks, shared == "channels") as channel_block:
                self._channel_block(first, count, transformed, channel_block)

    def _input(self, first: Expr, count: Expr, out: Expr, parallel: bool) -> None:
        plan = self.plan
        patch_size = plan.algorithm.positions * plan.channels

        def tiles(start: Expr, extent: Expr) -> None:
            patch = T.alloc_buffer((i64(patch_size),), "uint8")
            transform = InputTransform(plan, self.x, patch, out, self.zero_point)
            with T.serial(extent) as i:
                index = T.bind(start + i)
                transform.emit(T.bind(first + index), index)

        if not parallel:
            tiles(i64(0), count)
            return
        share = -(-plan.block // PIECES)
        with T.parallel(i64(-(-plan.block // share))) as piece:
            start = T.bind(piece * share)
            tiles(start, T.bind(T.max(T.min(i64(share), count - start), i64(0))))

    def _channel_block(
        self, first: Expr, count: Expr, transformed: Expr, channel_block: Expr
    ) -> None:
        """Outputs of one block of channels for ``count`` tiles from ``first`` on."""
        raise NotImplementedError
