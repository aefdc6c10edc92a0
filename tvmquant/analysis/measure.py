"""The measurement: every layer quantized alone, every edge, and the integer network, on samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.analysis.channels import ChannelRanges, WeightRanges
from tvmquant.analysis.correspondence import Layer
from tvmquant.analysis.decibel import OutputNoise, Ratio
from tvmquant.analysis.edges import EdgeStatistics
from tvmquant.analysis.hints import hints_of
from tvmquant.analysis.pairing import Pairing
from tvmquant.analysis.report import EdgeSensitivity, LayerSensitivity, SensitivityReport
from tvmquant.errors import InputError
from tvmquant.graph import name_of
from tvmquant.interpreter import Interpreter
from tvmquant.ops.integer import shape_of
from tvmquant.passes.pipeline import to_integers
from tvmquant.quantizer import QuantizedModel

Progress = Callable[[str, int, int], None]


class Measurement:
    """Everything that is summed up over samples.

    All values of one sample are held at a time, so memory does not grow with their number; a
    layer quantized alone costs what comes after it in the float program.

    Parameters
    ----------
    model : QuantizedModel
        With its float program.
    integers : tvm.IRModule, optional
        What ``to_integers`` made of it, if it is there already.
    """

    def __init__(self, model: QuantizedModel, integers: tvm.IRModule | None = None) -> None:
        self.model = model
        self.pairing = Pairing(model)
        self.integers = Interpreter(integers or to_integers(model.mod, model.recipe))
        if not self.pairing.parts.layers:
            raise InputError(f"{model.source or 'the model'}: no layer of it is quantized")
        self.samples = 0
        self.alone = {layer.name: OutputNoise() for layer in self.pairing.parts.layers}
        self.whole = OutputNoise()
        self._edges = {edge.name: EdgeStatistics(edge) for edge in self.pairing.parts.edges}
        self._channels: dict[relax.Var, ChannelRanges] = {}

    def add(
        self,
        inputs: Sequence[np.ndarray],
        progress: Callable[[int], None] | None = None,
        layers: Collection[str] | None = None,
    ) -> list[np.ndarray]:
        """Measure on one sample.

        Parameters
        ----------
        inputs : sequence of np.ndarray
            Inputs of ``main``.
        progress : callable, optional
            Called with the number of layers done.
        layers : collection of str, optional
            Names of those to quantize alone; by default all, which is nearly all of the time.

        Returns
        -------
        list of np.ndarray
            Outputs of the integer network.
        """
        pairing = self.pairing
        env = pairing.float_values(inputs)
        wanted = pairing.reference.outputs(env)
        names = {str(edge.integers.name) for edge in pairing.parts.edges}
        executed: dict[str, np.ndarray] = {}

        def tap(var: relax.Var, _value: Any, result: Any) -> None:
            if str(var.name) in names:
                executed[str(var.name)] = result

        outputs = self.integers.run(inputs, tap)
        self.whole.update(wanted, outputs)
        for edge in pairing.parts.edges:
            found = executed.get(str(edge.integers.name))
            self._edges[edge.name].update(pairing, env, found)
            self._channels_of(edge.base).update(env[edge.base])
        bases = {edge.base for edge in pairing.parts.edges}
        for end in set(pairing.parts.results.values()) - bases:
            self._channels_of(end).update(env[end])
        chosen = [one for one in pairing.parts.layers if layers is None or one.name in layers]
        for index, layer in enumerate(chosen):
            self.alone[layer.name].update(wanted, pairing.only(layer, env))
            if progress:
                progress(index + 1)
        self.samples += 1
        return outputs

    def _channels_of(self, var: relax.Var) -> ChannelRanges:
        return self._channels.setdefault(var, ChannelRanges())

    # -- results --------------------------------------------------------------------------------
    def report(self, executed: bool = False) -> SensitivityReport:
        """What the samples so far say."""
        readers: dict[str, list[str]] = {}
        for layer in self.pairing.parts.layers:
            for edge in layer.inputs:
                readers.setdefault(edge.name, []).append(layer.name)
        edges = {
            name: statistics.result(tuple(readers.get(name, ())))
            for name, statistics in self._edges.items()
        }
        total = sum(noise.relative for noise in self.alone.values())
        layers = [self._layer(layer, edges, total) for layer in self.pairing.parts.layers]
        model = self.model
        return SensitivityReport(
            source=model.source,
            precision=model.recipe.precision,
            samples=self.samples,
            output_db=self.whole.db,
            layers=tuple(sorted(layers, key=lambda layer: layer.output_db)),
            edges=tuple(edges.values()),
            recipe=model.recipe.to_dict(),
            executed=executed,
        )

    def _layer(
        self, layer: Layer, edges: dict[str, EdgeSensitivity], total: float
    ) -> LayerSensitivity:
        noise = self.alone[layer.name]
        inputs = [edges[edge.name] for edge in layer.inputs]
        end = self.pairing.parts.results[layer.reference]
        weights, weight_bits, weight_db = self._weights(layer)
        clipped = [edge.clipped for edge in inputs if edge.clipped is not None]
        channels = [self._channels_of(edge.base) for edge in layer.inputs]
        return LayerSensitivity(
            name=layer.name,
            operator=_operator(layer, self.pairing),
            weight_bits=weight_bits,
            activation_bits=min((edge.bits for edge in inputs), default=None),
            macs=_macs(layer, self.pairing),
            output_db=noise.db,
            share=noise.relative / total if 0 < total < np.inf else 0.0,
            weight_db=weight_db,
            activation_db=min((edge.sqnr_db for edge in inputs), default=None),
            executed_db=self._executed(end, edges),
            clipped=max(clipped, default=None),
            inputs=tuple(edge.name for edge in layer.inputs),
            weight_low=_floats(weights.low) if weights else (),
            weight_high=_floats(weights.high) if weights else (),
            weight_limits=_floats(weights.limits) if weights else (),
            hints=hints_of(
                self.model.recipe, weights, self._channels_of(end), list(zip(inputs, channels))
            ),
        )

    def _weights(self, layer: Layer) -> tuple[WeightRanges | None, float | None, float | None]:
        if layer.weight is None or layer.weight_var is None:
            return None, None, None
        own = self.pairing.quantized_value(layer.weight_var, {})
        ratio = Ratio()
        ratio.update(layer.weight, own)
        ranges = WeightRanges.of(layer.weight, own, layer.channel_axis)
        return ranges, self.pairing.parts.weight_bits(layer), ratio.db

    def _executed(self, end: relax.Var, edges: dict[str, EdgeSensitivity]) -> float | None:
        """SQNR of a layer's result in the integer network."""
        if any(end.same_as(out) for out in self.pairing.reference.graph.outputs):
            return self.whole.db
        own = [edge for edge in self.pairing.parts.edges if edge.base.same_as(end)]
        return next((edges[edge.name].executed_db for edge in own), None)


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _operator(layer: Layer, pairing: Pairing) -> str:
    call = pairing.reference.graph.values[layer.reference]
    name = str(name_of(call)).removeprefix("nn.")
    if name == "conv2d" and int(call.attrs["groups"]) > 1:
        groups, channels = int(call.attrs["groups"]), shape_of(call)[-1]
        return "depthwise_conv2d" if groups == channels else "grouped_conv2d"
    return "batch_matmul" if layer.weight is None else name


def _macs(layer: Layer, pairing: Pairing) -> int:
    call = pairing.reference.graph.values[layer.reference]
    if name_of(call) == "nn.conv2d":
        depth = int(np.prod(shape_of(call.args[1])[1:]))
    else:
        depth = shape_of(call.args[0])[-1]
    return int(np.prod(shape_of(call))) * depth
