"""A float graph and its QDQ form, run side by side over all samples, one layer after the other.

Corrections of a layer (rounding, bias) need what really arrives at it: the output of the layers
before it *after* their own correction. So all samples go through a layer before any of them goes
on to the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import const_value, name_of
from tvmquant.interpreter.interpreter import Environment, Interpreter
from tvmquant.ops.waist import channel_bits


@dataclass
class LinearLayer:
    """A convolution or matmul with quantized constant weights, about to be run.

    Attributes
    ----------
    var : relax.Var
        Its output in the QDQ graph.
    call : relax.Call
    weight_var : relax.Var
        Bound to the dequantization of the weights.
    q : np.ndarray
        int8 weights, output channels at ``axis``.
    scale : np.ndarray
        float32 ``[channels]`` or ``[1]``; ``[blocks, channels]`` where inputs come in blocks.
    bits, axis : int
    weight_float : np.ndarray
        Weights of the float graph.
    x_float, x_quant : list of np.ndarray
        Input of every sample in the float and in the QDQ graph.
    y_float : list of np.ndarray
        Output of every sample in the float graph, before the bias.
    channel_bits : np.ndarray or None
        Bits of every output channel where they differ; ``bits`` is then the largest.
    block : int
        Of a matmul with float activations: consecutive inputs that share a scale; else 0.
    """

    var: relax.Var
    call: relax.Call
    weight_var: relax.Var
    q: np.ndarray
    scale: np.ndarray
    bits: int
    axis: int
    weight_float: np.ndarray
    x_float: list[np.ndarray]
    x_quant: list[np.ndarray]
    y_float: list[np.ndarray]
    block: int = 0
    channel_bits: np.ndarray | None = None
    _new: tuple[np.ndarray, np.ndarray] | None = None
    _shift: np.ndarray | None = None

    def set_weights(self, q: np.ndarray, scale: np.ndarray) -> None:
        """Run the layer with other int8 weights and scales of the shape they had."""
        self._new = q, scale

    def set_shift(self, shift: np.ndarray) -> None:
        """Add ``[channels]`` to the layer's output."""
        self._shift = shift.astype(np.float32)

    @property
    def is_conv(self) -> bool:
        """Whether it is a convolution (else a matmul)."""
        return name_of(self.call) == "nn.conv2d"


class Lockstep:
    """Walks over the layers of a QDQ graph and its float original.

    Parameters
    ----------
    original, quantized : tvm.IRModule
        The annotated graph and what ``calibrate`` made of it; layers correspond by name.
    samples : sequence of sequence of np.ndarray
        Inputs of ``main``. All are held in memory with the activations of the current layer.
    """

    def __init__(
        self,
        original: tvm.IRModule,
        quantized: tvm.IRModule,
        samples: Sequence[Sequence[np.ndarray]],
    ) -> None:
        self._float, self._quant = Interpreter(original), Interpreter(quantized)
        self._samples = samples

    def layers(self) -> Iterator[LinearLayer]:
        """Every layer with quantized weights, in order; changes made to it take effect next."""
        reference, graph = self._float, self._quant.graph
        floats = _environments(reference, self._samples)
        quants = _environments(self._quant, self._samples)
        pending = iter(reference.graph.bindings)
        for var, value in graph.bindings:
            layer = _layer(self._quant, var, value)
            if layer is not None:
                for other, original in pending:
                    if other.name == var.name:
                        layer.weight_float = _float_weight(reference, original, floats[0])
                        layer.x_float = [env[original.args[0]] for env in floats]
                    results = [reference.step(other, original, env) for env in floats]
                    if other.name == var.name:
                        layer.y_float = results
                        break
                else:
                    raise ValueError(f"the float graph has no layer {var.name!r}")
                layer.x_quant = [env[value.args[0]] for env in quants]
                yield layer
                self._apply(layer, quants)
            for env in quants:
                self._quant.step(var, value, env)
                if layer is not None and layer._shift is not None:
                    env[var] = env[var] + layer._shift

    def _apply(self, layer: LinearLayer, quants: list[Environment]) -> None:
        if layer._new is None:
            return
        q, scale = layer._new
        scale = scale.astype(np.float32)
        if layer.block:
            spread = np.repeat(scale, layer.block, 0)[: q.shape[0]]
        else:
            shape = [1] * layer.q.ndim
            shape[layer.axis] = -1
            spread = scale.reshape(shape)
        weight = q.astype(np.float32) * spread
        for env in quants:
            env[layer.weight_var] = weight


def _environments(
    interpreter: Interpreter, samples: Sequence[Sequence[np.ndarray]]
) -> list[Environment]:
    return [dict(zip(interpreter.graph.params, arrays)) for arrays in samples]


def _layer(interpreter: Interpreter, var: relax.Var, value: relax.Expr) -> LinearLayer | None:
    graph = interpreter.graph
    if name_of(value) not in ("nn.conv2d", "matmul"):
        return None
    weight = graph.value(value.args[1])
    if name_of(weight) != "tvmquant.dequantize":
        return None
    q, scale = const_value(weight.args[0]), const_value(weight.args[1])
    if q is None or scale is None:
        return None
    bits, axis = int(weight.attrs["bits"]), int(weight.attrs["axis"]) % q.ndim
    block = int(weight.attrs["block_size"])
    if block:
        if q.ndim != 2 or axis != 0:
            return None
        return LinearLayer(var, value, value.args[1], q, scale, bits, 1, q, [], [], [], block)
    widths = channel_bits(weight)
    layer = LinearLayer(var, value, value.args[1], q, scale.reshape(-1), bits, axis, q, [], [], [])
    layer.channel_bits = np.array(widths) if widths else None
    return layer


def _float_weight(interpreter: Interpreter, call: relax.Call, env: Environment) -> np.ndarray:
    constant = const_value(call.args[1])
    return constant if constant is not None else env[call.args[1]]
