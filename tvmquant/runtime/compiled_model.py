"""A compiled model: call it, save it, measure it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm.runtime.vm import VirtualMachine

from tvmquant.errors import TargetError
from tvmquant.runtime import benchmark as _benchmark
from tvmquant.runtime import bundle as _bundle
from tvmquant.runtime import profile as _profile
from tvmquant.runtime.arrays import check_inputs, example_inputs
from tvmquant.runtime.footprint import Footprint
from tvmquant.runtime.gpu import device_for, finished
from tvmquant.runtime.link import export_library
from tvmquant.runtime.manifest import Manifest, TensorInfo
from tvmquant.runtime.model import Inputs, Model

if TYPE_CHECKING:
    from tvmquant.analysis.max_drop import MaxDropReport
    from tvmquant.analysis.report import SensitivityReport
    from tvmquant.remote.model import RemoteModel


class CompiledModel(Model):
    """A model as a program for one device.

    Made by :func:`tvmquant.compile` and :func:`tvmquant.load`. Runs are serialised by a lock:
    the virtual machine below keeps one stack.

    Parameters
    ----------
    manifest : Manifest
    load_module : callable
        Returns the runnable TVM module; called on the first run.
    export : callable
        Writes the shared library to a path.
    build_system_library : callable, optional
        Builds the executable once more, as a system library, which can be linked into a program;
        only where the model was compiled, not where it was loaded.
    """

    def __init__(
        self,
        manifest: Manifest,
        load_module: Callable[[], Any],
        export: Callable[[Path], Any],
        build_system_library: Callable[[], Any] | None = None,
    ) -> None:
        self.manifest = manifest
        self.build_system_library = build_system_library
        self._load_module = load_module
        self._export = export
        self._main: Callable[..., Any] | None = None
        self._buffers: list[Any] = []
        self._lock = threading.Lock()
        self._expanded: list[Any] | None = None
        self._device = device_for(manifest)
        # What ``tvmquant.compile(…, max_drop=…)`` did to meet it.
        self.max_drop_report: MaxDropReport | None = None
        # Seconds: opening the library, making a machine, expanding constants.
        self.open_seconds = 0.0
        self._machine_seconds = self._expand_seconds = 0.0

    @classmethod
    def from_build(
        cls,
        executable: Any,
        manifest: Manifest,
        build_system_library: Callable[[], Any] | None = None,
    ) -> CompiledModel:
        """Wrap what ``tvm.compile`` returned for a Relax module whose function is ``main``."""

        def load_module() -> Any:
            reason = _bundle.why_not_runnable(manifest)
            if reason:
                raise TargetError(f"cannot run the model here: {reason}")
            return executable.jit()

        def export(path: Path) -> None:
            export_library(executable, path, _bundle.architecture(manifest))

        return cls(manifest, load_module, export, build_system_library)

    @property
    def precision(self) -> str:
        """Precision name, for example ``w4a8``."""
        return self.manifest.precision

    def __repr__(self) -> str:
        def several(infos: Sequence[TensorInfo]) -> str:
            return ", ".join(map(str, infos))

        return (
            f"CompiledModel({self.manifest.source or 'model'}, {self.precision}, "
            f"{self.manifest.target}; {several(self.inputs)} -> {several(self.outputs)})"
        )

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``model.so`` and ``manifest.json`` to ``folder``, all or nothing.

        Parameters
        ----------
        folder : path
            New, empty, or an older tvmquant model, which is replaced.

        Returns
        -------
        Path
            The folder, absolute.

        Raises
        ------
        BundleError
            If the folder holds something else or cannot be written.
        """
        return _bundle.save_bundle(folder, self.manifest, self._export)

    def export(
        self,
        folder: str | os.PathLike[str],
        *,
        runtime: bool | str | os.PathLike[str] = True,
        static: bool = False,
    ) -> Path:
        """Write a folder that runs on the device without Python.

        See :func:`tvmquant.runtime.export.export_bundle` for the parameters.
        """
        from tvmquant.runtime.export import export_bundle

        return export_bundle(self, folder, runtime=runtime, static=static)

    def write_library(self, path: Path) -> None:
        """Write the shared library only."""
        self._export(path)

    def profile(
        self, inputs: Inputs | None = None, *, repeats: int = 20, threads: int = 1
    ) -> _profile.Profile:
        """Time every layer.

        Parameters
        ----------
        inputs : dict or sequence of arrays, optional
            Seeded noise by default.
        repeats : int
            Runs; the median of each layer is reported.
        threads : int
            Threads of TVM's pool.
        """
        machine = self._new_machine()
        tensors = [*self._tensors(inputs), *self._expand(machine)]
        result = _profile.measure(machine, self.manifest, tensors, repeats=repeats, threads=threads)
        return replace(result, footprint=self._footprint())

    def benchmark(
        self,
        inputs: Inputs | None = None,
        *,
        warmup: int = 5,
        repeats: int = 50,
        threads: int = 1,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> _benchmark.Benchmark:
        """Time whole runs, without the copies of inputs and outputs.

        Parameters
        ----------
        inputs : dict or sequence of arrays, optional
            Seeded noise by default.
        warmup, repeats : int
            Runs that are not and that are counted.
        threads : int
            Threads of TVM's pool.
        progress : callable, optional
            Called as ``progress("benchmark", done, repeats)``.
        """
        tensors = self._tensors(inputs)
        with self._lock:
            run = self._entry()
            result = _benchmark.measure(
                finished(lambda: run(*tensors), self._device),
                warmup=warmup,
                repeats=repeats,
                threads=threads,
                progress=progress,
            )
            return replace(result, footprint=self._footprint())

    def debug(self, model: Any, data: Any, **options: Any) -> SensitivityReport:
        """Compare with the float model, layer by layer: where accuracy goes.

        Parameters
        ----------
        model : object
            The float model, as for :func:`tvmquant.compile`, or the ``QuantizedModel`` that was
            compiled.
        data : object
            Inputs, as calibration data; unless ``calibration`` is given as well, the data that
            the model was calibrated on.
        **options
            ``calibration``, ``samples``, ``progress``: see :func:`tvmquant.analysis.debug.debug`.

        Returns
        -------
        SensitivityReport
            Has ``table()``, ``to_dict()`` and ``to_html(path)``.

        Raises
        ------
        InputError
            If the model or the calibration data is not what this was compiled from.
        """
        from tvmquant.analysis.debug import debug

        return debug(self, model, data, **options)

    def _footprint(self) -> Footprint:
        return Footprint.of(
            self.manifest,
            load_seconds=self.open_seconds + self._machine_seconds + self._expand_seconds,
            expand_seconds=self._expand_seconds,
            peak_memory_mb=_benchmark.process_memory()[0],
        )

    def remote(
        self,
        address: str | None = None,
        *,
        tracker: str | None = None,
        key: str = "",
        timeout: float = 60.0,
    ) -> RemoteModel:
        """Send the model to another machine, to run and be measured there.

        Parameters
        ----------
        address : str, optional
            ``HOST:PORT`` of ``tvmquant serve``.
        tracker : str, optional
            ``HOST:PORT`` of ``tvmquant tracker``, which chooses a device; instead of ``address``.
        key : str
            Kind of device, required with a tracker.
        timeout : float
            Seconds that any single answer may take.

        Returns
        -------
        RemoteModel
            Has ``__call__``, ``run``, ``benchmark`` and ``profile`` as this class; close it.

        Raises
        ------
        RemoteError
            If the device cannot be reached, refuses the key, or is lost.
        TargetError
            If the model was compiled for another kind of device.
        InputError
            If not exactly one of ``address`` and ``tracker`` is given.
        """
        from tvmquant.remote.model import RemoteModel, exported
        from tvmquant.remote.session import connect

        with exported(self._export) as library:
            return RemoteModel(self.manifest, library, connect(address, tracker, key, timeout))

    def _new_machine(self) -> VirtualMachine:
        start = time.perf_counter()
        machine = VirtualMachine(self._load_module(), self._device)
        self._machine_seconds = time.perf_counter() - start
        return machine

    def _entry(self) -> Callable[..., Any]:
        """``main`` of the machine, which is made on the first run."""
        if self._main is None:
            machine = self._new_machine()
            # Input buffers are kept: making a tensor takes longer than running a small layer.
            self._buffers = [
                tvm.runtime.empty(info.shape, info.dtype, self._device) for info in self.inputs
            ]
            main, expanded = machine["main"], self._expand(machine)
            self._main = (lambda *inputs: main(*inputs, *expanded)) if expanded else main
        return self._main

    def _expand(self, machine: VirtualMachine) -> list[Any]:
        """Constants that kernels hold expanded in memory; made once a model."""
        if self._expanded is None:
            start = time.perf_counter()
            self._expanded = list(machine["prepare"]()) if self.manifest.expanded_bytes else []
            self._expand_seconds = time.perf_counter() - start
        return self._expanded

    def _tensors(self, inputs: Inputs | None) -> list[Any]:
        arrays = (
            example_inputs(self.inputs) if inputs is None else check_inputs(inputs, self.inputs)
        )
        return [tvm.runtime.tensor(array, self._device) for array in arrays]

    def _invoke(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        with self._lock:
            main = self._entry()
            for buffer, array in zip(self._buffers, arrays):
                buffer.copyfrom(array)
            result = main(*self._buffers)
            # numpy() copies: an output may be a view of an input or of memory of the pool.
            if isinstance(result, tvm.runtime.Tensor):
                return (result.numpy(),)
            return tuple(tensor.numpy() for tensor in result)
