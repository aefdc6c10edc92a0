"""Integer depthwise convolution."""

from tvmquant.schedules.depthwise.kernel import DepthwiseKernel

__all__ = ["DepthwiseKernel"]
