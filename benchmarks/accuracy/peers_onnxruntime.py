"""ONNX Runtime's static quantization with each of its calibrators, run by ONNX Runtime."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx

from benchmarks.accuracy.network import Inputs, Network
from benchmarks.accuracy.peers import Infer, Peer
from benchmarks.case import fix_shapes
from benchmarks.peers.base import Unavailable, need
from benchmarks.peers.onnxruntime import OrtSession, _quiet, _Reader, first_line

INT4_OPSET = 21


def build(
    network: Network, data: list[Inputs], bits: str, folder: Path, *, calibrator: str
) -> Infer:
    """Quantize to QDQ, per channel; 4-bit weights as QInt4."""
    quantization = need("onnxruntime.quantization", "onnxruntime sympy")
    shapes = need("onnxruntime.quantization.shape_inference", "onnxruntime sympy")
    model = onnx.load(str(network.path))
    initial = {tensor.name for tensor in model.graph.initializer}
    infos = [info for info in model.graph.input if info.name not in initial]
    fix_shapes(model, infos, data[0])
    kinds = quantization.QuantType
    weight = kinds.QInt8
    if bits.startswith("w4"):
        weight = kinds.QInt4
        model = onnx.version_converter.convert_version(model, INT4_OPSET)
    fixed, prepared, out = (folder / name for name in ("fixed.onnx", "pre.onnx", "q.onnx"))
    onnx.save(model, str(fixed))
    try:
        with _quiet():
            shapes.quant_pre_process(str(fixed), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(out),
                _Reader(data),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=kinds.QUInt8,
                weight_type=weight,
                calibrate_method=quantization.CalibrationMethod[calibrator],
            )
        return OrtSession(out, network.test[0], threads=1).infer
    except Exception as error:
        raise Unavailable(f"ONNX Runtime: {first_line(error)}") from None


def rows() -> list[Peer]:
    """A row a calibrator; the slow ones where a network is fast."""
    fashion = ("resnet20", "mobilenetv2")
    found = []
    for name in ("MinMax", "Entropy", "Percentile", "Distribution"):
        first = name == "MinMax"
        found.append(
            Peer(
                f"ONNX Runtime {name}",
                f"static, QDQ, per channel, calibrator {name}",
                "ONNX Runtime",
                partial(build, calibrator=name),
                ("w8a8", "w4a8") if first else ("w8a8",),
                networks=(*fashion, "efficientnet_lite0") if first else fashion,
            )
        )
    return found
