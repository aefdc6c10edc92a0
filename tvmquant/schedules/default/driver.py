"""Apply the rules to one function."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
from tvm import s_tir, tirx

from tvmquant.schedules.default.analysis import leaf_blocks, nest_of
from tvmquant.schedules.default.contraction import schedule_contraction
from tvmquant.schedules.default.gpu import schedule_gpu
from tvmquant.schedules.default.injective import schedule_injective
from tvmquant.schedules.default.inline import inline_producers
from tvmquant.schedules.default.lut import lut_kernel
from tvmquant.schedules.default.reduction import schedule_reduction
from tvmquant.schedules.default.tiles import Vectors
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


def schedule_function(func: tirx.PrimFunc, device: Device, name: str = "") -> Scheduled | None:
    """Schedule one function.

    Parameters
    ----------
    func : tirx.PrimFunc
        In TE form: a root block with leaf blocks.
    device : Device
    name : str
        For messages.

    Returns
    -------
    Scheduled or None
        ``None`` if no rule hits or a primitive refuses: the function then stays as it is.

    Raises
    ------
    TvmQuantError
        On a GPU, where a function cannot stay as it is.
    """
    if device.cuda is not None:
        function, names = schedule_gpu(func, device.target, name)
        return Scheduled(function, tuple(names))
    try:
        sch = s_tir.Schedule(func, debug_mask="none")
        _give_loops(sch)
        inline_producers(sch)
        kernel = _whole_function(func, sch, device)
        if kernel is not None:
            return kernel
        names = _schedule_blocks(sch, device)
    except (s_tir.ScheduleError, tvm.error.InternalError):
        return None
    if not names:
        return None
    return Scheduled(sch.mod["main"], tuple(names))


def _whole_function(func: tirx.PrimFunc, sch: s_tir.Schedule, device: Device) -> Scheduled | None:
    """A kernel written by hand that replaces the function."""
    blocks = leaf_blocks(sch)
    nest = nest_of(sch, blocks[0]) if len(blocks) == 1 else None
    kernel = lut_kernel(func, nest, device) if nest is not None else None
    return Scheduled(kernel, ("lut",)) if kernel is not None else None


def _give_loops(sch: s_tir.Schedule) -> None:
    """Put scalar blocks into a loop: rfactor fails an internal check beside a bare block."""
    for block in leaf_blocks(sch):
        if not sch.get_loops(block):
            sch.add_unit_loop(block)


def _schedule_blocks(sch: s_tir.Schedule, device: Device) -> list[str]:
    names = []
    vectors = vectors_of(device)
    for block in leaf_blocks(sch):
        nest = nest_of(sch, block)
        if nest is None:
            # Else it was moved under its producer as an epilogue, or no rule knows it.
            if all(int(sch.get(loop).extent) == 1 for loop in sch.get_loops(block)):
                names.append("scalar")
            continue
        name = (
            schedule_contraction(nest, device.num_cores, vectors)
            or schedule_reduction(nest, device.num_cores)
            or schedule_injective(nest, device.num_cores)
        )
        if name:
            names.append(name)
    return names
