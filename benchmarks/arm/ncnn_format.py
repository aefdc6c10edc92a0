"""Writes ncnn's model files: text of layers (param) and their weights (bin).

Formats: ncnn wiki, "param and model file structure" and "operation param weight table". ncnn's
Python wheel has neither ``ncnn2table`` nor ``ncnn2int8``; what those would write is written here:
8-bit weights symmetric with one scale a channel, one scale for a layer's input, and for a layer
that only feeds other 8-bit layers the scale of its output, so that it requantizes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_MAGIC = 7767517
# Marks before weights.
_FLOAT32 = 0
_INT8 = 0x000D4B38
CONVOLUTION, DEPTHWISE, INNER_PRODUCT = "Convolution", "ConvolutionDepthWise", "InnerProduct"
QUANTIZABLE = (CONVOLUTION, DEPTHWISE, INNER_PRODUCT)


@dataclass
class NcnnLayer:
    """One line of the param file.

    Attributes
    ----------
    kind, name : str
    inputs, outputs : list of str
        Names of blobs.
    params : dict
        Number of a parameter to its text.
    weight, bias : np.ndarray or None
        float32, as the file has them: ``[O, I, KH, KW]`` flattened in that order.
    input_scale, output_scale : float or None
        Integers a unit of the input and the output; with an input scale the layer runs in int8.
    scale : float or None
        Of a Quantize layer.
    """

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    params: dict[int, str] = field(default_factory=dict)
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    input_scale: float | None = None
    output_scale: float | None = None
    scale: float | None = None

    def line(self) -> str:
        """The layer's line of the param file."""
        params = dict(self.params)
        if self.input_scale is not None:
            term = 1 if self.kind == DEPTHWISE else 2
            params[8] = str(term + (0 if self.output_scale is None else 100))
        counts = f"{len(self.inputs)} {len(self.outputs)}"
        texts = [f"{key}={value}" for key, value in sorted(params.items(), key=_order)]
        return " ".join([self.kind, self.name, counts, *self.inputs, *self.outputs, *texts])

    def data(self) -> bytes:
        """What the bin file has for the layer."""
        if self.scale is not None:
            return np.array([self.scale], "<f4").tobytes()
        if self.weight is None:
            return b""
        bias = b"" if self.bias is None else self.bias.astype("<f4").tobytes()
        if self.input_scale is None:
            return struct.pack("<I", _FLOAT32) + self.weight.astype("<f4").tobytes() + bias
        channels = int(self.params[7 if self.kind == DEPTHWISE else 0])
        rows = self.weight.reshape(channels, -1)
        scales = 127 / np.maximum(np.abs(rows).max(axis=1), 1e-9)
        integers = np.clip(np.rint(rows * scales[:, None]), -127, 127).astype(np.int8).tobytes()
        integers += bytes(-len(integers) % 4)
        steps = [*scales, self.input_scale]
        if self.output_scale is not None:
            steps.append(self.output_scale)
        return struct.pack("<I", _INT8) + integers + bias + np.array(steps, "<f4").tobytes()


def _order(item: tuple[int, str]) -> int:
    # Arrays have negative numbers: -23300 - n.
    return item[0] if item[0] >= 0 else -23300 - item[0]


def write(layers: list[NcnnLayer], stem: Path) -> tuple[Path, Path]:
    """Write ``stem.param`` and ``stem.bin``."""
    blobs = {name for layer in layers for name in layer.outputs}
    lines = [str(_MAGIC), f"{len(layers)} {len(blobs)}", *(layer.line() for layer in layers)]
    param, weights = stem.with_suffix(".param"), stem.with_suffix(".bin")
    param.write_text("\n".join(lines) + "\n")
    weights.write_bytes(b"".join(layer.data() for layer in layers))
    return param, weights


def read(param: Path, weights: Path) -> list[NcnnLayer]:
    """Read a model with float32 weights, as ``pnnx`` writes it with ``fp16=0``."""
    data, place = weights.read_bytes(), 0

    def floats(count: int) -> np.ndarray:
        nonlocal place
        place += 4 * count
        return np.frombuffer(data, "<f4", count, place - 4 * count)

    layers = []
    for line in param.read_text().splitlines()[2:]:
        kind, name, inputs, outputs, *rest = line.split()
        first, last = int(inputs), int(inputs) + int(outputs)
        params = dict(text.split("=", 1) for text in rest[last:])
        layer = NcnnLayer(kind, name, rest[:first], rest[first:last])
        layer.params = {int(key): value for key, value in params.items()}
        if kind in QUANTIZABLE:
            is_conv = kind != INNER_PRODUCT
            if int.from_bytes(data[place : place + 4], "little") != _FLOAT32:
                raise ValueError(f"{name}: weights are not float32; convert with fp16=0")
            place += 4
            layer.weight = floats(int(layer.params[6 if is_conv else 2]))
            if int(layer.params.get(5 if is_conv else 1, 0)):
                layer.bias = floats(int(layer.params[0]))
        layers.append(layer)
    if place != len(data):
        raise ValueError(f"{weights.name}: some layer with weights is not known")
    return layers
