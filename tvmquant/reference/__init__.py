"""NumPy meaning of every integer operator: exact, slow, readable.

Every kernel on every device must equal these functions bit for bit. Activations are stored as
``uint8`` whatever their bits (``q`` in ``0 … 2**bits - 1``), weights as ``int8``; feature maps
are channels-last.
"""

from tvmquant.reference.dynamic import dynamic_quantize, dynamic_rescale
from tvmquant.reference.elementwise import add, lut, multiply
from tvmquant.reference.half import float_to_half, half_to_float
from tvmquant.reference.linear import batch_matmul, conv2d, matmul
from tvmquant.reference.pooling import avg_pool2d, max_pool2d, mean
from tvmquant.reference.quantize import (
    dequantize,
    pack_bits,
    quantize,
    unpack_bits,
)
from tvmquant.reference.requantize import FLAVOURS, make_requantize_params, requantize
from tvmquant.reference.weight_only import weight_only_bound, weight_only_matmul
from tvmquant.reference.wrap import wrap_int32

__all__ = [
    "FLAVOURS",
    "add",
    "avg_pool2d",
    "batch_matmul",
    "conv2d",
    "dequantize",
    "dynamic_quantize",
    "dynamic_rescale",
    "float_to_half",
    "half_to_float",
    "lut",
    "make_requantize_params",
    "matmul",
    "max_pool2d",
    "mean",
    "multiply",
    "pack_bits",
    "quantize",
    "requantize",
    "unpack_bits",
    "weight_only_bound",
    "weight_only_matmul",
    "wrap_int32",
]
