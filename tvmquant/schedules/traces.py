"""Schedules of TE functions as data: what identifies a function, and replaying a trace on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx

from tvmquant.schedules.space import ConfigError, TuningDatabase
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device

# Names of the two ways to schedule a TE function, in the place of a rule's name.
DEFAULT = "default"
TRACE = "metaschedule"

_FLOAT = re.compile(r"T\.float(16|32|64)\([^()]*\)")


def function_workload(func: tirx.PrimFunc) -> Workload:
    """What measurements of a TE function are filed under.

    Functions that differ in float constants only (scales) are one: their schedules are.
    """
    text = _FLOAT.sub("#", func.without_attr("global_symbol").script())
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    shapes = [tuple(int(dim) for dim in param.shape) for param in func.params]
    return Workload(f"function:{digest}", shapes[0], shapes[-1])


def replay(func: tirx.PrimFunc, trace: Sequence[Any]) -> tirx.PrimFunc:
    """Apply a trace (as JSON) to the function it was found for.

    Raises
    ------
    ConfigError
        If it does not fit.
    """
    symbol = (func.attrs or {}).get("global_symbol")
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    sch = s_tir.Schedule(module, debug_mask="none")
    try:
        s_tir.Trace.apply_json_to_schedule(trace, sch)
    except Exception as error:
        last = str(error).strip().splitlines()[-1]
        raise ConfigError(f"the trace does not fit: {last}") from None
    scheduled = sch.mod["main"]
    if symbol is None:
        return scheduled.without_attr("global_symbol")
    return scheduled.with_attr("global_symbol", symbol)


def tuned_function(
    func: tirx.PrimFunc, device: Device, database: TuningDatabase | None
) -> tirx.PrimFunc | None:
    """The function by the fastest measured schedule; ``None`` to use the default one.

    Functions are measured on processors only; on GPUs some of TVM's have shapes that are not known.
    """
    if database is None or device.cuda is not None:
        return None
    choices = database.ranked(function_workload(func), device)
    if not choices or choices[0].rule != TRACE:
        return None
    try:
        return replay(func, choices[0].config["trace"])
    except ConfigError:
        return None
