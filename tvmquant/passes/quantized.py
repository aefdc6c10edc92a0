"""An integer tensor together with what its integers mean, in canonical (unsigned) storage."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import relax

from tvmquant.graph import Builder, const_value, name_of
from tvmquant.ops import is_op, make_call
from tvmquant.ops.waist import dequantize

MOVES = {
    "reshape",
    "permute_dims",
    "expand_dims",
    "squeeze",
    "strided_slice",
    "concat",
    "split",
    "broadcast_to",
    "flip",
    "tile",
    "nn.max_pool2d",
    "nn.pad",
    "image.resize2d",
    "take",
    "flatten",
    # Scales are positive: the largest integer is the largest value.
    "max",
    "min",
}


@dataclass(frozen=True)
class Quantized:
    """A uint8 tensor ``q`` with ``x = scale * (q - zero_point)``, values in ``[qmin, qmax]``.

    Signed storage of a model is moved up by 128, so that every kernel sees unsigned activations.
    """

    q: Any
    scale: float
    zero_point: int
    bits: int = 8
    qmin: int = 0
    qmax: int = 255

    @classmethod
    def from_dequantize(cls, builder: Builder, call: relax.Call) -> Quantized | None:
        """Meaning of a per-tensor dequantize node of an 8-bit activation."""
        q, scale, zero = call.args
        s, z = const_value(scale), const_value(zero)
        if s is None or z is None or s.size != 1 or z.size != 1 or const_value(q) is not None:
            return None
        dtype = str(q.ty.dtype)
        point = int(z.reshape(()))
        bits = int(call.attrs["bits"])
        if dtype == "uint8":
            stored = 2**bits - 1 if bits <= 8 else 255
            return cls(q, float(s.reshape(())), point, bits, 0, stored)
        if dtype == "int8":
            source = builder.value(q)
            if is_op(source, "tvmquant.flip_sign"):
                unsigned = source.args[0]
            else:
                unsigned = builder.emit(make_call("tvmquant.flip_sign", [q]), f"{q.name}/unsigned")
            return cls(unsigned, float(s.reshape(())), point + 128)
        return None

    @classmethod
    def target_of(cls, call: relax.Call) -> Quantized | None:
        """What a per-tensor 8-bit quantize node asks for (``q`` is still missing)."""
        s, z = const_value(call.args[1]), const_value(call.args[2])
        dtype = str(call.attrs["dtype"])
        if s is None or z is None or s.size != 1 or z.size != 1 or dtype not in ("uint8", "int8"):
            return None
        offset = 128 if dtype == "int8" else 0
        return cls(
            None,
            float(s.reshape(())),
            int(z.reshape(())) + offset,
            int(call.attrs["bits"]) if not offset else 8,
            int(call.attrs["qmin"]) + offset,
            int(call.attrs["qmax"]) + offset,
        )

    def to_storage(self, builder: Builder, q: Any, dtype: str) -> Any:
        """Integer expression in the storage type that the graph expects."""
        if dtype == "uint8":
            return q
        return make_call("tvmquant.flip_sign", [builder.emit(q, "unsigned")])

    def replaced(self, q: Any) -> Quantized:
        """The same meaning for other integers."""
        return replace(self, q=q)

    def same_params(self, other: Quantized) -> bool:
        """Whether integers mean the same and none of ours leaves the other's range."""
        return (
            self.scale == other.scale
            and self.zero_point == other.zero_point
            and self.qmin >= other.qmin
            and self.qmax <= other.qmax
        )

    def dequantized(self) -> relax.Call:
        """Dequantize node for float readers."""
        return dequantize(
            self.q,
            relax.const(np.float32(self.scale), "float32"),
            relax.const(np.asarray(self.zero_point, np.int32)),
            bits=self.bits,
        )

    def clamped(self, low: float, high: float) -> Quantized:
        """Narrow the integer range to what a clip to ``[low, high]`` leaves."""
        scale = np.float32(self.scale)
        qmin, qmax = self.qmin, self.qmax
        if np.isfinite(low):
            qmin = max(qmin, int(np.rint(np.float32(low) / scale)) + self.zero_point)
        if np.isfinite(high):
            qmax = min(qmax, int(np.rint(np.float32(high) / scale)) + self.zero_point)
        return replace(self, qmin=min(qmin, self.qmax), qmax=max(qmax, self.qmin))

    def through_clips(self, builder: Builder, x: Any) -> tuple[Any, Quantized]:
        """Peel ReLU and clip off a float expression into the integer clamp."""
        out = self
        while isinstance(x, relax.Var):
            value = builder.value(x)
            kind = name_of(value)
            if kind == "nn.relu":
                out = out.clamped(0.0, np.inf)
            elif kind == "clip":
                low, high = (float(getattr(v, "value", v)) for v in value.args[1:3])
                out = out.clamped(low, high)
            else:
                break
            x = value.args[0]
        return x, out


def exact_flavour(multiplier: np.ndarray, flavour: str) -> str:
    """``power_of_two`` only where every multiplier is one.

    The divisor of an average is not, nor are the scales of a model that others quantized.
    """
    mantissa, _ = np.frexp(multiplier)
    shifts = bool(np.all((mantissa == 0.5) | (mantissa == 0)))
    return "fixed_point" if flavour == "power_of_two" and not shifts else flavour


def move(
    builder: Builder, known: dict[relax.Var, Quantized], call: relax.Call, name: str
) -> Quantized | None:
    """Value-moving operator on integers, where all its inputs share scale and zero point."""
    tensors = [known.get(item) for item in moved_tensors(call)]
    if any(t is None or not _alike(t, tensors[0]) for t in tensors):
        return None
    if any(arg in known for arg in call.args[1:] if isinstance(arg, relax.Var)):
        return None
    return move_integers(builder, call, tensors, name)


def moved_tensors(call: relax.Call) -> list[Any]:
    """Tensors whose values a value-moving operator moves."""
    data = call.args[0]
    return list(data.fields) if isinstance(data, relax.Tuple) else [data]


def move_integers(
    builder: Builder, call: relax.Call, tensors: list[Quantized], name: str
) -> Quantized | None:
    """Value-moving operator on integers that all mean the same; padding inserts the zero point."""
    kind, first = name_of(call), tensors[0]
    if kind == "image.resize2d" and str(call.attrs["method"]) != "nearest_neighbor":
        return None
    if kind == "nn.pad":
        mode = str(call.attrs["pad_mode"])
        if mode == "constant" and float(call.attrs["pad_value"]) != 0:
            return None
        width = [int(v) for v in call.attrs["pad_width"]]
        moved = relax.op.nn.pad(first.q, width, mode, first.zero_point)
    elif kind == "nn.max_pool2d":
        if str(call.attrs["layout"]) != "NHWC":
            return None
        keys = ("pool_size", "strides", "padding", "dilation", "ceil_mode")
        moved = make_call(
            "tvmquant.max_pool2d", [first.q], **{key: call.attrs[key] for key in keys}
        )
    else:
        qs: Any = relax.Tuple([t.q for t in tensors]) if _is_tuple(call.args[0]) else first.q
        moved = relax.Call(call.op, [qs, *call.args[1:]], call.attrs)
    q = builder.emit(moved, f"{name}/int")
    bounds = {
        "bits": max(t.bits for t in tensors),
        "qmin": min(t.qmin for t in tensors),
        "qmax": max(t.qmax for t in tensors),
    }
    return replace(first, q=q, **bounds)


def _alike(a: Quantized, b: Quantized) -> bool:
    return a.scale == b.scale and a.zero_point == b.zero_point


def _is_tuple(expr: Any) -> bool:
    return isinstance(expr, relax.Tuple)
