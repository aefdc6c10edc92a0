"""As few layers at 8 bits as an allowed drop of accuracy needs.

All layers start at the asked bits. They are ranked by what 8 bits in one of them alone take off the
noise in the output; bisection finds how many of the first must be raised, and those of the least
gain are lowered again where that does no harm. The search goes by estimates (see ``candidates``);
what it finds is quantized anew, with its corrections, and executed, and where it drops by more or
by less than was estimated, the search goes on with that difference in hand.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from tvmquant.analysis.candidates import Candidates
from tvmquant.analysis.goal import Goal
from tvmquant.analysis.max_drop_report import MaxDropReport, RaisedLayer
from tvmquant.analysis.measure import Progress
from tvmquant.analysis.report import LayerSensitivity, SensitivityReport
from tvmquant.analysis.sensitivity import measured
from tvmquant.errors import AccuracyError, InputError
from tvmquant.passes.observations import Observations
from tvmquant.quantizer import QuantizedModel, quantize
from tvmquant.recipe import Recipe

# Batches that layers are ranked on.
_SAMPLES = 6
# Attempts to lower a layer again, each an estimate.
_LOWERINGS = 12
# Networks quantized in full to do with fewer layers than the first one that is good enough.
_REFINEMENTS = 2
# Of the allowed drop, kept in hand for every further network that misses it.
_MARGIN = 0.1


def meet_max_drop(
    model: Any,
    max_drop: float,
    dataset: Any,
    bits: int | str = 8,
    *,
    calibration: Any = None,
    calibration_cache: str | os.PathLike[str] | None = None,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[QuantizedModel, MaxDropReport]:
    """Quantize a model and raise layers to 8 bits until it is accurate enough.

    Parameters
    ----------
    model, bits, calibration, calibration_cache, recipe, **options
        As for :func:`tvmquant.quantize`.
    max_drop : float
        With labels: percentage points of top-1 below float. Without: dB of the outputs' SQNR
        (against float) below the same network with all layers at 8 bits.
    dataset : object
        See :class:`tvmquant.analysis.goal.Goal`.
    progress : callable, optional
        ``(stage, done, total)``.

    Returns
    -------
    QuantizedModel
        Its recipe names the raised layers.
    MaxDropReport

    Raises
    ------
    AccuracyError
        If 8 bits in all layers are not enough.
    InputError
        If the model came quantized, or the data set does not fit it.
    """
    if isinstance(max_drop, bool) or not isinstance(max_drop, int | float) or not max_drop >= 0:
        raise InputError(f"max_drop must be a number of at least 0, got {max_drop!r}")
    if dataset is None:
        raise InputError("max_drop needs dataset=… (or --dataset D.npz) to measure the drop on")
    if isinstance(model, QuantizedModel):
        raise InputError("max_drop needs the float model, not a quantized one")
    if isinstance(calibration, Iterator):
        calibration = list(calibration)
    elif hasattr(calibration, "get_next"):
        calibration = list(iter(calibration.get_next, None))
    options["calibration"] = calibration
    observations = Observations()
    start = quantize(
        model,
        bits,
        recipe=recipe,
        calibration_cache=calibration_cache,
        observations=observations,
        progress=progress,
        **options,
    )
    candidates = Candidates(model, start, observations, **options)
    return _Search(start, candidates, Goal(dataset, start), max_drop, progress).run()


class _Search:
    def __init__(
        self,
        start: QuantizedModel,
        candidates: Candidates,
        goal: Goal,
        max_drop: float,
        progress: Progress | None,
    ) -> None:
        self.start, self.candidates, self.goal = start, candidates, goal
        self.max_drop, self.progress = max_drop, progress
        self.reference = 0.0
        # Drops by the layers that are raised.
        self.executed: dict[frozenset[str], float] = {}
        self.estimated: dict[frozenset[str], float] = {}
        # The last network that was executed, and the last one that was good enough.
        self.last = self.good = (frozenset[str](), start)
        # Networks to be measured, as far as is known: at the asked bits, at 8 and one attempt.
        self.steps = 2 + self._steps(0)

    def run(self) -> tuple[QuantizedModel, MaxDropReport]:
        goal, names = self.goal, self.candidates.names
        self._report_progress()
        # Without labels the network at 8 bits is the standard, with labels float is.
        self.reference = goal.float_value() if goal.labelled else self._value(names)
        first = self._drop([])
        if first <= self.max_drop:
            return self.start, self._result([], first)
        lowest = self._drop(names)
        if lowest > self.max_drop:
            raise AccuracyError(
                f"even with all layers at 8 bits {lowest:.2f} {goal.unit} are "
                f"lost (of {self.reference:.2f}), {self.max_drop:g} are allowed: allow more, give "
                "more calibration data, or try another recipe"
            )
        before, after = self._analyses()
        raised = self._search(_ranked(names, before, after))
        layers = [_raised(before.layer(name), after.layer(name)) for name in raised]
        key, model = self.good
        if key != frozenset(raised):
            model = self.candidates.in_full(raised)
        return model, self._result(raised, first, layers)

    # -- the search -----------------------------------------------------------------------------
    def _search(self, ranked: list[str]) -> list[str]:
        """The layers to raise; the network with them was executed and is good enough."""
        best: list[str] | None = None
        # What networks drop more than was estimated; the first one is to tell.
        error, misses, better = 0.0, 0, 0
        for attempt in itertools.count():
            lowerings = self._lowerings if attempt else 0
            if attempt:
                self.steps += self._steps(lowerings)
            found = self._by_estimates(ranked, error, lowerings)
            if len(found) >= len(best or ranked):
                if attempt:
                    break
                continue
            drop = self._drop(found)
            seen = drop - self._estimate(found)
            if drop <= self.max_drop:
                best, self.good, better = found, self.last, better + 1
                if better > _REFINEMENTS or (attempt and seen >= error):
                    break
                error = seen
            else:
                # It was thought to be good enough, so this is more than before.
                error, misses = seen + misses * _MARGIN * self.max_drop, misses + 1
                if best is not None and misses > 1:
                    break
        return best or ranked

    def _by_estimates(self, ranked: list[str], error: float, lowerings: int) -> list[str]:
        """Few layers with which the network should be good enough; all are."""

        def is_good(names: list[str]) -> bool:
            return self._estimate(names) + error <= self.max_drop

        missing, meeting = 0, len(ranked)
        while meeting - missing > 1:
            middle = (missing + meeting) // 2
            if is_good(ranked[:middle]):
                meeting = middle
            else:
                missing = middle
        raised = ranked[:meeting]
        # Without the last one the bisection missed.
        for name in raised[:-1][::-1][:lowerings]:
            fewer = [other for other in raised if other != name]
            if is_good(fewer):
                raised = fewer
        return raised

    def _steps(self, lowerings: int) -> int:
        """Networks that an attempt may have to measure."""
        return math.ceil(math.log2(max(len(self.candidates.names), 1))) + lowerings + 1

    @property
    def _lowerings(self) -> int:
        return _LOWERINGS if self.candidates.can_estimate else _LOWERINGS // 2

    # -- measuring ------------------------------------------------------------------------------
    def _value(self, names: list[str]) -> float:
        """Accuracy of the network with these layers raised, quantized in full and executed."""
        key = frozenset(names)
        if key not in self.executed:
            model = self.candidates.in_full(names)
            self.executed[key], self.last = self.goal.value(model), (key, model)
            self._report_progress()
        return self.executed[key]

    def _drop(self, names: list[str]) -> float:
        return self.reference - self._value(names)

    def _estimate(self, names: list[str]) -> float:
        """About what :meth:`_drop` is."""
        if not self.candidates.can_estimate:
            return self._drop(names)
        key = frozenset(names)
        if key not in self.estimated:
            model = self.candidates.estimate(names)
            self.estimated[key] = self.reference - self.goal.estimate(model)
            self._report_progress()
        return self.estimated[key]

    def _analyses(self) -> tuple[SensitivityReport, SensitivityReport]:
        """Every layer alone, at the asked bits and at 8."""
        names, batches = self.candidates.names, self.goal.batches[:_SAMPLES]
        models = (self.start, self.candidates.in_full(names))
        reports = []
        for index, model in enumerate(models):

            def progress(stage: str, done: int, total: int, before: int = index) -> None:
                if self.progress:
                    self.progress(stage, before * total + done, len(models) * total)

            reports.append(measured(model, batches, progress, layers=names).report())
        return reports[0], reports[1]

    def _report_progress(self, finished: bool = False) -> None:
        if not self.progress:
            return
        done = len(self.executed) + len(self.estimated)
        # Many a set of layers of a second attempt is known from the first one.
        self.progress("raise", done, done if finished else max(self.steps, done + 1))

    def _result(
        self, names: Sequence[str], start: float, raised: Sequence[RaisedLayer] = ()
    ) -> MaxDropReport:
        self._report_progress(finished=True)
        return MaxDropReport(
            unit=self.goal.unit,
            max_drop=float(self.max_drop),
            reference=self.reference,
            start=start,
            reached=self._drop(list(names)),
            layers=len(self.candidates.names),
            raised=tuple(raised),
            candidates=len(self.executed),
            estimates=len(self.estimated),
        )


def _raised(old: LayerSensitivity, new: LayerSensitivity) -> RaisedLayer:
    return RaisedLayer(old.name, old.bits, old.output_db, new.output_db, old.share)


def _ranked(names: list[str], before: SensitivityReport, after: SensitivityReport) -> list[str]:
    """Names by the noise in the output that 8 bits take off, most first."""

    def gain(name: str) -> float:
        noise = (10 ** (-report.layer(name).output_db / 10) for report in (before, after))
        return next(noise) - next(noise)

    return sorted(names, key=gain, reverse=True)
