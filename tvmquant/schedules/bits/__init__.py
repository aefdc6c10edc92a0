"""Integer kernels of 1- and 2-bit values that are faster than those of 8 bits."""

from tvmquant.schedules.bits.kernel import BitsKernel

__all__ = ["BitsKernel"]
