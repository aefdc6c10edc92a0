"""Prints the largest magnitudes of blobs of a float model; started by the emulated Pi's Python.

python ncnn_ranges.py MODEL.param MODEL.bin INPUT.npy BLOB...
"""

from __future__ import annotations

import json
import sys

import ncnn
import numpy as np


def main(param: str, weights: str, source: str, *blobs: str) -> None:
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.lightmode = False
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)
    if net.load_param(param) or net.load_model(weights):
        raise SystemExit(f"ncnn cannot load {param}")
    # A Mat does not keep the array alive whose memory it uses.
    x = np.load(source)
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], ncnn.Mat(x))
    tops = {blob: float(np.abs(np.array(extractor.extract(blob)[1])).max()) for blob in blobs}
    print(json.dumps(tops))


main(*sys.argv[1:])
