"""Apply the rules to one function."""

from __future__ import annotations

import json
from dataclasses import dataclass

import tvm
from tvm import s_tir, tirx

from tvmquant.schedules.default.analysis import Nest, leaf_blocks, nest_of
from tvmquant.schedules.default.contraction import Vectors, schedule_contraction
from tvmquant.schedules.default.inline import inline_producers
from tvmquant.schedules.default.injective import schedule_injective
from tvmquant.schedules.default.reduction import needs_reassociation, schedule_reduction
from tvmquant.targets.device import Device


@dataclass(frozen=True)
class Scheduled:
    """A scheduled function and the rules that hit, one for each block."""

    function: tirx.PrimFunc
    rules: tuple[str, ...]


def vectors_of(device: Device) -> Vectors:
    """Vector registers of a device, counted in 32-bit lanes."""
    if "avx512f" in device.features:
        return Vectors(16, 24)
    if "avx2" in device.features:
        return Vectors(8, 12)
    return Vectors(4, 24 if "neon" in device.features else 12)


def schedule_function(func: tirx.PrimFunc, device: Device) -> Scheduled | None:
    """Schedule one function.

    Parameters
    ----------
    func : tirx.PrimFunc
        In TE form: a root block with leaf blocks.
    device : Device

    Returns
    -------
    Scheduled or None
        ``None`` if no rule hits or a primitive refuses: the function then stays as it is.
    """
    try:
        sch = s_tir.Schedule(func, debug_mask="none")
        inline_producers(sch)
        names, reassociate = _schedule_blocks(sch, device)
    except s_tir.ScheduleError:
        return None
    if not names:
        return None
    result = sch.mod["main"]
    if reassociate:
        result = result.with_attr("target", _reassociating(device))
    return Scheduled(result, tuple(names))


def _schedule_blocks(sch: s_tir.Schedule, device: Device) -> tuple[list[str], bool]:
    names, reassociate = [], False
    vectors = vectors_of(device)
    nests = [nest_of(sch, block) for block in leaf_blocks(sch)]
    for nest in nests:
        if nest is None:
            continue
        cores = device.num_cores
        reassociate = reassociate or _sums_floats(nest)
        name = (
            schedule_contraction(nest, cores, vectors)
            or schedule_reduction(nest, cores)
            or schedule_injective(nest, cores)
        )
        if name:
            names.append(name)
    return names, reassociate


def _sums_floats(nest: Nest) -> bool:
    return needs_reassociation(nest)


def _reassociating(device: Device) -> tvm.target.Target:
    """The device's target with permission to reorder float additions, for one function."""
    return tvm.target.Target({**json.loads(device.target_json), "fast-math-reassoc": True})
