"""``Resize``: TVM's operator where it means the same, else a sum of shifted copies.

TVM derives the scale of an axis from its two lengths. ONNX may give a scale that does not divide
them (a factor of 1.5 of an odd length), can smooth before it makes smaller (``antialias``), and has
further coordinates. Interpolation is separable: along one axis every output is a sum of few inputs,
whose places and weights are constants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from tvmquant.errors import ModelError, UnsupportedOperatorError
from tvmquant.frontend.from_tvm import from_tvm
from tvmquant.frontend.node import NodeView, constant_of, shape_of

_TVM_COORDINATES = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
_COORDINATES = (*_TVM_COORDINATES, "half_pixel_symmetric", "tf_half_pixel_for_nn")
# Taps of an antialiased axis: beyond it, resizing belongs before the model.
_MOST_TAPS = 64


@dataclass(frozen=True)
class _Axis:
    """One resized axis: its number, its old and new length, and outputs per input."""

    number: int
    size: int
    out: int
    scale: float


def convert_resize(node: NodeView) -> relax.Expr:
    """Converter of ``Resize`` (opset 10 and later)."""
    attrs, inputs = dict(node.attrs), list(node.inputs)
    if node.opset < 11:  # Resize(x, scales)
        inputs.insert(1, None)
        attrs.update(coordinate_transformation_mode=b"asymmetric", nearest_mode=b"floor")
    # Exporters write an absent input as an empty tensor.
    kept = [e if e is None or 0 not in shape_of(e) else None for e in inputs]
    node = replace(node, inputs=kept, attrs=attrs)
    axes = _axes(node)
    if all(axis.size == 1 for axis in axes) and _coordinates_of(node) in _COORDINATES:
        shape = shape_of(node.inputs[0])  # every output is the one input
        for axis in axes:
            shape[axis.number] = axis.out
        return relax.op.broadcast_to(node.inputs[0], shape)
    if _means_the_same(node, axes):
        return from_tvm(node)
    y = node.inputs[0]
    for axis in axes:
        y = _resized(node, y, axis)
    return y


def _coordinates_of(node: NodeView) -> str:
    return node.text("coordinate_transformation_mode", "half_pixel")


def _axes(node: NodeView) -> list[_Axis]:
    x = node.inputs[0]
    shape = shape_of(x)
    scales, sizes = constant_of(node.input(2)), constant_of(node.input(3))
    if scales is None and sizes is None:
        raise ModelError(
            f"node '{node.name}' (Resize): its scales or sizes must be constants, but they are "
            "computed from the data"
        )
    numbers = [int(a) % len(shape) for a in node.attrs.get("axes", range(len(shape)))]
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    if sizes is None:
        factors = [float(scale) for scale in scales]
        outs = [int(np.floor(shape[n] * f)) for n, f in zip(numbers, factors)]
    else:
        outs = [int(size) for size in sizes]
        factors = [out / shape[n] for n, out in zip(numbers, outs)]
        if policy != "stretch":
            common = (min if policy == "not_larger" else max)(factors)
            factors = [common] * len(factors)
            outs = [int(np.floor(common * shape[n] + 0.5)) for n in numbers]
    axes = [_Axis(n, shape[n], out, f) for n, out, f in zip(numbers, outs, factors)]
    return [axis for axis in axes if axis.size != axis.out or axis.scale != 1]


def _means_the_same(node: NodeView, axes: list[_Axis]) -> bool:
    """Whether TVM's operator computes what ONNX says."""
    rank = len(shape_of(node.inputs[0]))
    coordinates = _coordinates_of(node)
    if any(axis.number < 2 for axis in axes) or "axes" in node.attrs or rank not in (3, 4, 5):
        return False
    if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    if coordinates not in _TVM_COORDINATES or node.attrs.get("exclude_outside", 0):
        return False
    if node.attrs.get("antialias", 0) and any(axis.scale < 1 for axis in axes):
        return False
    return all(
        axis.out > 1 and abs(axis.out / axis.size - axis.scale) < 1e-6 * axis.scale for axis in axes
    )


def _resized(node: NodeView, x: relax.Expr, axis: _Axis) -> relax.Expr:
    coordinates = _coordinates_of(node)
    if coordinates not in _COORDINATES:
        raise UnsupportedOperatorError(
            f"node '{node.name}' (Resize): coordinates '{coordinates}' are not supported; "
            f"{', '.join(_COORDINATES)} are"
        )
    places, weights = _taps(node, _coordinates(axis, coordinates), axis)
    if len(places) > _MOST_TAPS:
        raise UnsupportedOperatorError(
            f"node '{node.name}' (Resize) makes axis {axis.number} {1 / axis.scale:.0f} times "
            "smaller with antialias=1: resize before the model"
        )
    dtype = str(x.ty.dtype)
    parts = [
        node.emit(relax.op.take(x, relax.const(place), axis.number), ".shifted") for place in places
    ]
    if weights is None:
        return parts[0]
    column = [-1 if i == axis.number else 1 for i in range(len(shape_of(x)))]
    total = None
    for part, weight in zip(parts, weights):
        weight = relax.const(weight.astype(dtype).reshape(column), dtype)
        part = node.emit(relax.op.multiply(part, weight), ".weighted")
        total = part if total is None else node.emit(relax.op.add(total, part), ".sum")
    return total


def _coordinates(axis: _Axis, mode: str) -> np.ndarray:
    """Where each output lies among the inputs, as the ONNX operator defines it.

    In float32, as ONNX Runtime computes it: where an output lies half-way, rounding decides.
    """
    x, scale = np.arange(axis.out, dtype=np.float32), np.float32(axis.scale)
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        return x * np.float32(axis.size - 1) / np.float32(max(axis.out - 1, 1))
    if mode == "pytorch_half_pixel" and axis.out == 1:
        return np.zeros(1, np.float32)
    if mode == "tf_half_pixel_for_nn":
        return (x + np.float32(0.5)) / scale
    centred = (x + np.float32(0.5)) / scale - np.float32(0.5)
    if mode == "half_pixel_symmetric":
        adjustment = axis.out / (scale * np.float32(axis.size))
        centred += np.float32(axis.size / 2) * (1 - adjustment)
    return centred


def _taps(
    node: NodeView, x: np.ndarray, axis: _Axis
) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
    """Indices and weights of every input that outputs at ``x`` are made of."""
    mode = node.text("mode", "nearest")
    if mode == "nearest":
        return [np.clip(_nearest(node, x), 0, axis.size - 1).astype(np.int64)], None
    smooth = bool(node.attrs.get("antialias", 0)) and axis.scale < 1
    stretch = axis.scale if smooth else 1.0
    reach = 1 if mode == "linear" else 2
    before = int(np.ceil(reach / stretch))
    base = np.floor(x).astype(np.int64)
    places = [base + shift for shift in range(1 - before, 1 + before)]
    a = node.attrs.get("cubic_coeff_a", -0.75)
    weights = [_kernel(mode, np.abs(place - x) * stretch, a) for place in places]
    if node.attrs.get("exclude_outside", 0):
        inside = [(place >= 0) & (place < axis.size) for place in places]
        weights = [weight * seen for weight, seen in zip(weights, inside)]
    total = np.sum(weights, axis=0)
    weights = [weight / total for weight in weights]
    return [np.clip(place, 0, axis.size - 1) for place in places], weights


def _nearest(node: NodeView, x: np.ndarray) -> np.ndarray:
    rounding = node.text("nearest_mode", "round_prefer_floor")
    shift = {"round_prefer_floor": -0.5, "round_prefer_ceil": 0.5}.get(rounding, 0.0)
    down = rounding in ("floor", "round_prefer_ceil")
    return np.floor(x + shift) if down else np.ceil(x + shift)


def _kernel(mode: str, distance: np.ndarray, a: float) -> np.ndarray:
    """Weight of an input at some distance: a triangle, or Keys' cubic convolution."""
    d = distance
    if mode == "linear":
        return np.maximum(1 - d, 0)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))
