"""What a compiled model says about itself, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TensorInfo:
    """Name, static shape and NumPy dtype name of one input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class LayerInfo:
    """One kernel call of the compiled program, in the order of execution.

    Attributes
    ----------
    name : str
        Name of the layer (of the ONNX node where there is one).
    operator : str
        For example ``conv2d``, ``add``, ``softmax``.
    kernel : str
        Name of the kernel that was chosen.
    symbol : str
        Global symbol of the PrimFunc; several layers may share one.
    input_shapes : tuple of tuple of int
    output_shape : tuple of int
    weight_bits, activation_bits : int or None
        ``None`` for a layer without weights, or one that stays in float.
    weight_bytes : int
        Bytes of the constants as they are stored.
    macs : int
        Multiply-accumulates; 0 for a layer that has none.
    workload : str
        For convolutions and matmuls all that shapes the kernel, as JSON (see
        :class:`tvmquant.schedules.workload.Workload`): what a tuner needs.
    note : str
        What is worth knowing about the kernel: that fewer bits do not make the layer faster here.
    """

    name: str
    operator: str
    kernel: str
    symbol: str
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    weight_bits: int | None = None
    activation_bits: int | None = None
    weight_bytes: int = 0
    macs: int = 0
    workload: str = ""
    note: str = ""

    @property
    def bits(self) -> str:
        """``w4a8``, ``a8``, or ``float``."""
        weights = f"w{self.weight_bits}" if self.weight_bits else ""
        return weights + (f"a{self.activation_bits}" if self.activation_bits else "") or "float"


@dataclass(frozen=True)
class EdgeInfo:
    """How one tensor is quantized: ``x ≈ scale · (q − zero_point)``.

    Attributes
    ----------
    name : str
    kind : str
        ``activation`` or ``weight``.
    bits : int
    shape : tuple of int
    scale, zero_point : tuple of float or None
        Least and greatest, equal where there is one; ``None`` where it is chosen at run time.
    axis : int or None
        Dimension whose indices have scales of their own.
    scales : int
        Number of scales.
    """

    name: str
    kind: str
    bits: int
    shape: tuple[int, ...]
    scale: tuple[float, float] | None
    zero_point: tuple[float, float] | None
    axis: int | None = None
    scales: int = 1


@dataclass(frozen=True)
class Manifest:
    """Everything known about a compiled model besides its code.

    Attributes
    ----------
    inputs, outputs : tuple of TensorInfo
    layers : tuple of LayerInfo
    precision : str
        For example ``w4a8``.
    recipe : dict
        The recipe as in its JSON file.
    target : str
        Name of the device.
    target_json : str
        TVM target as JSON.
    features : list of str
        Instruction-set features that the code needs.
    versions : dict
        Version of each package that made the model, see :func:`current_versions`.
    source : str
        File name of the model.
    expanded_bytes : int
        Bytes of constants that kernels expand in memory when the model is loaded.
    workspace_bytes : int
        Bytes that a run reserves for activations and outputs.
    edges : tuple of EdgeInfo
        How activations and weights are quantized.
    cuda_archs : list of str
        CUDA architectures that there is machine code for.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    layers: tuple[LayerInfo, ...]
    precision: str
    recipe: dict[str, Any] = field(default_factory=dict)
    target: str = "host"
    target_json: str = "{}"
    features: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    source: str = ""
    expanded_bytes: int = 0
    workspace_bytes: int = 0
    edges: tuple[EdgeInfo, ...] = ()
    cuda_archs: list[str] = field(default_factory=list)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all constants of all layers."""
        return sum(layer.weight_bytes for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return sum(layer.macs for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return _plain(asdict(self))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Manifest:
        """Read :meth:`to_dict` back; ``KeyError``, ``TypeError`` or ``ValueError`` if damaged."""
        layers = []
        for layer in data["layers"]:
            shapes = tuple(tuple(map(int, shape)) for shape in layer["input_shapes"])
            output = tuple(map(int, layer["output_shape"]))
            layers.append(LayerInfo(**{**layer, "input_shapes": shapes, "output_shape": output}))
        tensors = {
            key: tuple(
                TensorInfo(str(t["name"]), tuple(map(int, t["shape"])), str(np.dtype(t["dtype"])))
                for t in data[key]
            )
            for key in ("inputs", "outputs")
        }
        edges = tuple(EdgeInfo(**_tuples(edge)) for edge in data.get("edges", ()))
        return cls(**{**data, **tensors, "layers": tuple(layers), "edges": edges})


def current_versions() -> dict[str, str]:
    """Versions of the packages that make a bundle, by distribution name."""
    return {name: metadata.version(name) for name in ("tvmquant", "apache-tvm", "apache-tvm-ffi")}


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}


def _plain(value: Any) -> Any:
    """NumPy and TVM numbers, sets and tuples as what JSON knows."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)
