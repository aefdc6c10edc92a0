"""Schedule rules: who makes the kernel of a workload on a device.

A rule is a function ``(workload, device) -> Kernel | None``. The rules of one operator are tried
from the highest priority down and the first one that returns a kernel wins, so a specialised
kernel registers above the general one and returns ``None`` for whatever it does not cover. Rules
live in the subpackages of ``tvmquant.schedules`` and register when those are imported, which
:func:`find_kernel` does on its first call.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from tvmquant.errors import TvmQuantError
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device

Rule = Callable[[Workload, Device], Kernel | None]


@dataclass(frozen=True)
class _Entry:
    priority: int
    name: str
    rule: Rule


_RULES: dict[str, list[_Entry]] = {}


def register_rule(op: str, priority: int) -> Callable[[Rule], Rule]:
    """Register the decorated function as a rule of ``op``.

    Parameters
    ----------
    op : str
        ``Workload.op`` that the rule is for.
    priority : int
        Higher is tried earlier; equal priorities are tried in the order of their full names, so
        that the outcome never depends on the order of imports.

    Returns
    -------
    callable
        Decorator that returns the function unchanged. A function of the same module and name
        replaces the earlier one (so that a reload does not leave two).
    """

    def register(rule: Rule) -> Rule:
        name = f"{rule.__module__}.{rule.__qualname__}"
        entries = [e for e in _RULES.get(op, []) if e.name != name]
        entries.append(_Entry(priority, name, rule))
        _RULES[op] = sorted(entries, key=lambda e: (-e.priority, e.name))
        return rule

    return register


@cache
def _load_rules() -> None:
    package = importlib.import_module("tvmquant.schedules")
    for name in sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.ispkg):
        importlib.import_module(f"tvmquant.schedules.{name}")


def rules_for(op: str) -> list[Rule]:
    """The rules of ``op``, in the order in which they are tried."""
    _load_rules()
    return [entry.rule for entry in _RULES.get(op, [])]


def find_kernel(workload: Workload, device: Device) -> Kernel:
    """Make the kernel of ``workload`` for ``device``.

    Raises
    ------
    TvmQuantError
        If no rule covers the workload.
    """
    for rule in rules_for(workload.op):
        kernel = rule(workload, device)
        if kernel is not None:
            return kernel
    raise TvmQuantError(
        f"no kernel for {workload.op} {workload.x_shape} x {workload.w_shape} on {device.name} "
        f"({device.isa}): register a rule for it with tvmquant.schedules.registry.register_rule"
    )
