"""A compiled model on another machine."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.runtime.vm import VirtualMachine

from tvmquant.errors import InputError, RemoteError, TargetError
from tvmquant.remote import device as _device
from tvmquant.remote.device import DeviceInfo
from tvmquant.remote.session import Session
from tvmquant.runtime import benchmark as _benchmark
from tvmquant.runtime import profile as _profile
from tvmquant.runtime.arrays import check_inputs, example_inputs
from tvmquant.runtime.bundle import LIBRARY, architecture, canonical, read_manifest
from tvmquant.runtime.footprint import Footprint
from tvmquant.runtime.gpu import Gpu, cuda_archs, device_for, why_no_gpu
from tvmquant.runtime.manifest import Manifest
from tvmquant.runtime.model import Inputs, Model

# One request times so many runs: short enough for a progress bar and the time limit.
_REQUEST_SECONDS = 2.0


class RemoteModel(Model):
    """A model that runs on a device; call it as a :class:`tvmquant.CompiledModel`.

    Made by :meth:`tvmquant.CompiledModel.remote` and :meth:`from_bundle`. It owns its session:
    close it, or use it in a ``with`` statement.

    Parameters
    ----------
    manifest : Manifest
    library : path
        The shared library; not needed any more afterwards.
    session : Session

    Raises
    ------
    TargetError
        If the model was compiled for another kind of device.
    RemoteError
        If the device is lost or cannot load it.
    """

    def __init__(self, manifest: Manifest, library: Path, session: Session) -> None:
        self.manifest, self.session = manifest, session
        try:
            self._check(library)
            self._module = session.load(library)
            self._device = device_for(manifest, session.rpc)
            with session.talking("start the model"):
                self._machine = VirtualMachine(self._module, self._device)
            self._expanded = self._prepare()
        except BaseException:
            session.close()
            raise

    @classmethod
    def from_bundle(cls, folder: str | Path, session: Session) -> RemoteModel:
        """Send a saved model, which this machine need not be able to run.

        Raises
        ------
        BundleError
            If ``folder`` is damaged.
        TargetError, RemoteError
            As above.
        """
        try:
            manifest = read_manifest(folder)
        except BaseException:
            session.close()
            raise
        return cls(manifest, Path(folder) / LIBRARY, session)

    @property
    def device(self) -> DeviceInfo | None:
        """The device; ``None`` unless it runs ``tvmquant serve``."""
        return self.session.info

    def __repr__(self) -> str:
        return (
            f"RemoteModel({self.manifest.source or 'model'}, {self.manifest.precision}, "
            f"{self.manifest.target} at {self.session.address})"
        )

    def benchmark(
        self,
        inputs: Inputs | None = None,
        *,
        warmup: int = 5,
        repeats: int = 50,
        threads: int = 1,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> _benchmark.Benchmark:
        """Time whole runs on the device, without the network.

        Parameters as in :meth:`tvmquant.CompiledModel.benchmark`. The memory is that of the
        process on the device, if it runs ``tvmquant serve``.
        """
        _benchmark.check_counts(warmup, repeats)
        tensors = self._tensors(inputs)
        times: list[float] = []
        with self._threads(threads) as used:
            for _ in range(warmup):
                self._time(1, tensors)
            while len(times) < repeats:
                one = float(np.median(times)) / 1e3 if times else _REQUEST_SECONDS
                count = max(1, min(int(_REQUEST_SECONDS / max(one, 1e-6)), repeats - len(times)))
                times += [1e3 * seconds for seconds in self._time(count, tensors)]
                if progress is not None:
                    progress("benchmark", len(times), repeats)
        info = self.device
        return _benchmark.summary(
            times,
            threads=used,
            warmup=warmup,
            memory=self._memory(),
            device=f"{info or 'an unnamed device'} at {self.session.address}",
            footprint=Footprint.of(self.manifest),
        )

    def profile(
        self, inputs: Inputs | None = None, *, repeats: int = 20, threads: int = 1
    ) -> _profile.Profile:
        """Time every layer on the device, which must run ``tvmquant serve``.

        Parameters as in :meth:`tvmquant.CompiledModel.profile`.

        Raises
        ------
        RemoteError
            If it runs another server.
        """
        if repeats < 1 or threads < 1:
            raise InputError(f"repeats and threads must be at least 1, got {repeats}, {threads}")
        measure = self.session.function(_device.PROFILE)
        if measure is None:
            raise RemoteError(
                f"{self.session.address} cannot time layers: start tvmquant serve there instead "
                "of TVM's own server"
            )
        manifest = json.dumps(self.manifest.to_dict())
        with self.session.talking("time the layers"):
            answer = measure(self._module, manifest, repeats, threads, *self._tensors(inputs))
            data = json.loads(str(answer))
            times = [float(us) for us in data["us"]]
            whole, used = float(data["total_us"]), int(data["threads"])
        return _profile.from_times(self.manifest, times, whole, used, repeats)

    def close(self) -> None:
        """End the session; the device is free again."""
        self.session.close()

    def __enter__(self) -> RemoteModel:
        return self

    def __exit__(self, *_error: Any) -> None:
        self.close()

    def _check(self, library: Path) -> None:
        info = self.session.info
        if info is None:
            return
        reason = why_not_there(self.manifest, library, info)
        if reason:
            raise TargetError(f"{self.session.address} ({info.cpu}) cannot run the model: {reason}")

    def _prepare(self) -> list[Any]:
        """Constants that kernels hold expanded in the device's memory."""
        if not self.manifest.expanded_bytes:
            return []
        with self.session.talking("expand the weights"):
            return list(self._call("prepare", []))

    def _call(self, name: str, tensors: Sequence[Any]) -> tuple[Any, ...]:
        machine = self._machine
        machine.set_input(name, *tensors)
        machine.invoke_stateful(name)
        result = machine.get_outputs(name)
        return result if isinstance(result, tuple) else (result,)

    def _invoke(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        with self.session.talking("run the model"):
            tensors = [tvm.runtime.tensor(array, self._device) for array in arrays]
            results = self._call("main", [*tensors, *self._expanded])
            return tuple(tensor.numpy() for tensor in results)

    def _tensors(self, inputs: Inputs | None) -> list[Any]:
        arrays = (
            example_inputs(self.inputs) if inputs is None else check_inputs(inputs, self.inputs)
        )
        with self.session.talking("take the inputs"):
            tensors = [tvm.runtime.tensor(array, self._device) for array in arrays]
        return [*tensors, *self._expanded]

    def _time(self, count: int, tensors: Sequence[Any]) -> list[float]:
        """Seconds of so many runs, each timed by itself, after one that is not."""
        with self.session.talking("time the model"):
            timer = self._machine.time_evaluator("main", self._device, number=1, repeat=count)
            try:
                seconds = [float(value) for value in timer(*tensors).results]
            except struct.error:
                seconds = []
        if len(seconds) != count or not all(0 < s < np.inf for s in seconds):
            raise RemoteError(f"{self.session.address} answers with times that make no sense")
        return seconds

    @contextmanager
    def _threads(self, threads: int) -> Iterator[int]:
        """As :func:`tvmquant.runtime.threads.use_threads`, there."""
        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        current = self.session.function("runtime.NumThreads")
        configure = self.session.function("runtime.config_threadpool")
        if current is None or configure is None:
            yield threads
            return
        with self.session.talking("set its threads"):
            before = int(current())
            configure(1, threads)
            used = int(current())
        if used < threads:
            raise InputError(
                f"{self.session.address} cannot use {threads} threads, its pool has {used}: start "
                f"the server with TVM_NUM_THREADS={threads} on a device with that many cores"
            )
        try:
            yield used
        finally:
            if not self.session.lost:
                with self.session.talking("set its threads"):
                    configure(1, before)

    def _memory(self) -> tuple[float, float] | None:
        tell = self.session.function(_device.MEMORY)
        if tell is None:
            return None
        with self.session.talking("tell its memory"):
            peak, resident = json.loads(str(tell()))
            return float(peak), float(resident)


def why_not_there(manifest: Manifest, library: Path, info: DeviceInfo) -> str | None:
    """Say in one line why a device cannot run a model; ``None`` when it seems that it can."""
    there, made_for = canonical(info.machine), architecture(manifest, library)
    if made_for not in (None, there):
        return f"it was compiled for {made_for}, the device is {there}: compile it for that"
    archs = cuda_archs(manifest)
    if archs:
        no_gpu = why_no_gpu(archs, Gpu(info.gpu, info.gpu_arch) if info.gpu else None, "the device")
        if no_gpu:
            return no_gpu
    missing = sorted(set(manifest.features) - set(info.features)) if info.features else []
    if missing and not archs:
        return f"its processor lacks {', '.join(missing)}: compile it for that processor"
    for name in ("apache-tvm", "apache-tvm-ffi"):
        made, runs = manifest.versions.get(name), info.versions.get(name)
        if made and runs and made != runs:
            return (
                f"it was compiled with {name} {made}, the device has {runs}: install {made} there"
            )
    return None


@contextmanager
def exported(export: Callable[[Path], Any]) -> Iterator[Path]:
    """A library in a temporary folder, written by ``export``."""
    with tempfile.TemporaryDirectory(prefix="tvmquant-remote-") as folder:
        library = Path(folder, LIBRARY)
        export(library)
        yield library
