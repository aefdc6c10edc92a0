"""TE definitions of the light integer operators, registered as their ``FLegalize``.

Importing this package is enough for ``relax.transform.LegalizeOps`` to lower every operator
below; :func:`legalize_ops` replaces some of TVM's own lowerings besides. The heavy operators
(convolution, constant matmul) never come here, ``pack`` turns them into kernels before.
"""

import tvm
from tvm import relax

from tvmquant.schedules.compute import (
    batch_matmul,
    dynamic,
    elementwise,
    exponential,
    half,
    pooling,
    quantize,
    resize,
    softmax,
)
from tvmquant.schedules.compute.requantize import OutputSpec, requantize_te

__all__ = [
    "OutputSpec",
    "batch_matmul",
    "dynamic",
    "elementwise",
    "exponential",
    "half",
    "legalize_ops",
    "pooling",
    "quantize",
    "requantize_te",
    "resize",
    "softmax",
]


def legalize_ops(*skipped: str) -> tvm.transform.Pass:
    """``LegalizeOps`` with lowerings in place of TVM's own: nearest resize, softmax, sigmoid.

    Operators named in ``skipped`` are left for a later call.
    """
    return relax.transform.LegalizeOps(
        {
            resize.RESIZE: resize.legalize_resize2d,
            softmax.SOFTMAX: softmax.legalize_softmax,
            **exponential.LOWERINGS,
        },
        skip_ops=list(skipped),
        enable_warning=False,
    )
