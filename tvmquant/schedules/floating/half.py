"""Float kernels whose weights are stored as float16.

Where the processor converts half precision, a kernel widens the weights that it loads, which costs
no time that could be measured. Elsewhere they become float32 when the model is loaded, so that only
the file is smaller; a recipe that forbids that makes kernels widen with integer instructions.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tvmquant.reference.half import float_to_half
from tvmquant.schedules.compute.half import REBIAS
from tvmquant.schedules.functions import argument, flat, loop, mark
from tvmquant.schedules.linear.tir import Expr, bits_as, cast, i64, load, splat, store
from tvmquant.schedules.space import Config
from tvmquant.schedules.workload import Expansion, Workload
from tvmquant.targets.device import Device

_LANES = 16
_PIECE = 1 << 14


def converts_half(device: Device) -> bool:
    """Whether the processor has instructions from float16 to float32."""
    is_arm64 = "aarch64" in str(device.target.attrs.get("mtriple", ""))
    return "f16c" in device.features or (is_arm64 and "neon" in device.features)


def widen(bits: Expr, lanes: int, native: bool) -> Expr:
    """float32 vector of a uint16 vector of half-precision bits (finite numbers)."""
    if native:
        return cast("float32", lanes, bits_as("float16", lanes, bits))
    wide = T.bind(cast("int32", lanes, bits))
    magnitude = (wide & splat("int32", 0x7FFF, lanes)) << splat("int32", 13, lanes)
    value = bits_as("float32", lanes, magnitude) * splat("float32", REBIAS, lanes)
    sign = (wide & splat("int32", 0x8000, lanes)) << splat("int32", 16, lanes)
    return bits_as("float32", lanes, bits_as("int32", lanes, value) | sign)


def half_bits(weight: np.ndarray) -> np.ndarray:
    """uint16 of weights that are float16 numbers."""
    bits = float_to_half(weight)
    assert bits is not None, "checked by store_half"
    return bits


class ExpandedHalfKernel:
    """A float kernel that finds its float16 weights expanded.

    Parameters
    ----------
    workload : Workload
        With ``w_bits`` of 16.
    device : Device
    kernel : Kernel
        The float32 kernel.
    """

    def __init__(self, workload: Workload, device: Device, kernel: Any) -> None:
        self.workload, self.device, self.kernel = workload, device, kernel
        self.name = kernel.name
        self.label = f"{kernel.name}_expanded"

    def configs(self) -> list[Config]:
        """Those of the float32 kernel."""
        return self.kernel.configs()

    def with_config(self, config: Config) -> ExpandedHalfKernel:
        """The same kernel at other sizes."""
        return ExpandedHalfKernel(self.workload, self.device, self.kernel.with_config(config))

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """As the float32 kernel, weights as uint16."""
        first, *rest = self.kernel.pack(weight, bias, params)
        return [half_bits(first), *rest]

    def prim_func(self) -> Any:
        """The float32 kernel's."""
        return self.kernel.prim_func()

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        w = self.workload
        zeros = np.zeros(w.w_shape, np.float32)
        return tuple(self.kernel.pack(zeros, np.zeros(w.w_shape[0], np.float32), ())[0].shape)

    def expansion(self) -> Expansion:
        """uint16 to float32."""
        shape = self._shape
        return Expansion(self._widening(shape), 1, ((shape, "float32"),))

    def _widening(self, shape: tuple[int, ...]) -> tirx.PrimFunc:
        size, native = int(np.prod(shape)), converts_half(self.device)
        lanes = max(n for n in (1, 2, 4, 8, _LANES) if n <= size)
        steps = -(-size // lanes)
        pieces = -(-steps * lanes // _PIECE)
        each = -(-steps // pieces)
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                bits = argument("bits", shape, "uint16")
                out = argument("expanded", shape, "float32")
                mark("widen_half")
                bits, out = flat(bits), flat(out)
                with loop(pieces, pieces > 1) as piece:
                    with T.serial(i64(each)) as i:
                        # The last steps move back inside.
                        at = T.bind(tirx.min((piece * each + i) * lanes, i64(size - lanes)))
                        store(out, widen(load(bits, at, lanes), lanes, native), at, lanes)
        return builder.get()


def at_32_bits(workload: Workload) -> Workload:
    """The same layer with float32 weights."""
    return replace(workload, w_bits=32)
