"""Phase 1: constants folded, one canonical form per operator, channels-last, affine maps folded."""

from __future__ import annotations

import tvm

from tvmquant.passes.canonicalize import canonicalize
from tvmquant.passes.fold_affine import fold_affine
from tvmquant.passes.fold_constants import fold_constants
from tvmquant.passes.hoist import hoist_elementwise
from tvmquant.passes.layout import channels_last
from tvmquant.passes.moves import merge_moves


def simplify(mod: tvm.IRModule) -> tvm.IRModule:
    """Bring an imported float (or QDQ) graph to the form that ``annotate`` expects."""
    for step in (
        fold_constants,
        canonicalize,
        hoist_elementwise,
        merge_moves,
        channels_last,
        fold_constants,
        hoist_elementwise,
        fold_affine,
        merge_moves,
    ):
        mod = step(mod)
    return mod
