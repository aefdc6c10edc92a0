"""What the cost model sees of a candidate: named numbers, mostly logarithms of sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tvmquant.schedules.workload import Workload
from tvmquant.tuning.candidates import Candidate


def features(workload: Workload, candidate: Candidate) -> dict[str, float]:
    """Numbers by name; different rules have different names, what is missing is not 0.

    Parameters
    ----------
    workload : Workload
    candidate : Candidate
    """
    found = _of_workload(workload) | _of_config(workload, candidate.config)
    found |= {f"fact:{name}": _log(value) for name, value in candidate.facts.items()}
    # Names, as that of a product, are alternatives.
    named = {k: v for k, v in candidate.config.items() if isinstance(v, str)}
    found |= {f"config:{key}={value}": 1.0 for key, value in named.items()}
    found[f"rule:{candidate.rule}"] = 1.0
    found["default"] = float(candidate.default)
    if candidate.estimate is not None and math.isfinite(candidate.estimate):
        found["estimate"] = _log(candidate.estimate)
    return found


def _of_workload(w: Workload) -> dict[str, float]:
    pixels = math.prod(w.out_shape[:-1])
    depth = math.prod(w.w_shape[1:])
    x_bytes = math.prod(w.x_shape) * max(8, w.x_bits) // 8
    w_bytes = math.prod(w.w_shape) * w.w_bits / 8
    kernel = math.prod(w.w_shape[1:3]) if len(w.w_shape) == 4 else 1
    return {
        "macs": _log(w.macs),
        "pixels": _log(pixels),
        "columns": _log(w.out_shape[-2]),
        "outputs": _log(w.out_shape[-1]),
        "depth": _log(depth),
        "channels": _log(w.x_shape[-1]),
        "kernel": float(kernel),
        "stride": float(w.strides[0] if w.strides else 1),
        "groups": _log(w.groups),
        "padded": float(any(w.padding)),
        "x_bits": float(w.x_bits),
        "w_bits": float(w.w_bits),
        "no_saturation": float(w.no_saturation),
        "x_bytes": _log(x_bytes),
        "w_bytes": _log(w_bytes),
        "intensity": _log(w.macs / (x_bytes + w_bytes + pixels * w.out_shape[-1])),
    }


def _of_config(w: Workload, config: Mapping[str, Any]) -> dict[str, float]:
    found = {f"config:{name}": _number(value) for name, value in config.items()}
    rows, columns = (config.get(name) for name in ("rows", "columns"))
    if not isinstance(rows, int) or not isinstance(columns, int):
        return found
    vectors = config.get("vectors", config.get("width", 1))
    found["tile"] = float(rows * columns)
    found["sums"] = float(rows * columns * vectors)
    # Loads of one step of a register tile for each multiplication.
    found["loads"] = 1 / rows / columns + 1 / vectors
    if len(w.out_shape) == 4:
        height, width = w.out_shape[1:3]
        covered = -(-height // rows) * rows * -(-width // columns) * columns
        found["waste"] = covered / (height * width)
    return found


def _number(value: Any) -> float:
    if isinstance(value, bool | int | float):
        return _log(1 + value) if value >= 0 else float(value)
    # Strings and lists: their length tells little, but equal ones stay equal.
    return float(len(str(value)))


def _log(value: float) -> float:
    return math.log2(max(value, 1e-9))
