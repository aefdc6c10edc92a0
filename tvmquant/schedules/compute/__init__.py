"""TE definitions of the light integer operators, registered as their ``FLegalize``.

Importing this package is enough: ``relax.transform.LegalizeOps`` then lowers every operator
below. The heavy operators (convolution, constant matmul) never come here, ``pack`` turns them
into kernels before.
"""

from tvmquant.schedules.compute import batch_matmul, elementwise, pooling, quantize
from tvmquant.schedules.compute.requantize import OutputSpec, requantize_te

__all__ = [
    "OutputSpec",
    "batch_matmul",
    "elementwise",
    "pooling",
    "quantize",
    "requantize_te",
]
