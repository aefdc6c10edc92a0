"""The loop: choose a batch of candidates, build, check, time, record, learn."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tvmquant.schedules.traces import DEFAULT
from tvmquant.schedules.workload import Workload
from tvmquant.targets.device import Device
from tvmquant.tuning.candidates import Candidate, candidates
from tvmquant.tuning.cost_model import CostModel
from tvmquant.tuning.database import Database
from tvmquant.tuning.pool import Outcome
from tvmquant.tuning.record import Processor, Record
from tvmquant.tuning.search import next_batch
from tvmquant.tuning.session import Job, Task
from tvmquant.tuning.trials import LayerTuning, Trials, TuneReport

Progress = Callable[[str, int, int], None]

_BATCH = 8
# The fastest few are timed again, in turns with the default.
_FINALISTS = 3
_FINAL_ROUNDS = 2
_ATTEMPTS = 2


class TuningWarning(UserWarning):
    """A layer could not be tuned."""


class Builders(Protocol):
    """See :class:`tvmquant.tuning.pool.Pool`."""

    def build(self, jobs: Sequence[Task]) -> list[tuple[int, str]]:
        """Build and check."""

    def time(self, handle: int, best: float) -> Outcome:
        """Time what was built."""

    def drop(self, handles: Sequence[int]) -> None:
        """Forget what was built."""


class Tuner:
    """Tunes the layers of one or more models.

    Parameters
    ----------
    device : Device
        Must be able to run here.
    trials : Trials
    database : Database
        Gets every measurement at once, so that an interrupted run loses nothing.
    model : CostModel
    builders : Builders
    progress : callable, optional
        ``(stage, done, total)``.
    """

    def __init__(
        self,
        device: Device,
        trials: Trials,
        database: Database,
        model: CostModel,
        builders: Builders,
        progress: Progress | None = None,
    ) -> None:
        self.device, self.trials, self.database = device, trials, database
        self.model, self.builders, self.progress = model, builders, progress
        self.measured = self.failed = 0
        self._rng = np.random.default_rng(trials.seed)
        self._processor = Processor.of(device)
        self._spaces: dict[Workload, list[Candidate]] = {}

    def run(self, workloads: Iterable[Workload]) -> TuneReport:
        """Tune, the heaviest layers first."""
        todo = sorted(dict.fromkeys(workloads), key=lambda w: -w.macs)
        self._learn_known()
        total = sum(map(self.budget, todo))
        for workload in todo:
            before = self.measured
            budget = self.budget(workload)
            if budget:
                self._layer(workload, budget, total)
            # A layer may need fewer trials than planned.
            total -= budget - (self.measured - before)
        self._report(total)
        return TuneReport(tuple(map(self.result, todo)), self.measured, self.failed)

    def budget(self, workload: Workload) -> int:
        """How many candidates are still to be measured."""
        known = self._known(workload)
        space = self._space(workload)
        done = sum(candidate.key in known for candidate in space)
        return max(0, min(self.trials.count, len(space)) - done)

    def result(self, workload: Workload) -> LayerTuning:
        """What the database says about a layer."""
        default = self._space(workload)[0].key
        return layer_tuning(self.database, workload, self.device, self.trials, default)

    def _space(self, workload: Workload) -> list[Candidate]:
        if workload not in self._spaces:
            self._spaces[workload] = candidates(workload, self.device)
        return self._spaces[workload]

    def _known(self, workload: Workload) -> dict[tuple[str, str], Record]:
        records = self.database.measured(workload, self.device, self.trials.threads)
        return {record.key: record for record in records}

    def _learn_known(self) -> None:
        for workload in dict.fromkeys(record.workload for record in self.database.records):
            known = self._known(workload)
            times = {
                c: known[c.key].seconds
                for c in (self._space(workload) if known else ())
                if c.key in known and known[c.key].seconds is not None
            }
            self.model.update(workload, times)

    def _layer(self, workload: Workload, budget: int, total: int) -> None:
        known = self._known(workload)
        space = self._space(workload)
        untried = [c for c in space if c.key not in known]
        times = {
            c: known[c.key].seconds
            for c in space
            if c.key in known and known[c.key].seconds is not None
        }
        end = self.measured + budget
        attempts: Counter[Candidate] = Counter()
        with tempfile.TemporaryDirectory(prefix="tvmquant-tune-") as folder:
            reference = str(Path(folder, "reference.npz"))
            held = self._reference(workload, space[0], reference)
            if not held:
                return
            while untried and self.measured < end:
                # Several devices measure a batch at once.
                size = min(max(_BATCH, getattr(self.builders, "batch", 0)), end - self.measured)
                batch = next_batch(workload, untried, self.model, size, self._rng)
                for candidate, handle, outcome in self._measure(
                    workload, batch, reference, held, times
                ):
                    attempts[candidate] += 1
                    lost = outcome.seconds is None and not outcome.error
                    if lost and attempts[candidate] < _ATTEMPTS:
                        continue
                    untried.remove(candidate)
                    outcome = Outcome(error="its process died") if lost else outcome
                    self._record(workload, candidate, outcome)
                    if outcome.seconds is not None:
                        times[candidate], held[candidate] = outcome.seconds, handle
                    self._report(total)
                self.model.update(workload, times)
                self._keep_best(held, times, space[0])
            self._finals(workload, held, times)
            self.builders.drop(list(held.values()))

    def _reference(self, workload: Workload, default: Candidate, path: str) -> dict[Candidate, int]:
        """Build and time the default, whose output all others must equal; empty if it fails."""
        job = Job(workload, self.device, default.rule, default.config, path)
        ((handle, error),) = self.builders.build([job])
        outcome = Outcome(error=error) if error else self.builders.time(handle, math.inf)
        if outcome.seconds is not None:
            return {default: handle}
        self._record(workload, default, outcome)
        warnings.warn(
            f"not tuned: {workload.op} {workload.x_shape} x {workload.w_shape}, its default "
            f"kernel failed ({outcome.error or 'its process died'})",
            TuningWarning,
            stacklevel=4,
        )
        return {}

    def _measure(
        self,
        workload: Workload,
        batch: Sequence[Candidate],
        reference: str,
        held: Mapping[Candidate, int],
        times: Mapping[Candidate, float],
    ) -> Iterable[tuple[Candidate, int, Outcome]]:
        """Build those that are not built, then time one after the other."""
        fresh = [c for c in batch if c not in held]
        jobs = [Job(workload, self.device, c.rule, c.config, reference) for c in fresh]
        built = dict(zip(fresh, self.builders.build(jobs))) if jobs else {}
        best = min(times.values(), default=math.inf)
        for candidate in batch:
            handle, error = built.get(candidate, (held.get(candidate, -1), ""))
            outcome = Outcome(error=error) if error else self.builders.time(handle, best)
            if outcome.seconds is not None:
                best = min(best, outcome.seconds)
            yield candidate, handle, outcome

    def _keep_best(
        self, held: dict[Candidate, int], times: Mapping[Candidate, float], default: Candidate
    ) -> None:
        ranked = sorted(held, key=lambda c: times.get(c, math.inf))
        out = [c for c in ranked[_FINALISTS:] if c != default]
        self.builders.drop([held.pop(c) for c in out])

    def _finals(
        self, workload: Workload, held: Mapping[Candidate, int], times: Mapping[Candidate, float]
    ) -> None:
        """Time the best again: one lucky reading must not decide."""
        if len(held) < 2:
            return
        again: dict[Candidate, float] = {}
        for _ in range(_FINAL_ROUNDS):
            for candidate, handle in held.items():
                outcome = self.builders.time(handle, math.inf)
                if outcome.seconds is not None:
                    again[candidate] = min(outcome.seconds, again.get(candidate, math.inf))
        for candidate, seconds in again.items():
            if seconds < times.get(candidate, math.inf):
                self._store(workload, candidate, Outcome(seconds))

    def _record(self, workload: Workload, candidate: Candidate, outcome: Outcome) -> None:
        self._store(workload, candidate, outcome)
        self.measured += 1
        self.failed += outcome.seconds is None

    def _store(self, workload: Workload, candidate: Candidate, outcome: Outcome) -> None:
        self.database.add(
            Record(
                workload,
                self._processor,
                self.trials.threads,
                candidate.rule,
                candidate.config,
                outcome.seconds,
                outcome.error,
            )
        )

    def _report(self, total: int) -> None:
        if self.progress and total:
            self.progress("tune", self.measured, total)


def layer_tuning(
    database: Database,
    workload: Workload,
    device: Device,
    trials: Trials,
    default: tuple[str, str] = (DEFAULT, "{}"),
) -> LayerTuning:
    """What a database says about a layer whose default has the key ``default``."""
    times: dict[tuple[str, str], float] = {}
    for record in database.measured(workload, device, trials.threads):
        if record.seconds is not None:
            times[record.key] = min(record.seconds, times.get(record.key, math.inf))
    best = min(times, key=times.__getitem__, default=("", ""))
    return LayerTuning(workload, times.get(default), times.get(best), best[0])
