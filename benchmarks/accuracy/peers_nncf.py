"""NNCF's post-training quantization, run by OpenVINO."""

from __future__ import annotations

import contextlib
import io
import logging
from functools import partial
from pathlib import Path

from benchmarks.accuracy.network import Inputs, Network
from benchmarks.accuracy.peers import Infer, Peer
from benchmarks.peers.base import Unavailable, need
from benchmarks.peers.onnxruntime import first_line
from benchmarks.peers.openvino import OpenVinoSession


def build(network: Network, data: list[Inputs], bits: str, folder: Path, *, fast: bool) -> Infer:
    """Quantize with the preset for mixed networks, with fast or full bias correction."""
    ov, nncf = need("openvino", "openvino"), need("nncf", "nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = ov.convert_model(str(network.path))
    model.reshape({name: list(shape) for name, shape in network.shapes.items()})
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            quantized = nncf.quantize(
                model,
                nncf.Dataset(data),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(data),
                fast_bias_correction=fast,
            )
        return OpenVinoSession(quantized, network.test[0], 1, {}).infer
    except Exception as error:
        raise Unavailable(f"NNCF: {first_line(error)}") from None


def rows() -> list[Peer]:
    """Fast and full bias correction."""
    return [
        Peer(
            f"NNCF {'fast' if fast else 'full'}",
            f"preset mixed, {'fast' if fast else 'full'} bias correction",
            "OpenVINO",
            partial(build, fast=fast),
            networks=("resnet20", "mobilenetv2", *(("efficientnet_lite0",) if fast else ())),
        )
        for fast in (True, False)
    ]
