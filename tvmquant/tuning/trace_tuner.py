"""Tuning with MetaSchedule what has a TE definition: light operators and 8-bit convolutions."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import tirx

from tvmquant.schedules.tensorized.kernel import tensorized
from tvmquant.schedules.traces import DEFAULT, TRACE, function_workload
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device
from tvmquant.tuning.candidates import candidates
from tvmquant.tuning.cost_model import has_xgboost
from tvmquant.tuning.database import Database
from tvmquant.tuning.functions import FunctionJob
from tvmquant.tuning.metaschedule import search_traces
from tvmquant.tuning.pool import Outcome
from tvmquant.tuning.record import Processor, Record, config_key
from tvmquant.tuning.session import Job, Task
from tvmquant.tuning.trials import Trials, TuneReport
from tvmquant.tuning.tuner import Builders, Progress, layer_tuning

# Nothing is gained on functions that take less.
_WORTH_SECONDS = 10e-6

Trace = list[Any]


@dataclass(frozen=True)
class Subject:
    """Something that MetaSchedule can schedule.

    Attributes
    ----------
    workload : Workload
        What its measurements are filed under.
    definition : PrimFunc
        Unscheduled.
    rule : str
        What a record of a trace names as its rule.
    default : (str, mapping)
        Rule and configuration that are used without tuning.
    job : callable
        ``(trace or None, reference) -> Task``; ``None`` is the default.
    intrinsic : str
        Name of a registered tensor intrinsic, if any.
    """

    workload: Workload
    definition: tirx.PrimFunc
    rule: str
    default: tuple[str, Mapping[str, Any]]
    job: Callable[[Trace | None, str], Task]
    intrinsic: str = ""

    @property
    def default_key(self) -> tuple[str, str]:
        """As :attr:`tvmquant.tuning.record.Record.key`."""
        return self.default[0], config_key(self.default[1])


def function_subject(func: tirx.PrimFunc, device: Device) -> Subject:
    """A light operator."""
    func = func.without_attr("global_symbol")
    text = tvm.ir.save_json(func)

    def job(trace: Trace | None, reference: str) -> Task:
        return FunctionJob(text, device, trace, reference)

    return Subject(function_workload(func), func, TRACE, (DEFAULT, {}), job)


def convolution_subject(workload: Workload, device: Device) -> Subject | None:
    """A convolution, if the device has an intrinsic for it."""
    kernel = tensorized(workload, device) if workload.op == "conv2d" else None
    if kernel is None:
        return None
    rule = f"{tensorized.__module__}.{tensorized.__qualname__}"
    default = candidates(workload, device)[0]

    def job(trace: Trace | None, reference: str) -> Task:
        if trace is None:
            return Job(workload, device, default.rule, default.config, reference)
        return Job(workload, device, rule, {"trace": trace}, reference)

    usual = (default.rule, default.config)
    return Subject(workload, kernel.definition, rule, usual, job, kernel.intrinsic)


class TraceTuner:
    """Measures schedules that MetaSchedule proposes.

    Parameters
    ----------
    device : Device
    trials : Trials
        ``count`` schedules for every distinct subject.
    database : Database
        Gets every measurement at once.
    builders : Builders
    progress : callable, optional
        ``(stage, done, total)``.
    """

    def __init__(
        self,
        device: Device,
        trials: Trials,
        database: Database,
        builders: Builders,
        progress: Progress | None = None,
    ) -> None:
        self.device, self.trials, self.database = device, trials, database
        self.builders, self.progress = builders, progress
        self.measured = self.failed = 0
        self._processor = Processor.of(device)

    def run(self, subjects: Iterable[Subject]) -> TuneReport:
        """Tune every distinct subject that takes long enough to matter."""
        distinct = {subject.workload: subject for subject in subjects}
        planned = {subject.workload: self.budget(subject) for subject in distinct.values()}
        done, total = 0, sum(planned.values())
        for workload, subject in distinct.items():
            if planned[workload]:
                for tried in self._subject(subject, planned[workload]):
                    self._report(done + tried, total)
            done += planned[workload]
            self._report(done, total)
        layers = tuple(
            layer_tuning(self.database, w, self.device, self.trials, s.default_key)
            for w, s in distinct.items()
        )
        return TuneReport(layers, self.measured, self.failed)

    def budget(self, subject: Subject) -> int:
        """How many schedules are still to be measured."""
        records = self._known(subject)
        ended = max([int(r.config.get("searched", 0)) for r in records], default=0)
        return max(0, self.trials.count - max(ended, sum("trace" in r.config for r in records)))

    def _known(self, subject: Subject) -> list[Record]:
        records = self.database.measured(subject.workload, self.device, self.trials.threads)
        return [record for record in records if record.rule == subject.rule]

    def _subject(self, subject: Subject, count: int) -> Iterator[int]:
        """Yields how many schedules were tried so far."""
        known = len(self._known(subject))
        with tempfile.TemporaryDirectory(prefix="tvmquant-tune-") as folder:
            reference = str(Path(folder, "reference.npz"))
            default = self._time(subject, None, reference, math.inf)
            self._store(subject.workload, *subject.default, default)
            if default.seconds is not None and default.seconds >= _WORTH_SECONDS:
                best = default.seconds

                def measure(traces: list[Trace]) -> list[float | None]:
                    nonlocal best
                    outcomes = self._batch(subject, traces, reference, best)
                    best = min([best, *(o.seconds for o in outcomes if o.seconds is not None)])
                    return [outcome.seconds for outcome in outcomes]

                found = search_traces(
                    subject.definition,
                    self.device,
                    count,
                    measure,
                    intrinsic=subject.intrinsic,
                    learned=self.trials.cost_model != "analytic" and has_xgboost(),
                    seed=self.trials.seed + known,
                )
                yield from (index for index, _ in enumerate(found, 1))
        # Small definitions have fewer schedules than asked for: they are done, too.
        ended = {"searched": self.trials.count}
        self._store(subject.workload, subject.rule, ended, Outcome(error="end of the search"))

    def _time(self, subject: Subject, trace: Trace | None, path: str, best: float) -> Outcome:
        ((handle, error),) = self.builders.build([subject.job(trace, path)])
        outcome = Outcome(error=error) if error else self.builders.time(handle, best)
        self.builders.drop([handle])
        return outcome

    def _batch(
        self, subject: Subject, traces: list[Trace], path: str, best: float
    ) -> list[Outcome]:
        outcomes = []
        built = self.builders.build([subject.job(trace, path) for trace in traces])
        for trace, (handle, error) in zip(traces, built):
            outcome = Outcome(error=error) if error else self.builders.time(handle, best)
            if outcome.seconds is None and not outcome.error:
                # Its process died with another candidate.
                outcome = self._time(subject, trace, path, best)
            self.measured += 1
            self.failed += outcome.seconds is None
            self._store(subject.workload, subject.rule, {"trace": trace}, outcome)
            outcomes.append(outcome)
        self.builders.drop([handle for handle, _ in built])
        return outcomes

    def _store(
        self, workload: Workload, rule: str, config: Mapping[str, Any], outcome: Outcome
    ) -> None:
        result = (outcome.seconds, outcome.error)
        self.database.add(
            Record(workload, self._processor, self.trials.threads, rule, config, *result)
        )

    def _report(self, done: int, total: int) -> None:
        if self.progress and total:
            self.progress("metaschedule", done, total)
