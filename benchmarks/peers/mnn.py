"""MNN, float."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.case import Case, Inputs
from benchmarks.peers.base import Contender, Unavailable, need

# The converter's C extension, called in a process of its own. Not the `mnnconvert` command: that
# one installs a logging package with pip and sends statistics to its maker.
CONVERT = (
    "import _tools, sys; _tools.mnnconvert(['mnnconvert', '-f', 'ONNX', '--modelFile', "
    "sys.argv[1], '--MNNModel', sys.argv[2], '--bizCode', 'x'])"
)


class _Session:
    def __init__(self, path: Path, case: Case, threads: int) -> None:
        mnn = need("MNN", "MNN")
        self.mnn = mnn
        with _quiet_stdout():
            self.net = mnn.Interpreter(str(path))
            self.session = self.net.createSession({"numThread": threads, "precision": "high"})
        self.outputs = [info.name for info in onnx.load(str(case.path)).graph.output]
        for array in case.inputs.values():
            if array.dtype not in (np.float32, np.int32):
                raise Unavailable(f"inputs of {array.dtype} were not tried")
        self._copy(case.inputs)

    def _copy(self, inputs: Inputs) -> None:
        kinds = {"float32": self.mnn.Halide_Type_Float, "int32": self.mnn.Halide_Type_Int}
        for name, array in inputs.items():
            tensor = self.net.getSessionInput(self.session, name)
            layout = self.mnn.Tensor_DimensionType_Caffe
            source = self.mnn.Tensor(array.shape, kinds[str(array.dtype)], array, layout)
            tensor.copyFrom(source)

    def _read(self) -> list[np.ndarray]:
        results = []
        for name in self.outputs:
            tensor = self.net.getSessionOutput(self.session, name)
            shape = tensor.getShape()
            host = self.mnn.Tensor(
                shape,
                self.mnn.Halide_Type_Float,
                np.zeros(shape, np.float32),
                self.mnn.Tensor_DimensionType_Caffe,
            )
            tensor.copyToHostTensor(host)
            results.append(np.array(host.getNumpyData()).reshape(shape))
        return results

    def infer(self, inputs: Inputs) -> list[np.ndarray]:
        self._copy(inputs)
        self.net.runSession(self.session)
        return self._read()

    def run(self) -> Any:
        self.net.runSession(self.session)


def _convert(case: Case) -> Path:
    with _quiet_stdout():
        need("MNN", "MNN")
    path = case.work / "model.mnn"
    result = subprocess.run(
        [sys.executable, "-c", CONVERT, str(case.path), str(path)], capture_output=True
    )
    if result.returncode or not path.exists():
        raise Unavailable("its converter cannot read the model")
    return path


@contextlib.contextmanager
def _quiet_stdout():
    """MNN prints from C."""
    sys.stdout.flush()
    saved, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)


def contenders() -> list[Contender]:
    """Float only: the quantizer takes folders of images, and ends the process on other data."""
    return [Contender("mnn", "fp32", _convert, lambda built, case, n: _Session(built, case, n))]
