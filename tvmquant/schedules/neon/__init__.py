"""Integer kernels for 64-bit ARM: NEON alone, with dot products, with matrix multiplication."""

from tvmquant.schedules.neon.depthwise import DepthwiseNeonKernel
from tvmquant.schedules.neon.direct import DirectKernel
from tvmquant.schedules.neon.winograd import NeonWinogradKernel

__all__ = ["DepthwiseNeonKernel", "DirectKernel", "NeonWinogradKernel"]
