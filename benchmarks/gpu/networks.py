"""Whole networks for the GPU, with the outputs of the same integers compiled for the host."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import tvmquant
from benchmarks.gpu.bare import data
from benchmarks.gpu.resnet50 import resnet50


@dataclass(frozen=True)
class NetworkCase:
    """One network at one batch size and precision.

    Attributes
    ----------
    name : str
        ``demo``, ``resnet50`` or ``efficientnet_lite0``.
    precision : str
    batch : int
    path : Path or None
        ONNX file, where it is not made here.
    only_exact : bool
        Not to be timed.
    """

    name: str
    precision: str
    batch: int
    path: Path | None = None
    only_exact: bool = False

    @property
    def key(self) -> str:
        """Name of its folder."""
        return f"{self.name}_{self.precision}_batch_{self.batch}"

    @property
    def part(self) -> str:
        """Archive that it belongs to."""
        return "exact" if self.only_exact else "networks"


def network_cases(efficientnet: Path | None) -> list[NetworkCase]:
    """The demo at several precisions; ResNet-50 and, if its file is given, EfficientNet-Lite0."""
    demo = Path(str(files("tvmquant") / "assets" / "demo.onnx"))
    found = [
        NetworkCase("demo", precision, 8, demo, only_exact=True)
        for precision in ("w8a8", "w4a8", "w4a4", "w2a2", "w1a1")
    ]
    for batch in (8, 128):
        for precision in ("w8a8", "w4a8"):
            found.append(NetworkCase("resnet50", precision, batch))
            if efficientnet is not None:
                found.append(NetworkCase("efficientnet_lite0", precision, batch, efficientnet))
    return found


def build_network(case: NetworkCase, target: str, folder: Path) -> dict[str, Any]:
    """Write ``network.json``, ``model.so`` and ``outputs.npz``; done before: nothing.

    Parameters
    ----------
    case : NetworkCase
    target : str
        Device of ``model.so``; the outputs come from this machine's processor.
    folder : Path
        Written beside and renamed.
    """
    done = folder / "network.json"
    if done.exists():
        return json.loads(done.read_text(encoding="utf-8"))
    model = model_of(case)
    # Ranges from one batch of noise: what is measured does not depend on them.
    recipe = tvmquant.Recipe.for_bits(case.precision)
    quantized = tvmquant.quantize(model, recipe=recipe, calibration=_noise(model))
    host = tvmquant.compile(quantized, "host")
    inputs = [{"seed": 1, "shape": info.shape, "bits": 32} for info in host.inputs]
    outputs = host(*(data.activations(**info) for info in inputs))
    compiled = tvmquant.compile(quantized, target)
    work = folder.with_name(folder.name + ".part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    compiled.write_library(work / "model.so")
    np.savez(work / "outputs.npz", *(outputs if isinstance(outputs, tuple) else (outputs,)))
    about = {
        "name": case.name,
        "precision": case.precision,
        "batch": case.batch,
        "only_exact": case.only_exact,
        "inputs": inputs,
        "expanded": bool(compiled.manifest.expanded_bytes),
        "macs": compiled.manifest.macs,
        "kernels": sorted({layer.kernel for layer in compiled.layers if layer.macs}),
    }
    (work / "network.json").write_text(json.dumps(about), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    return about


def model_of(case: NetworkCase) -> onnx.ModelProto:
    """The network as ONNX at its batch size."""
    if case.path is None:
        return resnet50(case.batch)
    model = onnx.load(str(case.path))
    initial = {tensor.name for tensor in model.graph.initializer}
    for info in model.graph.input:
        if info.name not in initial:
            first = info.type.tensor_type.shape.dim[0]
            first.Clear()
            first.dim_value = case.batch
    # What was inferred for another batch size is in the way.
    del model.graph.value_info[:]
    for info in model.graph.output:
        info.type.tensor_type.shape.dim[0].Clear()
    return model


def _noise(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    initial = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for info in model.graph.input:
        if info.name not in initial:
            shape = [int(d.dim_value) for d in info.type.tensor_type.shape.dim]
            found[info.name] = data.activations(2, shape, 32)
    return found
