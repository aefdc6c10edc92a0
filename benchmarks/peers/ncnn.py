"""ncnn, float: the model goes through pnnx."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case, Inputs
from benchmarks.peers.base import Contender, Unavailable, need

CONVERT_SECONDS = 300


class _Session:
    def __init__(self, files: tuple[Path, Path], case: Case, threads: int) -> None:
        self.ncnn = need("ncnn", "ncnn")
        self.net = self.ncnn.Net()
        self.net.opt.num_threads = threads
        self.net.opt.use_vulkan_compute = False
        if self.net.load_param(str(files[0])) or self.net.load_model(str(files[1])):
            raise Unavailable("ncnn refuses the file that pnnx wrote")
        self.bound = self._mats(case.inputs)

    def _mats(self, inputs: Inputs) -> list[Any]:
        mats = []
        for array in inputs.values():
            if array.dtype != np.float32 or array.shape[:1] != (1,):
                raise Unavailable("only float inputs of batch 1 were tried")
            mats.append(self.ncnn.Mat(np.ascontiguousarray(array[0])).clone())
        return mats

    def _forward(self, mats: list[Any]) -> list[np.ndarray]:
        extractor = self.net.create_extractor()
        for name, mat in zip(self.net.input_names(), mats):
            extractor.input(name, mat)
        return [np.array(extractor.extract(name)[1]) for name in self.net.output_names()]

    def infer(self, inputs: Inputs) -> list[np.ndarray]:
        return self._forward(self._mats(inputs))

    def run(self) -> Any:
        return self._forward(self.bound)


def _convert(case: Case) -> tuple[Path, Path]:
    need("ncnn", "ncnn")
    tool = shutil.which("pnnx", path=str(Path(sys.executable).parent)) or shutil.which("pnnx")
    if tool is None:
        raise Unavailable("not installed: pip install pnnx (converts ONNX to ncnn)")
    # pnnx writes a dozen files beside the model.
    folder = case.work / "ncnn"
    folder.mkdir(exist_ok=True)
    shutil.copy(case.path, folder / "model.onnx")
    shapes = ",".join(str(list(a.shape)).replace(" ", "") for a in case.inputs.values())
    try:
        subprocess.run(
            [tool, "model.onnx", f"inputshape={shapes}"],
            cwd=folder,
            capture_output=True,
            check=True,
            timeout=CONVERT_SECONDS,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        raise Unavailable("pnnx cannot convert the model") from None
    files = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    if not all(file.exists() for file in files):
        raise Unavailable("pnnx cannot convert the model")
    return files


def contenders() -> list[Contender]:
    """Float only: the calibration tool for int8 is not in the Python packages."""
    return [Contender("ncnn", "fp32", _convert, lambda built, case, n: _Session(built, case, n))]
