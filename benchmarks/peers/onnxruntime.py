"""ONNX Runtime: float, and int8 as its own tools make it."""

from __future__ import annotations

import contextlib
import io
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case, Inputs
from benchmarks.peers.base import Contender, Unavailable, need


class OrtSession:
    """A session on the CPU; threads stop spinning when a run ends."""

    def __init__(self, path: Path | bytes, inputs: Inputs, threads: int) -> None:
        ort = need("onnxruntime", "onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # The next engine's turn comes at once: a pool that spins on would be charged to it.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = path if isinstance(path, bytes) else str(path)
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.inputs = inputs

    def infer(self, inputs: Inputs) -> list[np.ndarray]:
        return self.session.run(None, inputs)

    def run(self) -> Any:
        return self.session.run(None, self.inputs)


class _Reader:
    """Calibration data reader."""

    def __init__(self, samples: list[Inputs]) -> None:
        self.samples = samples
        self.rewind()

    def get_next(self) -> Inputs | None:
        return next(self.stream, None)

    def rewind(self) -> None:
        self.stream = iter(self.samples)


def preprocessed(case: Case) -> Path:
    """The model as ONNX Runtime's guide prepares it for quantization; made once a case."""
    path = case.work / "ort_preprocessed.onnx"
    if not path.exists():
        shapes = need("onnxruntime.quantization.shape_inference", "onnxruntime sympy")
        with _quiet():
            try:
                shapes.quant_pre_process(str(case.path), str(path), skip_symbolic_shape=True)
            except Exception as error:
                raise Unavailable(f"its preprocessing fails: {first_line(error)}") from None
    return path


def _static(case: Case, *, qdq: bool, reduce_range: bool) -> Path:
    quantization = need("onnxruntime.quantization", "onnxruntime sympy")
    out = case.work / f"ort_{'qdq' if qdq else 'qop'}_{int(reduce_range)}.onnx"
    format_ = quantization.QuantFormat
    with _quiet():
        quantization.quantize_static(
            str(preprocessed(case)),
            str(out),
            _Reader(case.samples),
            quant_format=format_.QDQ if qdq else format_.QOperator,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
    return out


def _dynamic(case: Case) -> Path:
    if not case.attention:
        raise Unavailable("dynamic quantization is for networks of matrix products")
    quantization = need("onnxruntime.quantization", "onnxruntime sympy")
    out = case.work / "ort_dynamic.onnx"
    with _quiet():
        quantization.quantize_dynamic(
            str(preprocessed(case)),
            str(out),
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )
    return out


def _load(path: Path, case: Case, threads: int) -> OrtSession:
    return OrtSession(path, case.inputs, threads)


def first_line(error: BaseException) -> str:
    """First line of an error, not too long for a table."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160]


@contextlib.contextmanager
def _quiet():
    """Without the tools' advice on standard output and in the log."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)


def contenders() -> list[Contender]:
    """Float; int8 as QOperator with full and reduced weight range, as QDQ, and dynamic."""

    def int8(variant: str, build: Any) -> Contender:
        return Contender("onnxruntime", "int8", build, _load, variant)

    return [
        Contender("onnxruntime", "fp32", lambda case: case.path, _load),
        int8("QOperator", partial(_static, qdq=False, reduce_range=False)),
        int8("QOperator reduce_range", partial(_static, qdq=False, reduce_range=True)),
        int8("QDQ", partial(_static, qdq=True, reduce_range=False)),
        int8("dynamic", _dynamic),
    ]
