"""From a model to the layers to tune, and tuning them with worker processes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import tvm
from tvm import tirx

from tvmquant.build_cuda import check_nvcc
from tvmquant.errors import InputError, TargetError
from tvmquant.graph import Graph
from tvmquant.ops import is_op
from tvmquant.passes.fuse_additions import fuse_additions
from tvmquant.passes.lower import fuse, workload_from_json
from tvmquant.passes.pack import pack
from tvmquant.passes.schedule import unscheduled
from tvmquant.runtime.gpu import local_gpu
from tvmquant.runtime.manifest import Manifest
from tvmquant.schedules.selection import KernelTable
from tvmquant.schedules.workload import Workload
from tvmquant.targets.cuda import nearest_arch
from tvmquant.targets.device import Device, get_device
from tvmquant.tuning.cost_model import HINT, has_xgboost, make_cost_model
from tvmquant.tuning.database import Database
from tvmquant.tuning.pool import Pool
from tvmquant.tuning.trials import Trials, TuneReport
from tvmquant.tuning.tuner import Progress, Tuner

if TYPE_CHECKING:
    from tvmquant.tuning.boards import Fleet
    from tvmquant.tuning.gpu import LocalGpu
    from tvmquant.tuning.remote_pool import RemotePool

_MAX_WORKERS = 4
# A GPU is idle while nvcc works.
_MAX_GPU_WORKERS = 16


class CostModelWarning(UserWarning):
    """XGBoost is missing: the search is less good than it could be."""


def workloads_of(integers: tvm.IRModule, device: Device) -> list[Workload]:
    """The convolutions and matmuls of a model in integers, one entry a layer.

    Parameters
    ----------
    integers : tvm.IRModule
        Output of :func:`tvmquant.passes.pipeline.to_integers`.
    device : Device
    """
    packed = pack(integers, KernelTable(device))
    return [
        workload_from_json(str(value.attrs["workload"]))
        for _, value in Graph(packed).bindings
        if is_op(value, "tvmquant.packed")
    ]


def functions_of(integers: tvm.IRModule, device: Device) -> list[tirx.PrimFunc]:
    """The light operators of a model in integers, fused but not scheduled."""
    kernels = KernelTable(device)
    return unscheduled(fuse(fuse_additions(pack(integers, kernels), kernels), kernels))


def workloads_of_manifest(manifest: Manifest, source: object) -> list[Workload]:
    """The same of a compiled model: residual additions in epilogues are left out.

    Raises
    ------
    InputError
        If ``source`` was compiled by a tvmquant that did not write them down.
    """
    texts = [layer.workload for layer in manifest.layers if layer.macs]
    if not all(texts):
        raise InputError(f"{source} does not say what its layers are: compile the model again")
    try:
        return [replace(workload_from_json(text), residual="") for text in texts]
    except (ValueError, TypeError):
        raise InputError(f"{source} is damaged: compile the model again") from None


def tune_workloads(
    workloads: Iterable[Workload],
    device: Device,
    trials: Trials,
    database: Database | None = None,
    progress: Progress | None = None,
    fleet: Fleet | LocalGpu | None = None,
) -> TuneReport:
    """Measure candidates for every distinct workload.

    Parameters
    ----------
    workloads : iterable of Workload
    device : Device
        Must be able to run on this machine, or be that of a fleet.
    trials : Trials
    database : Database, optional
        Gets the measurements; by default that of ``trials``.
    progress : callable, optional
        ``(stage, done, total)``.
    fleet : Fleet or LocalGpu, optional
        Other machines to measure on; by default this one, for a GPU its own.

    Raises
    ------
    TargetError
        If this machine lacks what the device has, and there is no fleet.
    InputError
        If the cost model is not installed or the database cannot be used.
    RemoteError
        If the fleet has no device, or none is left; what was measured is in the database.
    """
    if fleet is None:
        check_runs_here(device)
    if database is None:
        database = database_of(trials)
    model = make_cost_model(trials.cost_model)
    if trials.cost_model == "auto" and not has_xgboost():
        warnings.warn(
            f"tuning without a learned cost model: {HINT} finds better kernels in fewer trials",
            CostModelWarning,
            stacklevel=2,
        )
    with _pool(fleet, device, trials) as pool:
        # That of a GPU has its name.
        device = getattr(pool, "device", device)
        return Tuner(device, trials, database, model, pool, progress).run(workloads)


def tune_traces(
    workloads: Iterable[Workload],
    functions: Iterable[tirx.PrimFunc],
    device: Device,
    trials: Trials,
    database: Database | None = None,
    progress: Progress | None = None,
) -> TuneReport:
    """Tune with MetaSchedule the convolutions that have an intrinsic, and light operators.

    Parameters as in :func:`tune_workloads`; ``trials.count`` schedules for each.
    """
    if device.cuda is not None:
        raise InputError("light operators are tuned on processors only: leave MetaSchedule out")
    # MetaSchedule is loaded on demand.
    from tvmquant.tuning.trace_tuner import TraceTuner, convolution_subject, function_subject

    check_runs_here(device)
    make_cost_model(trials.cost_model)
    if database is None:
        database = database_of(trials)
    convolutions = (convolution_subject(workload, device) for workload in workloads)
    subjects = [subject for subject in convolutions if subject is not None]
    subjects += [function_subject(func, device) for func in functions]
    with Pool(_workers(trials), trials.threads) as pool:
        return TraceTuner(device, trials, database, pool, progress).run(subjects)


def _pool(fleet: Fleet | LocalGpu | None, device: Device, trials: Trials) -> Pool | RemotePool:
    if fleet is None and device.cuda is None:
        return Pool(_workers(trials), trials.threads)
    # Loaded on demand: TVM's RPC is not needed otherwise.
    from tvmquant.tuning.gpu import LocalGpu
    from tvmquant.tuning.remote_pool import RemotePool

    most = _MAX_WORKERS if device.cuda is None else _MAX_GPU_WORKERS
    return RemotePool(fleet or LocalGpu(), device, _workers(trials, most), trials.threads)


def _workers(trials: Trials, most: int = _MAX_WORKERS) -> int:
    return trials.workers or max(1, min(most, psutil.cpu_count(logical=False) or 1))


def database_of(trials: Trials) -> Database:
    """The database of ``trials``, an empty one in memory by default."""
    kept = trials.database
    return kept if isinstance(kept, Database) else Database(kept)


def check_runs_here(device: Device) -> None:
    """Whether this machine can measure for a device, before any work is done.

    Raises
    ------
    TargetError
        If it cannot.
    """
    if device.cuda is not None:
        _check_gpu(device)
        return
    host = get_device("host")
    lacking = sorted(device.features - host.features)
    wanted, here = (json.loads(d.target_json).get("mtriple", "") for d in (device, host))
    foreign = wanted and wanted.split("-")[0] != here.split("-")[0]
    if lacking or foreign:
        what = f"it lacks {', '.join(lacking)}" if lacking else f"it is not {wanted}"
        raise TargetError(
            f"cannot tune for {device.name} on this machine, {what}: tune on the device itself"
        )


def _check_gpu(device: Device) -> None:
    if device.fatbin:
        raise TargetError(
            "tuning is for one architecture at a time: tune for each of them, a fatbin takes what "
            "was measured on the lowest"
        )
    wanted, gpu = device.cuda_archs[0], local_gpu()
    if gpu is None:
        raise TargetError(
            f"cannot tune for {device.name} here, this machine has no NVIDIA GPU (or no driver): "
            "run tvmquant serve on one that has and add --rpc HOST:PORT, or run this command there"
        )
    here = nearest_arch(gpu.arch).name
    if here != wanted:
        raise TargetError(
            f"cannot tune for {device.name} here, the GPU of this machine is {gpu.arch} "
            f"({gpu.name}): give the target cuda-{here}, or --rpc HOST:PORT of one that is {wanted}"
        )
    check_nvcc()
