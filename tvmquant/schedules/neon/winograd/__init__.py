"""Exact integer Winograd convolution with NEON: sums modulo 2**32, or 2**16 for narrow values."""

from tvmquant.schedules.neon.winograd.kernel import NeonWinogradKernel

__all__ = ["NeonWinogradKernel"]
