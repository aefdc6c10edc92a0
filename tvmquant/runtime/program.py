"""A model's program on this machine: loaded on its first run, one run at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tvm
from tvm.runtime.vm import VirtualMachine

from tvmquant.runtime.arrays import check_inputs, example_inputs
from tvmquant.runtime.gpu import device_for
from tvmquant.runtime.manifest import Manifest
from tvmquant.runtime.model import Inputs


class Program:
    """The function ``main`` of a TVM module and what it needs between runs.

    Parameters
    ----------
    manifest : Manifest
    load_module : callable
        Returns the runnable TVM module; called on the first run.

    Attributes
    ----------
    device : tvm.runtime.Device
        Where its arrays live.
    start_seconds, expand_seconds : float
        What making a machine and expanding constants took.
    """

    def __init__(self, manifest: Manifest, load_module: Callable[[], Any]) -> None:
        self.device = device_for(manifest)
        self.start_seconds = self.expand_seconds = 0.0
        self._manifest = manifest
        self._load_module = load_module
        self._main: Callable[..., Any] | None = None
        self._buffers: list[Any] = []
        self._expanded: list[Any] | None = None
        # The virtual machine keeps one stack.
        self._lock = threading.Lock()

    def new_machine(self) -> VirtualMachine:
        """A virtual machine of its own, for whoever measures inside of it."""
        start = time.perf_counter()
        machine = VirtualMachine(self._load_module(), self.device)
        self.start_seconds = time.perf_counter() - start
        return machine

    def expanded(self, machine: VirtualMachine) -> list[Any]:
        """Constants that kernels hold expanded in memory; made once a model."""
        if self._expanded is None:
            start = time.perf_counter()
            self._expanded = list(machine["prepare"]()) if self._manifest.expanded_bytes else []
            self.expand_seconds = time.perf_counter() - start
        return self._expanded

    def tensors(self, inputs: Inputs | None) -> list[Any]:
        """Inputs on the device; seeded noise for ``None``."""
        infos = self._manifest.inputs
        arrays = example_inputs(infos) if inputs is None else check_inputs(inputs, infos)
        return [tvm.runtime.tensor(array, self.device) for array in arrays]

    @contextmanager
    def main(self) -> Iterator[Callable[..., Any]]:
        """``main`` as a function of tensors, which nobody else calls meanwhile."""
        with self._lock:
            if self._main is None:
                self._main = self._make_main()
            yield self._main

    def _make_main(self) -> Callable[..., Any]:
        machine = self.new_machine()
        main, expanded = machine["main"], self.expanded(machine)
        return (lambda *inputs: main(*inputs, *expanded)) if expanded else main

    def run(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Outputs for checked arrays, all of them fresh."""
        with self.main() as main:
            if not self._buffers:
                # They are kept: making a tensor takes longer than running a small layer.
                infos = self._manifest.inputs
                self._buffers = [
                    tvm.runtime.empty(info.shape, info.dtype, self.device) for info in infos
                ]
            for buffer, array in zip(self._buffers, arrays):
                buffer.copyfrom(array)
            result = main(*self._buffers)
            # numpy() copies: an output may be a view of an input or of memory of the pool.
            if isinstance(result, tvm.runtime.Tensor):
                return (result.numpy(),)
            return tuple(tensor.numpy() for tensor in result)
