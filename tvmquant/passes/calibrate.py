"""Phase 3: run data through the annotated graph and choose every scale and zero point.

The result is an ordinary QDQ graph that still computes in float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.calibration import (
    RangeEstimator,
    activation_params,
    make_estimator,
    quantize_channels,
    quantize_weight,
)
from tvmquant.errors import CalibrationError
from tvmquant.graph import Builder, Graph, const_value, rewrite
from tvmquant.interpreter import Interpreter
from tvmquant.ops import is_op
from tvmquant.ops.waist import channel_bits, dequantize, quantize
from tvmquant.passes.flat_tails import trim_flat_tails
from tvmquant.recipe import Recipe

Progress = Callable[[str, int, int], None]


def calibrate(
    mod: tvm.IRModule,
    batches: Iterable[list[np.ndarray]],
    recipe: Recipe,
    progress: Progress | None = None,
    total: int = 0,
) -> tvm.IRModule:
    """Replace observe nodes by quantize → dequantize.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``annotate``.
    batches : iterable of list of np.ndarray
        Inputs of ``main`` in order, one list a run; consumed once.
    recipe : Recipe
    progress : callable, optional
        Called with ``("calibrate", done, total)``.
    total : int
        Number of batches when it is known, for the progress bar.

    Raises
    ------
    CalibrationError
        If there are no batches, or the network makes NaN or infinity of them.
    """
    estimators: dict[str, RangeEstimator] = {}

    def tap(_var: relax.Var, value: Any, result: np.ndarray) -> None:
        if not is_op(value, "tvmquant.observe"):
            return
        key = _key(value)
        if key not in estimators:
            estimators[key] = make_estimator(str(value.attrs["estimator"]), recipe.percentile)
        if not np.all(np.isfinite(result)):
            raise CalibrationError(
                f"calibration data makes tensor {value.attrs['name']!r} NaN or infinite; "
                "check the model's preprocessing"
            )
        estimators[key].update(result)

    interpreter = Interpreter(mod)
    done = 0
    for arrays in batches:
        interpreter.run(arrays, tap)
        done += 1
        if progress:
            progress("calibrate", done, max(total, done))
    if not done:
        raise CalibrationError("calibration data is empty: give at least one sample")
    return insert_qdq(mod, estimators, recipe)


def insert_qdq(
    mod: tvm.IRModule, estimators: dict[str, RangeEstimator], recipe: Recipe
) -> tvm.IRModule:
    """Turn observe nodes into QDQ nodes with the ranges of ``estimators``."""
    power_of_two = recipe.requantize == "power_of_two"
    graph = Graph(mod)

    def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
        if is_op(value, "tvmquant.observe_weight"):
            return _weight_node(value, power_of_two)
        if not is_op(value, "tvmquant.observe"):
            return None
        bits = int(value.attrs["bits"])
        symmetric = bool(value.attrs["symmetric"])
        low, high = estimators[_key(value)].range(bits, symmetric)
        if not str(value.attrs["group"]):
            low, high = trim_flat_tails(graph, var, low, high)
        scale, zero = activation_params(low, high, bits, symmetric, power_of_two)
        scale_const = relax.const(np.asarray(scale, np.float32))
        zero_const = relax.const(np.asarray(zero, np.uint8))
        call = quantize(
            value.args[0],
            scale_const,
            zero_const,
            bits=bits,
            qmin=0,
            qmax=2**bits - 1,
            dtype="uint8",
        )
        q = builder.emit(call, f"{var.name}/int")
        return dequantize(q, scale_const, zero_const, bits=bits)

    return rewrite(mod, visit)


def _weight_node(value: relax.Call, power_of_two: bool) -> relax.Call:
    attrs = value.attrs
    bits, axis = int(attrs["bits"]), int(attrs["axis"])
    options = {"estimator": str(attrs["estimator"]), "power_of_two": power_of_two}
    weight, widths = const_value(value.args[0]), channel_bits(value)
    if widths:
        q, scale = quantize_channels(weight, widths, axis=axis, **options)
    else:
        granularity = str(attrs["granularity"])
        q, scale = quantize_weight(weight, bits=bits, axis=axis, granularity=granularity, **options)
    constants = map(relax.const, (q, scale, np.zeros(scale.shape, np.int8)))
    return dequantize(*constants, bits=bits, axis=axis, channel_bits=widths)


def _key(call: relax.Call) -> str:
    group = str(call.attrs["group"])
    if group:
        return f"group:{group}"
    return f"{call.attrs['name']}:{int(call.attrs['bits'])}"
