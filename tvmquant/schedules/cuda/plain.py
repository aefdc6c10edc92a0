"""Kernels without tensor cores: depthwise, float and weight-only layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tvmquant.schedules.cuda.geometry import (
    channel_constants,
    definition,
    flavours,
    geometry,
    integer_arguments,
    name_of,
    requantize_arguments,
    residual_argument,
)
from tvmquant.schedules.cuda.launch import Launch
from tvmquant.schedules.cuda.source import settings, with_headers
from tvmquant.schedules.functions import PARAM_DTYPES
from tvmquant.schedules.emitted import EmittedKernel, FusedKernel
from tvmquant.schedules.workload import Workload

_THREADS = 128
# Neighbouring pixels that a thread of a depthwise layer computes.
_PIXELS = 4
_FLOAT_TILE = 64
_FLOAT_SHARED = 2 * 16 * (_FLOAT_TILE + 4) * 4
# Rows of activations that a warp of a weight-only layer takes at a time, and the blocks that a grid
# may have along y.
_ROWS, _BLOCKS_Y = 8, 65535

Arguments = list[tuple[str, tuple[int, ...], str]]


def _by_depth(weight: np.ndarray) -> np.ndarray:
    """``[O, KH, KW, C]`` or ``[O, K]`` → ``[K, O]``."""
    return np.ascontiguousarray(weight.reshape(weight.shape[0], -1).T)


@dataclass(frozen=True)
class PlainKernel(EmittedKernel):
    """Base: a kernel is its arguments and a call of a function in ``assets/cuda``."""

    workload: Workload

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload."""
        return name_of(self.workload, "cuda")

    @property
    def label(self) -> str:
        """For profiles."""
        kind = "depthwise" if self.workload.op.startswith("depthwise") else "direct"
        return f"{kind} cuda"

    def emit(self) -> Any:
        """PrimFunc of the kernel's arguments."""
        return self.launch.prim_func(self.arguments)

    @property
    def arguments(self) -> Arguments:
        """Arguments of the kernel: name, shape, dtype; the last one is written."""
        raise NotImplementedError

    @property
    def launch(self) -> Launch:
        """Source and launch."""
        raise NotImplementedError

    def _body(self, function: str, values: dict, enums: dict, given: str) -> str:
        call = f"tvmquant::{function}<{self.name}_sizes>({given})"
        arguments = [(name, dtype) for name, _, dtype in self.arguments]
        return settings(self.name, values, enums) + definition(self.name, arguments, call)


@dataclass(frozen=True)
class DepthwiseKernel(PlainKernel, FusedKernel):
    """Depthwise convolution of bytes, exact."""

    @property
    def _dots(self) -> bool:
        """Whether four neighbouring taps of a row are multiplied together."""
        w = self.workload
        return w.w_shape[0] % 4 == 0 and (w.dilation or (1, 1))[1] == 1 and w.w_shape[2] > 1

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Weights as :file:`depthwise.cuh` has them, bias, requantize parameters of channels."""
        rest = channel_constants(self.workload.w_shape[0], bias, *params)
        if not self._dots:
            return [_by_depth(weight), *rest]
        rows = weight[..., 0].transpose(1, 0, 2)  # row of taps, channel, tap
        return [np.pad(rows, ((0, 0), (0, 0), (0, -rows.shape[2] % 4))), *rest]

    @property
    def arguments(self) -> Arguments:
        """``x, weights, bias, *params, qinfo, out``."""
        channels, kh, kw = self.workload.w_shape[:3]
        packed = (kh, channels, -(-kw // 4) * 4) if self._dots else (kh * kw, channels)
        return integer_arguments(self.workload, packed, "int8")

    @cached_property
    def launch(self) -> Launch:
        """A thread a few channels of a few pixels."""
        w = self.workload
        n, oh, ow, channels = w.out_shape
        vector = 4 if channels % 4 == 0 else 1
        values = {
            **geometry(w),
            "VECTOR": vector,
            "DOTS": int(self._dots),
            "PIXELS": _PIXELS,
            "THREADS": _THREADS,
            "PARAMS": len(PARAM_DTYPES[w.requantize]),
        }
        enums = flavours(w)
        given = f"x, weights, bias, {requantize_arguments(w)}, qinfo, {residual_argument(w)}, out"
        source = with_headers(
            self._body("depthwise", values, enums, given),
            "ptx.cuh",
            "requantize.cuh",
            "depthwise.cuh",
        )
        threads = n * oh * -(-ow // _PIXELS) * (channels // vector)
        return Launch(self.name, source, (-(-threads // _THREADS), 1, 1), _THREADS, 0)


@dataclass(frozen=True)
class FloatKernel(PlainKernel):
    """Float convolution (of any groups) or matrix product."""

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Weights by K, then channel, and bias."""
        return [_by_depth(weight), bias]

    @property
    def arguments(self) -> Arguments:
        """``x, weights, bias, out``."""
        w = self.workload
        return [
            ("x", w.x_shape, "float32"),
            ("weights", (math.prod(w.w_shape[1:]), w.w_shape[0]), "float32"),
            ("bias", w.w_shape[:1], "float32"),
            ("out", w.out_shape, "float32"),
        ]

    @cached_property
    def launch(self) -> Launch:
        """A block a tile of outputs; for depthwise layers a thread an output."""
        w = self.workload
        values = {**geometry(w), "THREADS": _THREADS}
        if w.op.startswith("depthwise"):
            body = self._body("float_depthwise", values, {}, "x, weights, bias, out")
            blocks = -(-math.prod(w.out_shape) // _THREADS)
            source = with_headers(body, "floating.cuh")
            return Launch(self.name, source, (blocks, 1, 1), _THREADS, 0)
        body = self._body("float_layer", values, {}, "x, weights, bias, out, shared")
        rows, outputs = math.prod(w.out_shape[:-1]), w.w_shape[0] // w.groups
        blocks = -(-rows // _FLOAT_TILE) * -(-outputs // _FLOAT_TILE)
        source = with_headers(body, "floating.cuh")
        return Launch(self.name, source, (blocks, w.groups, 1), 256, _FLOAT_SHARED)


@dataclass(frozen=True)
class WeightOnlyKernel(PlainKernel):
    """Float activations times integer weights with a scale for each group."""

    @property
    def _words(self) -> int:
        return -(-self.workload.w_shape[1] * self.workload.w_bits // 32)

    @property
    def _group(self) -> int:
        return self.workload.group_size or self.workload.w_shape[1]

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Codes of a row packed from the lowest bits up, bias, scales, zero points."""
        bits = self.workload.w_bits
        codes = np.zeros((len(weight), self._words * 32 // bits), np.uint32)
        codes[:, : weight.shape[1]] = weight.view(np.uint8) & ((1 << bits) - 1)
        shift = np.arange(32 // bits, dtype=np.uint32) * bits
        words = np.bitwise_or.reduce(codes.reshape(len(weight), self._words, -1) << shift, axis=2)
        return [words.astype("<u4").view(np.int32), bias, *map(np.ascontiguousarray, params)]

    @property
    def arguments(self) -> Arguments:
        """``x, weights, bias, scale, [zero_point,] out``."""
        w = self.workload
        outputs, depth = w.w_shape
        groups = (outputs, -(-depth // self._group))
        return [
            ("x", w.x_shape, "float32"),
            ("weights", (outputs, self._words), "int32"),
            ("bias", (outputs,), "float32"),
            ("scale", groups, "float32"),
            *([("zero_point", groups, "int8")] if w.zero_points else []),
            ("out", w.out_shape, "float32"),
        ]

    @cached_property
    def launch(self) -> Launch:
        """A warp an output channel."""
        w = self.workload
        outputs, depth = w.w_shape
        rows = min(max(_ROWS, -(-w.x_shape[0] // _BLOCKS_Y)), w.x_shape[0])
        values = {
            "BATCH": w.x_shape[0],
            "DEPTH": depth,
            "OUTPUTS": outputs,
            "W_BITS": w.w_bits,
            "GROUP": self._group,
            "ZERO_POINTS": int(w.zero_points),
            "ROWS": rows,
            "THREADS": _THREADS,
        }
        zero = "zero_point" if w.zero_points else "nullptr"
        given = f"x, reinterpret_cast<const unsigned *>(weights), bias, scale, {zero}, out"
        source = with_headers(self._body("weight_only", values, {}, given), "weight_only.cuh")
        grid = (-(-outputs // (_THREADS // 32)), -(-w.x_shape[0] // rows), 1)
        return Launch(self.name, source, grid, _THREADS, 0)
