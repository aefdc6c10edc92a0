"""A compiled model: call it, save it, measure it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvmquant.errors import TargetError
from tvmquant.runtime import benchmark as _benchmark
from tvmquant.runtime import bundle as _bundle
from tvmquant.runtime import profile as _profile
from tvmquant.runtime.footprint import Footprint
from tvmquant.runtime.gpu import finished
from tvmquant.runtime.link import export_library
from tvmquant.runtime.manifest import Manifest, TensorInfo
from tvmquant.runtime.model import Inputs, Model
from tvmquant.runtime.program import Program

if TYPE_CHECKING:
    from tvmquant.analysis.max_drop_report import MaxDropReport
    from tvmquant.analysis.report import SensitivityReport
    from tvmquant.remote.model import RemoteModel


class CompiledModel(Model):
    """A model as a program for one device.

    Made by :func:`tvmquant.compile` and :func:`tvmquant.load`. Any thread may run it; runs wait
    for each other.

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
        self._program = Program(manifest, load_module)
        self._export = export
        # What ``tvmquant.compile(…, max_drop=…)`` did to meet it.
        self.max_drop_report: MaxDropReport | None = None
        # That opening the library took.
        self.open_seconds = 0.0

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
        machine = self._program.new_machine()
        tensors = [*self._program.tensors(inputs), *self._program.expanded(machine)]
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
        program = self._program
        tensors = program.tensors(inputs)
        with program.main() as run:
            result = _benchmark.measure(
                finished(lambda: run(*tensors), program.device),
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
        program = self._program
        return Footprint.of(
            self.manifest,
            load_seconds=self.open_seconds + program.start_seconds + program.expand_seconds,
            expand_seconds=program.expand_seconds,
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

    def _invoke(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        return self._program.run(arrays)
