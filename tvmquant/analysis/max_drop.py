"""As few layers at 8 bits as an allowed drop of accuracy needs.

All layers start at the asked bits. They are ranked by what 8 bits in one of them alone take off the
noise in the output; bisection finds how many of the first must be raised, and those of the least
gain are lowered again where that does no harm. Every candidate is quantized anew, with its
corrections, and executed.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.table import Table

from tvmquant.analysis.goal import Goal
from tvmquant.analysis.measure import Progress
from tvmquant.analysis.pairing import Pairing
from tvmquant.analysis.report import LayerSensitivity, SensitivityReport, db_text
from tvmquant.analysis.sensitivity import measured
from tvmquant.errors import AccuracyError, InputError
from tvmquant.precision import FLOAT_BITS
from tvmquant.quant_spec import LayerRule
from tvmquant.quantizer import QuantizedModel, quantize
from tvmquant.recipe import Recipe

# Batches that layers are ranked on.
_SAMPLES = 6
# Attempts to lower a layer again.
_LOWERINGS = 6


@dataclass(frozen=True)
class RaisedLayer:
    """A layer that got 8 bits, and why.

    Attributes
    ----------
    name : str
    bits : str
        What was asked for, for example ``w4a8``.
    output_db, output_db_at_8 : float
        SQNR of the network's output when this layer alone is quantized, at the asked bits and at 8.
    share : float
        Its part of the noise that all layers make in the output at the asked bits.
    """

    name: str
    bits: str
    output_db: float
    output_db_at_8: float
    share: float


@dataclass(frozen=True)
class MaxDropReport:
    """What was raised to meet an allowed drop.

    Attributes
    ----------
    unit : str
        Of all drops: ``points of top-1`` below float, or ``dB of SQNR`` below the same network
        with all layers at 8 bits.
    max_drop : float
    reference : float
        Top-1 of float in percent, or SQNR at 8 bits in dB.
    start, reached : float
        Drops of the network at the asked bits and of the result.
    layers : int
        How many could have been raised.
    raised : tuple of RaisedLayer
        In the order of their gain.
    candidates : int
        Networks that were quantized and executed.
    """

    unit: str
    max_drop: float
    reference: float
    start: float
    reached: float
    layers: int
    raised: tuple[RaisedLayer, ...]
    candidates: int

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        what = f"{len(self.raised)} of {self.layers} layers raised to 8 bits"
        if not self.raised:
            what = "no layer raised"
        return (
            f"{what}: {self.reached:.2f} {self.unit} below {self.reference:.2f}, "
            f"{self.start:.2f} without, {self.max_drop:g} allowed"
        )

    def table(self) -> Table:
        """The raised layers and what each of them costs."""
        table = Table(title=str(self))
        table.add_column("raised to 8 bits", overflow="fold")
        for header in ("from", "share of the noise", "output dB alone", "at 8 bits"):
            table.add_column(header, justify="right", no_wrap=True)
        for layer in self.raised:
            db = (db_text(layer.output_db), db_text(layer.output_db_at_8))
            table.add_row(layer.name, layer.bits, f"{layer.share:.1%}", *db)
        return table


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
    options["calibration"] = calibration
    start = quantize(model, bits, recipe=recipe, progress=progress, **options)
    return _Search(model, start, max_drop, dataset, options, progress).run()


class _Search:
    def __init__(
        self,
        model: Any,
        start: QuantizedModel,
        max_drop: float,
        dataset: Any,
        options: dict[str, Any],
        progress: Progress | None,
    ) -> None:
        self.model, self.start, self.max_drop, self.options = model, start, max_drop, options
        self.progress = progress
        self.goal = Goal(dataset, start)
        self.candidates = 0
        self.reference = 0.0

    def run(self) -> tuple[QuantizedModel, MaxDropReport]:
        start, goal = self.start, self.goal
        names = can_be_raised(start)
        top, at_8 = start, 0.0
        # Without labels the network at 8 bits is the standard, with labels float is.
        if not goal.labelled:
            top = self._quantized(names)
            at_8 = goal.value(top)
        self.reference = goal.float_value() if goal.labelled else at_8
        first = self._drop(start)
        if first <= self.max_drop:
            return start, self._report(names, first, first)
        if goal.labelled and names:
            top = self._quantized(names)
        lowest = self._drop(top) if goal.labelled and names else self.reference - at_8
        if not names or lowest > self.max_drop:
            raise AccuracyError(
                f"even with all layers at 8 bits {lowest if names else first:.2f} {goal.unit} are "
                f"lost (of {self.reference:.2f}), {self.max_drop:g} are allowed: allow more, give "
                "more calibration data, or try another recipe"
            )
        before, after = self._analyse(start, names), self._analyse(top, names)
        ranked = _ranked(names, before, after)
        raised, best, reached = self._bisect(ranked, top, lowest)
        raised, best, reached = self._lowered(raised, best, reached)
        layers = [_raised(before.layer(name), after.layer(name)) for name in raised]
        return best, self._report(names, first, reached, layers)

    def _bisect(
        self, ranked: list[str], top: QuantizedModel, lowest: float
    ) -> tuple[list[str], QuantizedModel, float]:
        misses, meets = 0, len(ranked)
        best, reached = top, lowest
        while meets - misses > 1:
            middle = (misses + meets) // 2
            candidate = self._quantized(ranked[:middle])
            drop = self._drop(candidate)
            if drop <= self.max_drop:
                meets, best, reached = middle, candidate, drop
            else:
                misses = middle
        return ranked[:meets], best, reached

    def _lowered(
        self, raised: list[str], best: QuantizedModel, reached: float
    ) -> tuple[list[str], QuantizedModel, float]:
        # Without the last one the bisection missed.
        for name in raised[:-1][::-1][:_LOWERINGS]:
            fewer = [other for other in raised if other != name]
            candidate = self._quantized(fewer)
            drop = self._drop(candidate)
            if drop <= self.max_drop:
                raised, best, reached = fewer, candidate, drop
        return raised, best, reached

    def _quantized(self, names: list[str]) -> QuantizedModel:
        recipe = with_raised(self.start.recipe, names)
        with warnings.catch_warnings():
            # They were shown for the first one already.
            warnings.simplefilter("ignore")
            return quantize(self.model, recipe=recipe, **self.options)

    def _drop(self, model: QuantizedModel) -> float:
        value = self.goal.value(model)
        self.candidates += 1
        if self.progress:
            self.progress("raise", self.candidates, 0)
        return self.reference - value

    def _analyse(self, model: QuantizedModel, names: list[str]) -> SensitivityReport:
        batches = self.goal.batches[:_SAMPLES]
        return measured(model, batches, self.progress, layers=names).report()

    def _report(
        self, names: list[str], start: float, reached: float, raised: Sequence[RaisedLayer] = ()
    ) -> MaxDropReport:
        return MaxDropReport(
            unit=self.goal.unit,
            max_drop=float(self.max_drop),
            reference=self.reference,
            start=start,
            reached=reached,
            layers=len(names),
            raised=tuple(raised),
            candidates=self.candidates,
        )


def _raised(old: LayerSensitivity, new: LayerSensitivity) -> RaisedLayer:
    return RaisedLayer(old.name, old.bits, old.output_db, new.output_db, old.share)


def with_raised(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """Recipe with rules that give these layers 8 bits; float activations stay float."""
    rules = []
    for name in names:
        weight_only = recipe.bits_for(name).activation_bits in FLOAT_BITS
        rules.append(LayerRule(glob.escape(name), 8, None if weight_only else 8))
    return replace(recipe, layers=(*recipe.layers, *rules))


def can_be_raised(model: QuantizedModel) -> list[str]:
    """Names of the layers with weights or inputs of fewer than 8 bits."""
    pairing = Pairing(model)
    names = []
    for layer in pairing.parts.layers:
        if layer.weight is None:
            continue
        weight_bits = pairing.parts.weight_bits(layer) or 1
        if min((weight_bits, *(edge.bits for edge in layer.inputs))) < 8:
            names.append(layer.name)
    return names


def _ranked(names: list[str], before: SensitivityReport, after: SensitivityReport) -> list[str]:
    """Names by the noise in the output that 8 bits take off, most first."""

    def gain(name: str) -> float:
        noise = (10 ** (-report.layer(name).output_db / 10) for report in (before, after))
        return next(noise) - next(noise)

    return sorted(names, key=gain, reverse=True)
