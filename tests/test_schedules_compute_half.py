"""Half-precision bits are widened exactly."""

import numpy as np
from compute_tools import assert_same
from run_relax import run

from tvmquant import reference
from tvmquant.ops.half import half_to_float
from tvmquant.targets import get_device


def test_every_finite_number():
    bits = np.arange(1 << 16).astype(np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))]
    for device in (None, get_device({"kind": "llvm"})):
        made = run([bits], lambda _, h: half_to_float(h), device)
        assert_same(made.view(np.uint32), reference.half_to_float(bits).view(np.uint32))
