"""Give every PrimFunc that has no schedule yet a default one."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import tirx

from tvmquant.schedules.default import schedule_function
from tvmquant.schedules.space import TuningDatabase
from tvmquant.schedules.traces import TRACE, tuned_function
from tvmquant.targets.device import Device

SCHEDULED = "tvmquant.scheduled"
RULES = "tvmquant.rules"
UNSCHEDULED = "tvmquant.unscheduled"


@dataclass(frozen=True)
class ScheduleFunctions:
    """Module pass: schedule the functions that are not marked ``tvmquant.scheduled``.

    For processors it never fails: a function that no rule fits stays as it is. The names of
    those are listed in the module attribute ``tvmquant.unscheduled``.

    Attributes
    ----------
    device : Device
    database : TuningDatabase, optional
        Measured schedules, which come before the default rules.
    """

    device: Device
    database: TuningDatabase | None = None

    def __call__(self, mod: tvm.IRModule) -> tvm.IRModule:
        """Return a new module; Relax functions are untouched."""
        functions, left = {}, []
        for var, func in mod.functions.items():
            functions[var] = func
            if not isinstance(func, tirx.PrimFunc) or _is_marked(func):
                continue
            tuned = tuned_function(func, self.device, self.database)
            if tuned is not None:
                functions[var] = tuned.with_attr({SCHEDULED: True, RULES: [TRACE]})
                continue
            scheduled = schedule_function(func, self.device, var.name_hint)
            if scheduled is None:
                left.append(var.name_hint)
                continue
            functions[var] = scheduled.function.with_attr(
                {SCHEDULED: True, RULES: list(scheduled.rules)}
            )
        out = tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)
        return out.with_attr(UNSCHEDULED, left)


def unscheduled(mod: tvm.IRModule) -> list[tirx.PrimFunc]:
    """The functions that :class:`ScheduleFunctions` would schedule."""
    functions = mod.functions.values()
    return [f for f in functions if isinstance(f, tirx.PrimFunc) and not _is_marked(f)]


def _is_marked(func: tirx.PrimFunc) -> bool:
    return bool(func.attrs and SCHEDULED in func.attrs)
