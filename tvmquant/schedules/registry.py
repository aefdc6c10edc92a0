"""Schedule rules: who makes the kernel of a workload on a device.

A rule is a function ``(workload, device) -> Kernel | None``. The rules of one operator are tried
from the highest priority down and the first one that returns a kernel wins, so a specialised
kernel registers above the general one and returns ``None`` for whatever it does not cover. Rules
live in the subpackages of ``tvmquant.schedules`` and register when those are imported, which the
first lookup does. :class:`tvmquant.schedules.selection.KernelTable` chooses among their kernels.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from tvmquant.errors import TvmQuantError
from tvmquant.schedules.space import ConfigError, TuningDatabase, configured
from tvmquant.schedules.workload import Kernel, Workload
from tvmquant.targets.device import Device

Rule = Callable[[Workload, Device], Kernel | None]


@dataclass(frozen=True)
class _Entry:
    priority: int
    name: str
    rule: Rule
    consider: Rule


_RULES: dict[str, list[_Entry]] = {}


def rules_key(op: str, device: Device) -> str:
    """What the rules of an operator are found by: processors and GPUs have rules of their own."""
    return f"cuda/{op}" if device.isa == "cuda" else op


def register_rule(
    op: str, priority: int, *, consider: Rule | None = None
) -> Callable[[Rule], Rule]:
    """Register the decorated function as a rule of ``op``.

    Parameters
    ----------
    op : str
        ``Workload.op`` that the rule is for; of a GPU's rules with ``cuda/`` before it.
    priority : int
        Higher is tried earlier; equal priorities are tried in the order of their full names, so
        that the outcome never depends on the order of imports.
    consider : callable, optional
        As the rule, but it returns its kernel wherever that is correct, also where the rule
        stands aside because another kernel should be faster. The tuner measures these, and what
        it measured decides.

    Returns
    -------
    callable
        Decorator that returns the function unchanged. A function of the same module and name
        replaces the earlier one (so that a reload does not leave two).
    """

    def register(rule: Rule) -> Rule:
        name = f"{rule.__module__}.{rule.__qualname__}"
        entries = [e for e in _RULES.get(op, []) if e.name != name]
        entries.append(_Entry(priority, name, rule, consider or rule))
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


def named_rules(op: str) -> dict[str, Rule]:
    """The rules of ``op`` by full name, in the order in which they are tried."""
    _load_rules()
    return {entry.name: entry.rule for entry in _RULES.get(op, [])}


def considered_rules(op: str) -> dict[str, Rule]:
    """As :func:`named_rules`, but each returns its kernel wherever that is correct."""
    _load_rules()
    return {entry.name: entry.consider for entry in _RULES.get(op, [])}


def resolve_rule(op: str, name: str) -> Rule:
    """What makes the kernels of the rule with this full name, wherever they are correct.

    The module that the rule lives in is imported if need be.

    Raises
    ------
    TvmQuantError
        If there is none.
    """
    if name not in considered_rules(op):
        with suppress(ImportError, ValueError):
            importlib.import_module(name.rpartition(".")[0])
    rule = considered_rules(op).get(name)
    if rule is None:
        raise TvmQuantError(f"no rule {name} for {op}: register it when its module is imported")
    return rule


def kernels_for(
    workload: Workload, device: Device, database: TuningDatabase | None = None
) -> Iterator[Kernel]:
    """Kernels of ``workload``, the best first: by measured time, then by priority.

    Measurements count only if they cover the kernel that has the highest priority: older ones
    know nothing of a rule that came later.
    """
    key = rules_key(workload.op, device)
    rules = named_rules(key)
    kernels: dict[str, Kernel | None] = {}
    choices = [] if database is None else database.ranked(workload, device)
    if choices:
        kernels = {name: rule(workload, device) for name, rule in rules.items()}
        first = next((name for name, kernel in kernels.items() if kernel is not None), None)
        measured = {choice.rule for choice in choices}
        considered = considered_rules(key)
        for choice in choices if first in measured else ():
            make = considered.get(choice.rule)
            kernel = None if make is None else kernels.get(choice.rule) or make(workload, device)
            if kernel is not None:
                with suppress(ConfigError):
                    yield configured(kernel, choice.config)
    for name, rule in rules.items():
        kernel = kernels[name] if name in kernels else rule(workload, device)
        if kernel is not None:
            yield kernel


def no_kernel(workload: Workload, device: Device) -> TvmQuantError:
    """The error for a workload that no rule covers."""
    return TvmQuantError(
        f"no kernel for {workload.op} {workload.x_shape} x {workload.w_shape} on {device.name} "
        f"({device.isa}): register a rule for it with tvmquant.schedules.registry.register_rule"
    )
