"""Where the time of a compiled model goes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from benchmarks.peaks import best_float, best_int8

# Convolutions and matmuls under this part of the peak are listed.
SLOW = 0.4
COSTLY = 5


def summarize_profile(profile: Any, peaks: dict[str, float]) -> dict[str, Any]:
    """Plain data from :class:`tvmquant.Profile`.

    Returns
    -------
    dict
        ``total_us``; ``operators``: microseconds by operator; ``costly_light``: the most
        expensive layers without multiply-accumulates; ``slow``: layers that reach less than
        ``SLOW`` of the peak of their arithmetic; ``linear_gops``: of all layers that multiply.
    """
    operators: dict[str, float] = defaultdict(float)
    light, slow, macs, linear_us = [], [], 0, 0.0
    for row in profile.rows:
        operators[row.layer.operator] += row.microseconds
        if not row.layer.macs:
            light.append(describe(row))
            continue
        macs, linear_us = macs + row.layer.macs, linear_us + row.microseconds
        peak = best_float(peaks) if row.layer.weight_bits is None else best_int8(peaks)
        gops = row.gops
        if gops is not None and gops < SLOW * peak:
            slow.append({**describe(row), "gops": gops, "of_peak": gops / peak})
    light.sort(key=lambda item: -item["us"])
    slow.sort(key=lambda item: -item["us"])
    return {
        "total_us": profile.total_us,
        "layers_us": profile.layers_us,
        "linear_us": linear_us,
        "linear_gops": 2e-3 * macs / linear_us if linear_us else None,
        "operators": dict(sorted(operators.items(), key=lambda item: -item[1])),
        "costly_light": light[:COSTLY],
        "slow": slow,
    }


def describe(row: Any) -> dict[str, Any]:
    """Name, operator, shapes, bits, kernel and microseconds of a layer."""
    layer = row.layer
    return {
        "name": layer.name,
        "operator": layer.operator,
        "shapes": [list(shape) for shape in (*layer.input_shapes, layer.output_shape)],
        "bits": layer.bits,
        "kernel": layer.kernel,
        "us": row.microseconds,
    }
