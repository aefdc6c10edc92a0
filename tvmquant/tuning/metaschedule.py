"""TVM's MetaSchedule as the search, our workers as builder and runner.

MetaSchedule's own builder imports ``tvm.s_tir.tensor_intrin`` in every process, which takes half
a minute; its task scheduler cannot be interrupted between candidates, and checks no result. So
only its design space, its evolutionary search and its XGBoost model are used here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule import _ffi_api

from tvmquant.targets.device import Device

_MAX_POPULATION = 128
_BATCH = 8

# Seconds of every candidate, None for one that failed.
Measure = Callable[[list[list[Any]]], list[float | None]]


class _Context(ms.TuneContext):
    """A ``TuneContext`` that does not import ``tvm.s_tir.tensor_intrin``."""

    def __init__(
        self,
        func: tirx.PrimFunc,
        device: Device,
        space: ms.SpaceGenerator,
        seed: int,
        population: int,
    ) -> None:
        module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
        search = ms.search_strategy.EvolutionarySearch(population_size=population)
        self.__init_handle_by_constructor__(
            _ffi_api.TuneContext,
            module,
            device.target,
            space,
            search,
            "main",
            1,
            seed + 1,  # 0 and below mean a random seed
            _silent,
        )
        _ffi_api.TuneContextInitialize(self)


def search_traces(
    func: tirx.PrimFunc,
    device: Device,
    trials: int,
    measure: Measure,
    *,
    intrinsic: str = "",
    learned: bool = True,
    seed: int = 0,
) -> Iterator[tuple[list[Any], float | None]]:
    """Measure schedules of a TE function.

    Parameters
    ----------
    func : PrimFunc
        Unscheduled.
    device : Device
    trials : int
        How many at most; small functions have fewer schedules.
    measure : callable
        Builds, checks and times a batch of traces (JSON).
    intrinsic : str, optional
        Name of a registered ``TensorIntrin`` for the innermost tile.
    learned : bool
        Use XGBoost, which must be installed.
    seed : int

    Yields
    ------
    trace : list
        As JSON.
    seconds : float or None
        ``None`` if the candidate failed.
    """
    population = max(8, min(_MAX_POPULATION, 4 * trials))
    context = _Context(func, device, _space(device, intrinsic), seed, population)
    database = ms.database.MemoryDatabase()
    model = ms.cost_model.XGBModel(num_tuning_cores=1) if learned else ms.cost_model.RandomModel()
    workload = database.commit_workload(context.mod)
    context.pre_tuning(trials, min(_BATCH, trials), database=database, cost_model=model)
    left = trials
    try:
        while left > 0:
            with _muted():
                candidates = list(context.generate_measure_candidates() or ())[:left]
            if not candidates:
                break
            left -= len(candidates)
            traces = [plain(c.sch.trace.as_json()) for c in candidates]
            times = measure(traces)
            yield from zip(traces, times)
            results = [
                ms.runner.RunnerResult(None, "failed")
                if seconds is None
                else ms.runner.RunnerResult([seconds], None)
                for seconds in times
            ]
            context.notify_runner_results(candidates, results)
            model.update(context, candidates, results)
            for candidate, seconds in zip(candidates, times):
                if seconds is not None:
                    database.commit_tuning_record(
                        ms.database.TuningRecord(
                            candidate.sch.trace, workload, [seconds], device.target
                        )
                    )
    finally:
        context.post_tuning()


def _space(device: Device, intrinsic: str) -> ms.SpaceGenerator:
    """Rules for a CPU, without those that reorder float sums."""
    rule = ms.schedule_rule
    reuse = rule.ReuseType(req="may", levels=[1, 2], scope="global")
    tiling = {"structure": "SSRSRS", "max_innermost_factor": 64, "reuse_write": reuse}
    tile = (
        rule.MultiLevelTilingWithIntrin(intrinsic, **tiling)
        if intrinsic
        else rule.MultiLevelTiling(**tiling)
    )
    return ms.space_generator.PostOrderApply(
        sch_rules=[
            rule.InlineConstantScalars(),
            rule.AutoInline(
                into_producer=False,
                into_consumer=not intrinsic,
                inline_const_tensor=True,
                disallow_if_then_else=True,
                require_injective=True,
                require_ordered=True,
                disallow_op=["tirx.exp"],
            ),
            tile,
            rule.ParallelizeVectorizeUnroll(
                max_jobs_per_core=8 if device.num_cores > 1 else -1,
                max_vectorize_extent=64,
                unroll_max_steps=[0, 16, 64, 512],
                unroll_explicit=True,
            ),
            rule.RandomComputeLocation(),
        ],
        postprocs=[
            ms.postproc.DisallowDynamicLoop(),
            ms.postproc.RewriteParallelVectorizeUnroll(),
            ms.postproc.RewriteReductionBlock(),
            *([ms.postproc.RewriteTensorize(vectorize_init_loop=True)] if intrinsic else []),
        ],
        mutator_probs={
            ms.mutator.MutateTileSize(): 0.9,
            ms.mutator.MutateUnroll(): 0.08,
            ms.mutator.MutateComputeLocation(): 0.02,
        },
    )


def plain(value: Any) -> Any:
    """A trace as what JSON knows (TVM gives containers and integers of its own)."""
    return json.loads(json.dumps(_plain(value)))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, tirx.FloatImm):
        return float(value.value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return int(value)


@contextmanager
def _muted() -> Iterator[None]:
    """Nothing on stderr: TVM warns there of every schedule that its intrinsic does not fit."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _silent(*_message: Any) -> None:
    """MetaSchedule logs every batch; the progress bar says enough."""
