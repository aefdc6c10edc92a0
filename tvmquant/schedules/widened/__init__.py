"""Kernels of 8-bit weights for layers of fewer bits, where those would be no faster."""

from tvmquant.schedules.widened.kernel import WidenedKernel

__all__ = ["WidenedKernel"]
