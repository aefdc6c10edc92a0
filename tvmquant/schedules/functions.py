"""What generated PrimFuncs are made with: arguments, names, loops."""

from __future__ import annotations

import math
from typing import Any

from tvm.tirx.script import builder as T

from tvmquant.schedules.linear.tir import Expr, i64
from tvmquant.schedules.workload import Workload

# dtypes of the constant arrays of every flavour, in the order of ``make_requantize_params``.
PARAM_DTYPES: dict[str, tuple[str, ...]] = {
    "float": ("float32",),
    "dequantize": ("float32",),
    "fixed_point": ("int32", "int32"),
    "power_of_two": ("int32",),
    "none": (),
}


def argument(name: str, shape: tuple[int, ...], dtype: str) -> Expr:
    """Declare a buffer argument."""
    return T.arg(name, T.Buffer(tuple(i64(d) for d in shape), dtype))


def requantize_arguments(workload: Workload, shape: tuple[int, ...]) -> list[Expr]:
    """Declare the parameters that a layer requantizes with."""
    dtypes = PARAM_DTYPES[workload.requantize]
    return [argument(f"param{i}", shape, dtype) for i, dtype in enumerate(dtypes)]


def last_arguments(workload: Workload) -> tuple[Expr, Expr | None, Expr]:
    """Declare ``qinfo``, what is added (``None`` where nothing is) and the output of a layer."""
    qinfo = argument("qinfo", (workload.numbers,), "int32")
    other = argument("other", workload.out_shape, "uint8") if workload.residual else None
    return qinfo, other, argument("out", workload.out_shape, workload.out_dtype)


def mark(name: str) -> None:
    """Name the function and mark it as scheduled."""
    T.func_name(name)
    attrs = {"global_symbol": name, "tirx.noalias": True, "op_pattern": 8}
    T.func_attr({**attrs, "tvmquant.scheduled": True})


def flat(buffer: Expr) -> Expr:
    """One-dimensional view of a buffer."""
    size = math.prod(int(extent) for extent in buffer.shape)
    return T.decl_buffer((i64(size),), str(buffer.dtype), data=buffer.data)


def loop(extent: Any, parallel: bool) -> Any:
    """Loop whose turns threads may share."""
    return (T.parallel if parallel else T.serial)(
        i64(extent) if isinstance(extent, int) else extent
    )
