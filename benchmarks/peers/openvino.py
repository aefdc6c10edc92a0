"""OpenVINO: float, and int8 through NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import Counter
from typing import Any

import numpy as np

from benchmarks.case import Case, Inputs
from benchmarks.peers.base import Contender, need


class OpenVinoSession:
    """One infer request, latency mode, input tensors bound."""

    def __init__(self, model: Any, inputs: Inputs, threads: int, hints: dict[str, Any]) -> None:
        ov = need("openvino", "openvino")
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            **hints,
        }
        self.ov = ov
        self.compiled = ov.Core().compile_model(model, "CPU", config)
        self.request = self.compiled.create_infer_request()
        self.bind(inputs)

    def bind(self, inputs: Inputs) -> None:
        """Share the arrays with the request."""
        self.bound = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        for name, array in self.bound.items():
            self.request.set_tensor(name, self.ov.Tensor(array, shared_memory=True))

    def infer(self, inputs: Inputs) -> list[np.ndarray]:
        before = self.bound
        self.bind(inputs)
        self.request.infer()
        results = [np.array(self.request.get_tensor(o).data) for o in self.compiled.outputs]
        self.bind(before)
        return results

    def run(self) -> Any:
        return self.request.infer()

    def kernels(self) -> dict[str, int]:
        """How often the plugin chose which primitive for convolutions and matrix products."""
        found: Counter[str] = Counter()
        for node in self.compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            if info["layerType"].value in ("Convolution", "GroupConvolution", "FullyConnected"):
                found[info["primitiveType"].value] += 1
        return dict(found)


def _float(case: Case) -> Any:
    return need("openvino", "openvino").convert_model(str(case.path))


def _int8(case: Case) -> Any:
    model = _float(case)
    nncf = need("nncf", "nncf")
    more = {"model_type": nncf.ModelType.TRANSFORMER} if case.attention else {}
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):
        return nncf.quantize(
            model,
            nncf.Dataset(case.samples),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(case.samples),
            **more,
        )


def _load_float(model: Any, case: Case, threads: int) -> OpenVinoSession:
    # By itself the CPU plugin computes a float model in bfloat16 where the processor can.
    return OpenVinoSession(model, case.inputs, threads, {"INFERENCE_PRECISION_HINT": "f32"})


def _load_int8(model: Any, case: Case, threads: int) -> OpenVinoSession:
    return OpenVinoSession(model, case.inputs, threads, {})


def contenders() -> list[Contender]:
    """Float32, the default float precision, and int8."""
    return [
        Contender("openvino", "fp32", _float, _load_float),
        Contender("openvino", "fp32", _float, _load_int8, "default precision"),
        Contender("openvino", "int8", _int8, _load_int8, "NNCF"),
    ]
