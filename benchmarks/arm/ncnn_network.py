"""Counts of whole networks as ncnn computes them, in float32 and in int8.

The way of an ncnn user: pnnx converts the ONNX file, then every convolution and fully connected
layer is quantized. The calibration is one input and largest magnitudes (``ncnn2table`` looks at
many inputs; how often instructions run does not depend on the scales). Which layers requantize
follows ``ncnn2int8``: convolutions whose output only other convolutions read.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.arm import ncnn_format
from benchmarks.arm.ncnn_format import CONVOLUTION, DEPTHWISE, QUANTIZABLE, NcnnLayer
from benchmarks.arm.ncnn_layer import ncnn_package
from tests.emulated_pi import EmulatedPi, Unavailable

_SCRIPT = Path(__file__).resolve().with_name("ncnn_ranges.py")


def convert(model: Path, shape: tuple[int, ...]) -> list[NcnnLayer]:
    """The float32 ncnn model of an ONNX file.

    Parameters
    ----------
    model : Path
    shape : tuple of int
        Of its one input.

    Raises
    ------
    Unavailable
        If pnnx is not installed.
    """
    beside = str(Path(sys.executable).parent)
    tool = shutil.which("pnnx", path=beside) or shutil.which("pnnx")
    if tool is None:
        raise Unavailable("no pnnx (converts ONNX to ncnn): python -m pip install pnnx")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(model, Path(folder) / "model.onnx")
        sizes = ",".join(map(str, shape))
        command = [tool, "model.onnx", f"inputshape=[{sizes}]", "fp16=0"]
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
        stem = Path(folder) / "model.ncnn"
        return ncnn_format.read(Path(f"{stem}.param"), Path(f"{stem}.bin"))


def quantize(pi: EmulatedPi, layers: list[NcnnLayer], x: np.ndarray) -> list[NcnnLayer]:
    """The same model in int8.

    Parameters
    ----------
    pi : EmulatedPi
        With Python.
    layers : list of NcnnLayer
    x : np.ndarray
        Calibration input, without the batch.
    """
    blobs = sorted({layer.inputs[0] for layer in layers if layer.kind in QUANTIZABLE})
    tops = _ranges(pi, layers, x, blobs)
    scales = {blob: 127 / max(top, 1e-6) for blob, top in tops.items()}
    readers = _readers(layers)
    result = []
    for layer in layers:
        if layer.kind in QUANTIZABLE:
            layer = replace(layer, input_scale=scales[layer.inputs[0]])
        found = readers[layer.outputs[0]]
        kinds = {reader.kind for reader in found}
        if layer.kind in (CONVOLUTION, DEPTHWISE) and kinds and kinds <= {CONVOLUTION, DEPTHWISE}:
            layer.output_scale = scales[found[0].inputs[0]]
        result.append(layer)
    return result


def _readers(layers: list[NcnnLayer]) -> dict[str, list[NcnnLayer]]:
    """Who reads each blob, seen through Split."""
    readers: dict[str, list[NcnnLayer]] = {}
    for layer in reversed(layers):
        for blob in layer.outputs:
            readers.setdefault(blob, [])
        if layer.kind == "Split":
            found = [reader for blob in layer.outputs for reader in readers[blob]]
        else:
            found = [layer]
        for blob in layer.inputs:
            readers.setdefault(blob, []).extend(found)
    return readers


def _ranges(
    pi: EmulatedPi, layers: list[NcnnLayer], x: np.ndarray, blobs: list[str]
) -> dict[str, float]:
    env = {"PYTHONPATH": f"{ncnn_package(pi)}:{pi.python_env()['PYTHONPATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        param, weights = ncnn_format.write(layers, Path(folder) / "model")
        np.save(Path(folder) / "x.npy", x.astype(np.float32))
        arguments = [_SCRIPT, param, weights, Path(folder) / "x.npy", *blobs]
        return json.loads(pi.run_python(arguments, env=env, timeout=3600).stdout)
