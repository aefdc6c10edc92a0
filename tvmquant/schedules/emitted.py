"""What kernels have in common that write their own TIR."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from tvm import tirx

from tvmquant.schedules.workload import Workload


class EmittedKernel:
    """Base of frozen dataclasses: the PrimFunc is emitted once.

    Attributes
    ----------
    workload : Workload
    """

    workload: Workload

    def pack(
        self, weight: np.ndarray, bias: np.ndarray, params: tuple[np.ndarray, ...]
    ) -> list[np.ndarray]:
        """Constants of :meth:`prim_func`, in its order.

        Parameters
        ----------
        weight : np.ndarray
            int8, shape ``workload.w_shape``, values within ``workload.w_bits`` bits (of one bit:
            ±1) and sums of magnitudes within ``workload.max_abs_sum``, if that is known.
        bias : np.ndarray
            int32 ``[O]``.
        params : tuple of np.ndarray
            Requantize parameters, each ``[O]`` or ``[1]``.
        """
        raise NotImplementedError

    def emit(self) -> tirx.PrimFunc:
        """Make the PrimFunc ``(x, *packed, qinfo, [other], out)``."""
        raise NotImplementedError

    @cached_property
    def _prim_func(self) -> tirx.PrimFunc:
        return self.emit()

    def prim_func(self) -> tirx.PrimFunc:
        """What :meth:`emit` made."""
        return self._prim_func


class FusedKernel(EmittedKernel):
    """Base of kernels whose epilogue can add another tensor."""

    def with_residual(self, form: str) -> Self:
        """The same kernel with a residual addition in its epilogue."""
        return replace(self, workload=replace(self.workload, residual=form))


class PlannedKernel(FusedKernel):
    """Base of kernels whose plan has the workload.

    Attributes
    ----------
    plan : dataclass
        Everything that decides the code, with a field ``workload``.
    """

    plan: Any

    @property
    def workload(self) -> Workload:
        """The layer."""
        return self.plan.workload

    def with_residual(self, form: str) -> Self:
        """The same kernel with a residual addition in its epilogue."""
        workload = replace(self.workload, residual=form)
        return replace(self, plan=replace(self.plan, workload=workload))
