"""The Winograd kernel and its rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tvm import tirx

from tvmquant.schedules.linear.packing import pack_outputs
from tvmquant.schedules.winograd.emit import emit_prim_func
from tvmquant.schedules.winograd.expand import make_expansion
from tvmquant.schedules.winograd.packing import pack_biases, pack_weights
from tvmquant.schedules.winograd.plan import Plan, make_plan
from tvmquant.schedules.workload import Expansion, Workload


@dataclass(frozen=True)
class WinogradKernel:
    """Exact integer Winograd convolution with its whole epilogue.

    Attributes
    ----------
    workload : Workload
        3×3 ``conv2d`` of stride 1.
    isa : str
        See :func:`tvmquant.schedules.winograd.operands.instruction_set`.
    size : int
        Rows and columns of outputs of a tile: 2, 3 or 4.
    operands : str
        ``words`` or ``bytes``.
    """

    workload: Workload
    isa: str
    size: int
    operands: str

    @property
    def name(self) -> str:
        """Name of the kernel, unique for its workload and instruction set."""
        w = self.workload
        shapes = ["x".join(map(str, shape)) for shape in (w.x_shape, w.w_shape)]
        bits = f"w{w.w_bits}a{w.x_bits}"
        method = f"f{self.size}_{self.operands}_{self.isa}"
        padding = "_".join(map(str, w.padding))
        return "_".join(["winograd", *shapes, padding, bits, w.requantize, method])

    @property
    def label(self) -> str:
        """Tile and register block, for profiles."""
        plan = self.plan
        block = f"{plan.rows}x{plan.vectors}"
        return f"winograd F{self.size} {self.operands} {self.isa} {block}"

    @cached_property
    def plan(self) -> Plan:
        """Everything that decides the code."""
        plan = make_plan(self.workload, self.isa, self.size, self.operands)
        if plan is None:
            raise ValueError(f"{self.name} is not proven to be exact")
        return plan

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Weights for the expansion, then centre, bias and requantize parameters.

        Parameters
        ----------
        weight : np.ndarray
            int8 ``[O, 3, 3, C]``, values within ``workload.w_bits`` bits.
        bias : np.ndarray
            int32 ``[O]``.
        params : tuple of np.ndarray
            Requantize parameters, each ``[O]`` or ``[1]``.
        """
        plan = self.plan
        padded = [pack_outputs(p, plan.outputs, 1, plan.padded_outputs) for p in params]
        return [pack_weights(weight, plan), *pack_biases(weight, bias, plan), *padded]

    @cached_property
    def _prim_func(self) -> tirx.PrimFunc:
        return emit_prim_func(self.plan, self.name)

    def prim_func(self) -> tirx.PrimFunc:
        """Return ``(x, weights, [offsets], centre, bias, *params, qinfo, out)``."""
        return self._prim_func

    @cached_property
    def _expansion(self) -> Expansion:
        return make_expansion(self.plan, self.name)

    def expansion(self) -> Expansion:
        """Transformed weights (and, for bytes, what sums start from), made at load time."""
        return self._expansion
