"""Counts of whole networks as tvmquant's bundles compute them."""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import tvmquant
from benchmarks.arm.ours import device_of
from benchmarks.arm.plugin import Counts, count_libraries
from tests.emulated_pi import EmulatedPi
from tvmquant.quantizer import QuantizedModel, SyntheticCalibrationWarning
from tvmquant.runtime.export import export_bundle, exported_bytes


@dataclass(frozen=True)
class OurNetwork:
    """Executed instructions of one run of a bundle.

    Attributes
    ----------
    counts : Counts
        In the model's library.
    runtime : int
        Executed instructions in TVM's runtime libraries.
    macs : int
    bundle_bytes : int
        Of the whole folder.
    kernels : dict of str to int
        How many layers each kernel computes.
    exact : bool
        Whether the output equals this machine's own bit for bit.
    """

    counts: Counts
    runtime: int
    macs: int
    bundle_bytes: int
    kernels: dict[str, int]
    exact: bool


def quantize(model: Path, bits: str) -> QuantizedModel:
    """Quantize an ONNX file with noise for calibration: speed does not depend on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntheticCalibrationWarning)
        return tvmquant.quantize(model, bits)


def count_network(pi: EmulatedPi, cpu: str, quantized: QuantizedModel) -> OurNetwork:
    """Count one run of a quantized model on one thread.

    Parameters
    ----------
    pi : EmulatedPi
    cpu : str
        The core that is emulated and compiled for, for example ``cortex-a72``.
    quantized : QuantizedModel
        With one input.
    """
    model = tvmquant.compile(quantized, device_of(cpu))
    info = model.inputs[0]
    x = np.random.default_rng(1).standard_normal(info.shape).astype(info.dtype)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_bundle(model, Path(folder).resolve() / "bundle")

        def command(calls: int) -> list[str | Path]:
            return [bundle / "run", "--bench", str(calls), "--threads", "1"]

        libraries = [bundle / "model.so", *bundle.glob("libtvm*.so")]
        counts, *runtime = count_libraries(pi, cpu, command, libraries)
        source, target = Path(folder) / "x.npy", Path(folder) / "y.npy"
        np.save(source, x)
        pi.run([bundle / "run", source, "-o", target], cpu)
        here = tvmquant.compile(quantized, "host")
        exact = bool(np.array_equal(np.load(target), here(x)))
        size = exported_bytes(bundle)
    macs = sum(layer.macs for layer in model.layers)
    kernels: dict[str, int] = {}
    for layer in model.layers:
        if layer.macs:
            kernels[layer.kernel] = kernels.get(layer.kernel, 0) + 1
    return OurNetwork(counts, sum(part.total for part in runtime), macs, size, kernels, exact)
