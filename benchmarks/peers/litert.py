"""LiteRT (TensorFlow Lite): takes part where a converted file lies beside the model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case, Inputs
from benchmarks.peers.base import Contender, Unavailable, need


class _Session:
    def __init__(self, path: Path, case: Case, threads: int) -> None:
        module = need("ai_edge_litert.interpreter", "ai-edge-litert")
        self.net = module.Interpreter(str(path), num_threads=threads)
        self.net.allocate_tensors()
        self._set(case.inputs)

    def _set(self, inputs: Inputs) -> None:
        details = self.net.get_input_details()
        if len(details) != len(inputs):
            raise Unavailable("the file has other inputs than the ONNX model")
        for detail, array in zip(details, inputs.values()):
            wanted = tuple(detail["shape"])
            if array.shape != wanted and array.ndim == 4:
                array = array.transpose(0, 2, 3, 1)
            if array.shape != wanted:
                raise Unavailable(f"the file takes shape {list(wanted)}")
            scale, zero_point = detail["quantization"]
            if scale:
                info = np.iinfo(detail["dtype"])
                array = np.clip(np.rint(array / scale) + zero_point, info.min, info.max)
            self.net.set_tensor(detail["index"], np.ascontiguousarray(array, detail["dtype"]))

    def infer(self, inputs: Inputs) -> list[np.ndarray]:
        self._set(inputs)
        self.net.invoke()
        results = []
        for detail in self.net.get_output_details():
            array, (scale, zero_point) = (
                self.net.get_tensor(detail["index"]),
                detail["quantization"],
            )
            results.append((array.astype(np.float32) - zero_point) * scale if scale else array)
        return results

    def run(self) -> Any:
        self.net.invoke()


def _find(suffix: str, case: Case) -> Path:
    need("ai_edge_litert.interpreter", "ai-edge-litert")
    path = case.source.with_suffix(suffix)
    if not path.exists():
        raise Unavailable(
            f"no {path.name} beside the model; its converters from ONNX need TensorFlow"
        )
    return path


def contenders() -> list[Contender]:
    """``NAME.tflite`` and ``NAME.int8.tflite``."""

    def load(path: Path, case: Case, threads: int) -> _Session:
        return _Session(path, case, threads)

    return [
        Contender("litert", "fp32", partial(_find, ".tflite"), load),
        Contender("litert", "int8", partial(_find, ".int8.tflite"), load),
    ]
