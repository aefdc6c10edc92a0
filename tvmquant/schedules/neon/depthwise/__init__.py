"""Depthwise convolution in NEON."""

from tvmquant.schedules.neon.depthwise.kernel import DepthwiseNeonKernel

__all__ = ["DepthwiseNeonKernel"]
