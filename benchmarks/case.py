"""One model with its inputs, prepared once for all engines."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

Inputs = dict[str, np.ndarray]
# What engines get whose model file says less: the opset from which QDQ may be per channel.
MODERN_OPSET = 17
NOISE_SAMPLES = 8


@dataclass
class Case:
    """A model of fixed input shapes, and data.

    Attributes
    ----------
    name : str
    source : Path
        The file as given.
    path : Path
        The ONNX file all engines start from: shapes fixed, opset raised where that works.
    samples : list of dict
        Calibration data of all engines; the first one is what is timed.
    test : list of dict
        What outputs are compared on.
    labels : numpy.ndarray or None
        Class of every test input.
    work : Path
        Folder for converted files.
    notes : list of str
        What the reader of the results must know.
    """

    name: str
    source: Path
    path: Path
    samples: list[Inputs]
    test: list[Inputs]
    labels: np.ndarray | None
    work: Path
    notes: list[str] = field(default_factory=list)
    operators: frozenset[str] = frozenset()

    @property
    def inputs(self) -> Inputs:
        """The inputs that are timed."""
        return self.samples[0]

    @property
    def attention(self) -> bool:
        """A network of matrix products, without a convolution."""
        return "Conv" not in self.operators and "MatMul" in self.operators


def load_case(
    path: Path, work: Path, data: Path | None, dataset: Path | None, notes: list[str]
) -> Case:
    """Fix the shapes of a model to those of its data; without data, noise."""
    model = onnx.load(str(path))
    initial = {tensor.name for tensor in model.graph.initializer}
    infos = [info for info in model.graph.input if info.name not in initial]
    notes = list(notes)
    if data is not None:
        samples = read_samples(data, infos)
        notes.append(f"calibrated on {len(samples)} recorded input(s)")
    else:
        samples = noise(infos)
        notes.append("inputs are noise: latency only, accuracy says nothing")
    test, labels = samples[:NOISE_SAMPLES], None
    if dataset is not None:
        test, labels = read_dataset(dataset, infos[0])
        notes.append(f"accuracy on {len(test)} labelled inputs")
    fix_shapes(model, infos, samples[0])
    work.mkdir(parents=True, exist_ok=True)
    fixed = work / "model.onnx"
    onnx.save(modernize(model), str(fixed))
    operators = frozenset(node.op_type for node in model.graph.node)
    return Case(path.stem, path, fixed, samples, test, labels, work, notes, operators)


def fix_shapes(model: onnx.ModelProto, infos: list, sample: Mapping[str, np.ndarray]) -> None:
    """Write the sample's shapes into the graph's inputs and drop the stale ones inside."""
    for info in infos:
        shape = info.type.tensor_type.shape
        for dim, size in zip(shape.dim, sample[info.name].shape):
            dim.Clear()
            dim.dim_value = size
    del model.graph.value_info[:]
    for info in model.graph.output:
        info.type.tensor_type.ClearField("shape")


def modernize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Raise the opset where the converter can and the result is valid; else as it was."""
    from onnx import version_converter

    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    try:
        newer = model
        if opset < 13:
            newer = version_converter.convert_version(model, MODERN_OPSET)
        return onnx.shape_inference.infer_shapes(newer)
    except Exception as error:
        warnings.warn(f"the opset stays at {opset}: {error}", stacklevel=2)
        return model


def read_samples(path: Path, infos: list) -> list[Inputs]:
    """Samples of an ``.npz``: arrays by input name, ``in:`` before it allowed.

    An array of the input's rank is one sample if its leading size is that of the model (or the
    model leaves it open and the key starts with ``in:``), else it is cut into samples.
    """
    with np.load(path) as archive:
        stored = {key: archive[key] for key in archive.files}
    arrays = {}
    for info in infos:
        recorded = f"in:{info.name}" in stored
        if not recorded and info.name not in stored:
            raise SystemExit(f"{path}: no array for input {info.name!r}; it has {list(stored)}")
        array = stored[f"in:{info.name}" if recorded else info.name]
        dims = info.type.tensor_type.shape.dim
        batch = (dims[0].dim_value if dims else 0) or (len(array) if recorded else 1)
        if not dims or array.ndim > len(dims):
            arrays[info.name] = list(array) if array.ndim > len(dims) else [array]
        else:
            arrays[info.name] = [array[i : i + batch] for i in range(0, len(array), batch)]
    count = min(map(len, arrays.values()))
    return [{name: parts[i] for name, parts in arrays.items()} for i in range(count)]


def read_dataset(path: Path, info: onnx.ValueInfoProto) -> tuple[list[Inputs], np.ndarray]:
    """Inputs ``x`` (samples first) and classes ``y``."""
    with np.load(path) as archive:
        x, y = archive["x"], archive["y"]
    rank = len(info.type.tensor_type.shape.dim)
    return [{info.name: row if row.ndim == rank else row[None]} for row in x], y


def noise(infos: list, count: int = NOISE_SAMPLES) -> list[Inputs]:
    """Seeded noise; every shape must be fixed."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(count):
        sample = {}
        for info in infos:
            kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
            shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
            if 0 in shape:
                raise SystemExit(
                    f"input {info.name!r} has open dimensions: give --calibration with data of "
                    "the shape to be timed"
                )
            draw = rng.standard_normal if np.dtype(kind).kind == "f" else _bits(rng)
            sample[info.name] = np.asarray(draw(shape)).astype(kind)
        samples.append(sample)
    return samples


def _bits(rng: np.random.Generator):
    return lambda shape: rng.integers(0, 2, shape)
