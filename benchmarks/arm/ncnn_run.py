"""Runs an ncnn model; started by the emulated Pi's Python, not by this machine's.

python ncnn_run.py MODEL.param MODEL.bin INPUT.npy OUTPUT.npy raw|plain CALLS
"""

from __future__ import annotations

import sys

import ncnn
import numpy as np


def main(param: str, weights: str, source: str, target: str, raw: str, calls: str) -> None:
    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    # float32 is to mean float32 on cores that have half precision, too.
    for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{name}", False)
    if net.load_param(param) or net.load_model(weights):
        raise SystemExit(f"ncnn cannot load {param}")
    x = np.load(source)
    for _ in range(int(calls)):
        extractor = net.create_extractor()
        extractor.input(net.input_names()[0], ncnn.Mat(x))
        # 1: leave the values as the last layer wrote them, several channels side by side.
        status, out = extractor.extract(net.output_names()[0], 1 if raw == "raw" else 0)
    if status:
        raise SystemExit(f"ncnn fails with status {status}")
    if raw == "plain":
        np.save(target, np.array(out))


main(*sys.argv[1:])
