"""How good a quantized network is on a data set: top-1 where there are labels, else SQNR."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from tvmquant.analysis.decibel import OutputNoise
from tvmquant.compiler import compile as compile_model
from tvmquant.errors import CalibrationError, InputError
from tvmquant.frontend import CalibrationSource, InputInfo
from tvmquant.interpreter import Interpreter
from tvmquant.passes.pipeline import to_integers
from tvmquant.quantizer import QuantizedModel
from tvmquant.runtime.accuracy import top1
from tvmquant.runtime.manifest import TensorInfo

# What compiling a network takes, roughly; interpreting longer than that is not worth it.
_COMPILE_SECONDS = 8.0
# Batches of a labelled data set that layers are ranked on.
_RANKED = 16


class Runner:
    """A network to be called, as ``CompiledModel`` is.

    Parameters
    ----------
    mod : tvm.IRModule
        Float or integer operators.
    inputs : sequence of InputInfo
    """

    def __init__(self, mod: tvm.IRModule, inputs: Sequence[InputInfo]) -> None:
        self.inputs = tuple(TensorInfo(i.name, tuple(i.shape), i.dtype) for i in inputs)
        self._interpreter = Interpreter(mod)

    def __call__(self, *arrays: Any) -> tuple[np.ndarray, ...]:
        """Outputs, a tuple in any case."""
        return tuple(self._interpreter.run(arrays))


class Goal:
    """A data set and what counts on it; higher values are better.

    Parameters
    ----------
    dataset : object
        Path of an ``.npz`` or a dictionary with ``x`` (or arrays by input name) and, for a
        classifier, ``y`` with class numbers; without ``y`` also anything that is calibration data.
    model : QuantizedModel
        Its float program is the standard.

    Attributes
    ----------
    labelled : bool
    """

    def __init__(self, dataset: Any, model: QuantizedModel) -> None:
        if model.reference is None:
            raise InputError(f"{model.source}: max_drop needs the float model, not a quantized one")
        data = _read(dataset) if isinstance(dataset, str | os.PathLike) else dataset
        names = [info.name for info in model.inputs]
        self.labelled = isinstance(data, Mapping) and "y" in data and "y" not in names
        self._float = Runner(model.reference, model.inputs)
        inputs = _inputs_of(data, names) if isinstance(data, Mapping) else data
        if self.labelled:
            self._x, self._y = inputs[names[0]], np.asarray(data["y"])
        try:
            stream = CalibrationSource.of(inputs).batches(model.inputs)
            batches = itertools.islice(stream, _RANKED if self.labelled else None)
            self.batches = [[batch[name] for name in names] for batch in batches]
        except CalibrationError as error:
            raise InputError(f"dataset: {error}") from None
        self._wanted = [] if self.labelled else [self._float(*batch) for batch in self.batches]

    @property
    def unit(self) -> str:
        """What a drop is counted in."""
        return "points of top-1" if self.labelled else "dB of SQNR"

    def float_value(self) -> float:
        """Top-1 of the float program in percent."""
        return 100 * top1(self._float, self._x, self._y)

    def value(self, model: QuantizedModel) -> float:
        """Top-1 in percent, or SQNR of the outputs in dB, of a network in integers."""
        return self._value(self._runner(model, to_integers(model.mod, model.recipe)))

    def estimate(self, model: QuantizedModel) -> float:
        """Nearly :meth:`value`: its QDQ graph rounds as the integers do, and runs faster."""
        return self._value(self._runner(model, model.mod))

    def _value(self, runner: Any) -> float:
        if self.labelled:
            return 100 * top1(runner, self._x, self._y)
        noise = OutputNoise()
        for batch, wanted in zip(self.batches, self._wanted, strict=True):
            result = runner(*batch)
            noise.update(wanted, result if isinstance(result, tuple) else (result,))
        return noise.db

    def _runner(self, model: QuantizedModel, mod: tvm.IRModule) -> Any:
        """Interpreter of ``mod``, or the compiled network, if that is faster."""
        runner = Runner(mod, model.inputs)
        # Of the processor: on a busy machine compiling takes longer as well.
        start = time.process_time()
        runner(*self.batches[0])
        seconds = time.process_time() - start
        count = len(self._y) / len(self.batches[0][0]) if self.labelled else len(self.batches)
        return runner if seconds * count < _COMPILE_SECONDS else compile_model(model)


def _inputs_of(data: Mapping[str, Any], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays of the model's inputs; ``x`` serves a model with one."""
    found = {name: np.asarray(data[name]) for name in names if name in data}
    if not found and len(names) == 1 and "x" in data:
        return {names[0]: np.asarray(data["x"])}
    missing = [name for name in names if name not in found]
    if missing:
        raise InputError(
            f"dataset has no array for {', '.join(map(repr, missing))} (it has "
            f"{', '.join(map(str, data)) or 'none'}): save the inputs by name, or as x"
        )
    return found


def _read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    try:
        with np.load(Path(path), allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception:  # NumPy, zipfile and zlib each have their own
        raise InputError(
            f"{path} is damaged or not an .npz file of plain arrays: write it with numpy.savez"
        ) from None
