"""Inference engines, one file each."""

from __future__ import annotations

from benchmarks.peers import litert, mnn, ncnn, onnxruntime, openvino, tvmquant
from benchmarks.peers.base import Contender

ENGINES = {
    "tvmquant": tvmquant.contenders,
    "onnxruntime": onnxruntime.contenders,
    "openvino": openvino.contenders,
    "ncnn": ncnn.contenders,
    "mnn": mnn.contenders,
    "litert": litert.contenders,
}


def all_contenders(engines: list[str], bits: list[str]) -> list[Contender]:
    """Contenders of the named engines; ``bits`` are the precisions of tvmquant."""
    made = []
    for name in engines:
        made += ENGINES[name](bits) if name == "tvmquant" else ENGINES[name]()
    return made
