"""Exact integer Winograd kernels of 3×3 convolutions."""

from tvmquant.schedules.winograd.bounds import weight_bound
from tvmquant.schedules.winograd.kernel import WinogradKernel

__all__ = ["WinogradKernel", "weight_bound"]
