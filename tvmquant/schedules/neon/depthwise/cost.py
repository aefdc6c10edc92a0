"""What a depthwise kernel should cost, in vector instructions that could start together."""

from __future__ import annotations

from tvmquant.schedules.neon.depthwise.chains import Form
from tvmquant.schedules.neon.depthwise.dots import Dots
from tvmquant.schedules.neon.depthwise.plan import Plan

# Of sixteen outputs: requantization, their share of loops and addresses.
_EPILOGUE = 22.0
# A multiplication that widens, as processors with dot products start half as many of them.
_WIDENING = 1.6
# Of sixteen copied values: two loads and stores, the padding's form, addresses.
_COPY = 3.3


def cost(plan: Plan, form: Form | Dots) -> float:
    """Estimate for the whole layer: of tiles, and of the copies that they read."""
    w = plan.workload
    images, rows = w.out_shape[:2]
    kw = w.w_shape[2]
    across = (plan.sizes.columns - 1) * w.strides[1] + kw
    pixels = plan.rows * plan.sizes.columns
    tiles = -(-rows // plan.rows) * plan.tiles
    if isinstance(form, Form):
        chains = sum(chain.cost for chain in form.chains(0)) + (_WIDENING - 1) * len(form.taps)
        tile = pixels * 2 * chains + len(form.taps) + w.w_shape[1] * across
        copies = plan.bands * plan.lines(plan.sizes.band) * plan.read_columns * _COPY
        weights = 0
    else:
        dots = 4 * kw * len(form.taps)
        bias = 6 * pixels  # with moves
        tile = dots * plan.sizes.columns + bias + dots + 4 * form.slots * across
        column = (2 + (form.mask > 0)) * len(form.lines) / 1.5 + 2 * form.slots + 2
        copies = -(-rows // plan.rows) * plan.read_columns * column
        weights = plan.bands * kw * len(form.taps) * 6
    return images * plan.blocks * (tiles * (tile + pixels * _EPILOGUE) + copies + weights)
