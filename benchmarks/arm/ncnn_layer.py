"""Counts of one layer as ncnn computes it."""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.arm import ncnn_format
from benchmarks.arm.ncnn_format import NcnnLayer
from benchmarks.arm.plugin import SOURCE, Counts, count_call
from benchmarks.layer_cases import Layer
from tests.emulated_pi import EmulatedPi, Unavailable, cache_folder, lock

VERSION = "1.0.20261020"
_SCRIPT = Path(__file__).resolve().with_name("ncnn_run.py")


def count_ncnn(pi: EmulatedPi, cpu: str, layer: Layer, precision: str) -> Counts:
    """Executed instructions of one call.

    Parameters
    ----------
    pi : EmulatedPi
        With Python.
    cpu : str
        Steers which of its kernels ncnn takes.
    layer : Layer
    precision : str
        ``fp32``; ``int8``: the layer takes and gives float, so it quantizes its input and
        dequantizes its output; ``int8 inner``: input and output are integers as between two
        layers of a network.
    """
    if precision != "int8 inner":
        model = _model(layer, int8=precision == "int8")
        return run_model(pi, cpu, model, input_of(layer))[0]
    source, inner = _model(layer, int8=True)
    inner.output_scale = 5.0
    quantize = NcnnLayer("Quantize", "quantize", ["in"], ["q"], {0: "1"})
    quantize.scale = inner.input_scale
    inner.inputs = ["q"]
    both = run_model(pi, cpu, [source, quantize, inner], input_of(layer), raw=True)[0]
    return both.minus(run_model(pi, cpu, [source, quantize], input_of(layer), raw=True)[0])


def run_model(
    pi: EmulatedPi, cpu: str, layers: list[NcnnLayer], x: np.ndarray, *, raw: bool = False
) -> tuple[Counts, np.ndarray | None]:
    """Executed instructions of one call of a model, inside ncnn's library, and its output.

    Parameters
    ----------
    pi, cpu
        As in :func:`count_ncnn`.
    layers : list of NcnnLayer
        From the one input to the one output.
    x : np.ndarray
        Becomes float32.
    raw : bool
        Leave the output as the last layer wrote it, and do not return it.
    """
    package = ncnn_package(pi)
    library = next((package / "ncnn").glob("ncnn*.so"))
    env = pi.python_env()
    env["PYTHONPATH"] = f"{package}:{env['PYTHONPATH']}"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        files = [*ncnn_format.write(layers, work / "model"), work / "x.npy", work / "out.npy"]
        np.save(files[2], x.astype(np.float32))

        def command(calls: int) -> list[str | Path]:
            return [pi.python, _SCRIPT, *files, "raw" if raw else "plain", str(calls)]

        kept = _kept(cpu, raw, [*files[:3], _SCRIPT, SOURCE])
        if not kept.is_file():
            counts = count_call(pi, cpu, command, library, env)
            out = np.zeros(0) if raw else np.load(files[3])
            with kept.with_suffix(".tmp").open("wb") as stream:
                arrays = {"offsets": counts.offsets, "executions": counts.executions}
                np.savez(stream, words=counts.words, out=out, **arrays)
            kept.with_suffix(".tmp").rename(kept)
        with np.load(kept) as found:
            arrays = (found[key] for key in ("offsets", "words", "executions"))
            return Counts(library, *arrays), None if raw else found["out"]


def _kept(cpu: str, raw: bool, sources: list[Path]) -> Path:
    """Where the counts of a model are kept: they are the same in every run."""
    digest = hashlib.sha256(f"{VERSION} {cpu} {raw}".encode())
    for path in sources:
        digest.update(path.read_bytes())
    return cache_folder() / f"ncnn-counts-{digest.hexdigest()[:20]}.npz"


@functools.cache
def ncnn_package(pi: EmulatedPi) -> Path:
    """Folder of ncnn's aarch64 package; downloaded once, kept in the tests' cache."""
    folder = cache_folder() / f"ncnn-{VERSION}-{pi.python.name}"
    with lock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            made = folder.with_suffix(".tmp")
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
            command += ["--target", made, "--only-binary=:all:", "--no-compile"]
            command += ["--platform", "manylinux_2_28_aarch64", "--platform"]
            command += ["manylinux2014_aarch64", "--implementation", "cp", "--python-version"]
            command += [pi.python.name.removeprefix("python"), f"ncnn=={VERSION}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unavailable(f"no ncnn for aarch64: {done.stderr.strip().splitlines()[-1]}")
            made.rename(folder)
    return folder


def input_of(layer: Layer) -> np.ndarray:
    """Noise, as ncnn wants it: ``[C, H, W]``, ``[K]`` or ``[M, K]``."""
    rng = np.random.default_rng(1)
    if layer.is_matmul:
        return rng.standard_normal(layer.x_shape[1:] if layer.height == 1 else layer.x_shape)
    return rng.standard_normal((layer.channels, layer.height, layer.width))


def _model(layer: Layer, int8: bool) -> list[NcnnLayer]:
    rng = np.random.default_rng(0)
    shape = layer.w_shape
    weight = rng.standard_normal((shape[0], shape[-1], *shape[1:-1]))
    common = {"weight": weight, "bias": rng.standard_normal(layer.outputs)}
    if int8:
        common["input_scale"] = 127 / 4.5
    params = {0: str(layer.outputs)}
    if layer.is_matmul:
        source = NcnnLayer("Input", "in", [], ["in"], {0: str(layer.channels)})
        kind = ncnn_format.INNER_PRODUCT
        params |= {1: "1", 2: str(weight.size)}
    else:
        sizes = {0: str(layer.width), 1: str(layer.height), 2: str(layer.channels)}
        source = NcnnLayer("Input", "in", [], ["in"], sizes)
        kind = ncnn_format.CONVOLUTION
        params |= {1: str(layer.kernel), 3: str(layer.stride), 4: str(layer.kernel // 2)}
        params |= {5: "1", 6: str(weight.size)}
        if layer.groups > 1:
            kind = ncnn_format.DEPTHWISE
            params[7] = str(layer.groups)
    return [source, NcnnLayer(kind, "layer", ["in"], ["out"], params, **common)]
