"""Phase 2: decide, edge by edge, what is quantized to how many bits.

Starting from the inputs of convolutions and matmuls the decision flows backwards: an operator
whose result must be quantized anyway runs in integers when all its inputs can be had as integers.
Edges get ``tvmquant.observe`` nodes, weights ``tvmquant.observe_weight``; numbers come later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, rewrite
from tvmquant.ops.waist import observe, observe_weight
from tvmquant.passes.regions import Regions
from tvmquant.precision import LayerBits
from tvmquant.quant_spec import ACTIVATION_ESTIMATOR, WEIGHT_ESTIMATOR
from tvmquant.recipe import Recipe


@dataclass
class _Request:
    """Who wants a tensor quantized: layers (at their bits) and light operators (at 8)."""

    layer_bits: set[int] = field(default_factory=set)
    light: bool = False

    @property
    def bits(self) -> int:
        return 8 if self.light or not self.layer_bits else max(self.layer_bits)


def annotate(
    mod: tvm.IRModule, recipe: Recipe, widths: Mapping[str, np.ndarray] | None = None
) -> tvm.IRModule:
    """Insert observe nodes into a simplified float graph.

    Parameters
    ----------
    mod : tvm.IRModule
        Output of ``simplify``.
    recipe : Recipe
        Bits and estimators.
    widths : mapping of str to np.ndarray, optional
        Layer → bits of each output channel, where ``allocate_bits`` chose them.

    Returns
    -------
    tvm.IRModule
        The same float program with identity nodes on every edge that will be quantized.
    """
    return _Annotator(Regions(mod, recipe), recipe, widths or {}).run(mod)


class _Annotator:
    def __init__(self, regions: Regions, recipe: Recipe, widths: Mapping[str, np.ndarray]) -> None:
        self.regions = regions
        self.recipe = recipe
        self.widths = widths
        first, last = regions.layer_order()
        self.bits: dict[relax.Var, LayerBits] = {
            v: recipe.bits_for(v.name, first_or_last=v in first or v in last)
            for v in regions.weighted
        }
        self.requests: dict[relax.Var, _Request] = {}
        self.groups: dict[relax.Var, relax.Var] = {}
        self._collect_requests()

    # -- decisions ------------------------------------------------------------------------------
    def _request(self, var: relax.Var) -> _Request:
        return self.requests.setdefault(var, _Request())

    def _collect_requests(self) -> None:
        regions = self.regions
        for var in regions.weighted:
            bits = self.bits[var].activation_bits
            self._request(regions.linear_call(var).args[0]).layer_bits.add(bits)
        for var, value in regions.graph.bindings:
            if regions.kind[var] == "bmm":
                for arg in value.args:
                    self._request(arg).layer_bits.add(self.recipe.activations.bits)
        for var, _ in reversed(regions.graph.bindings):
            if var not in self.requests or not regions.capable[var]:
                continue
            producer = regions.fused_producer(var)
            kind = regions.kind[producer]
            if kind in ("unary", "binary", "pool", "move"):
                for source in regions.sources(producer):
                    self._request(source).light = True
                    if kind == "move":
                        self._join(var, source)
                if kind == "move":
                    self._request(var).light = True

    def _group(self, var: relax.Var) -> relax.Var:
        while var in self.groups:
            var = self.groups[var]
        return var

    def _join(self, a: relax.Var, b: relax.Var) -> None:
        a, b = self._group(a), self._group(b)
        if not a.same_as(b):
            self.groups[a] = b

    # -- rewriting ------------------------------------------------------------------------------
    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        regions, graph = self.regions, self.regions.graph
        old = dict(graph.bindings)
        origin: dict[relax.Var, relax.Var] = {p: p for p in graph.params}
        lazily: dict[tuple[relax.Var, int], relax.Var] = {}

        def observed(builder: Builder, arg: Any, bits: int) -> Any:
            """Observed form of an argument for a layer that reads it at ``bits``."""
            var = origin[arg]
            request = self.requests[var]
            base = arg if regions.capable[var] else self._observe(builder, lazily, arg, var)
            if bits >= request.bits:
                return base
            key = (arg, bits)
            if key not in lazily:
                call = self._node(base, f"{var.name}/{bits}", bits, "")
                lazily[key] = builder.emit(call, f"{var.name}/q{bits}")
            return lazily[key]

        def light(builder: Builder, arg: Any) -> Any:
            if not isinstance(arg, relax.Var):
                return arg
            var = origin.get(arg)
            if var is None or var not in self.requests or regions.capable[var]:
                return arg
            return self._observe(builder, lazily, arg, var)

        def visit(builder: Builder, var: relax.Var, value: Any) -> Any:
            kind = regions.kind[var]
            if var in self.bits:
                layer = self.bits[var]
                x = observed(builder, value.args[0], layer.activation_bits)
                w = builder.emit(self._weight(value, var.name, layer), f"{var.name}/weight")
                value = relax.Call(value.op, [x, w], value.attrs)
            elif kind == "bmm":
                bits = self.recipe.activations.bits
                args = [observed(builder, a, bits) for a in value.args]
                value = relax.Call(value.op, args, value.attrs)
            elif self._runs_in_integers(var) and isinstance(value, relax.Call):
                args = [
                    relax.Tuple([light(builder, item) for item in a.fields])
                    if isinstance(a, relax.Tuple)
                    else light(builder, a)
                    for a in value.args
                ]
                value = relax.Call(value.op, args, value.attrs, value.ty_args)
            out = value
            if var in self.requests and regions.capable[var] and not _is_tuple(old[var]):
                raw = builder.emit(value, var.name)
                group = self._group(var)
                shared = group.name if var in self.groups or group in self.groups.values() else ""
                request = self.requests[var]
                out = self._node(raw, var.name, request.bits, shared)
                bound = builder.emit(out, f"{var.name}/q")
                builder.uses[bound] = graph.num_uses(var)
                origin[bound] = var
                return bound
            bound = builder.emit(out, var.name)
            origin[bound] = var
            return bound

        return rewrite(mod, visit)

    def _runs_in_integers(self, var: relax.Var) -> bool:
        return self.regions.capable[var] and (
            var in self.requests
            or any(
                self._runs_in_integers(u)
                for u in self.regions.graph.users.get(var, ())
                if self.regions.kind[u] == "unary" or _is_item(self.regions.graph.value(u))
            )
        )

    def _observe(self, builder: Builder, cache: dict, arg: relax.Var, var: relax.Var) -> relax.Var:
        request = self.requests[var]
        key = (arg, request.bits)
        if key not in cache:
            group = self._group(var)
            shared = group.name if var in self.groups or group in self.groups.values() else ""
            call = self._node(arg, var.name, request.bits, shared)
            cache[key] = builder.emit(call, f"{var.name}/q")
        return cache[key]

    def _node(self, arg: Any, name: str, bits: int, group: str) -> relax.Call:
        spec = self.recipe.activations
        keeps = bits == spec.bits or bits < 8 or spec.estimator == "batch_norm"
        estimator = spec.estimator if keeps else ACTIVATION_ESTIMATOR
        return observe(
            arg,
            name=name,
            bits=bits,
            symmetric=spec.symmetric,
            estimator=estimator,
            group=group,
        )

    def _weight(self, call: relax.Call, name: str, layer: LayerBits) -> relax.Call:
        spec = self.recipe.weights
        widths = self.widths.get(name, np.array([layer.weight_bits]))
        bits = int(widths.max())
        estimator = (
            spec.estimator
            if bits == spec.bits or len(set(widths)) > 1
            else (WEIGHT_ESTIMATOR if bits == 8 else "mse")
        )
        is_conv = len(call.args[1].ty.shape) == 4
        return observe_weight(
            call.args[1],
            name=name,
            bits=bits,
            granularity=spec.granularity,
            estimator=estimator,
            axis=0 if is_conv else 1,
            channel_bits=widths.tolist() if len(set(widths)) > 1 else (),
        )


def _is_item(value: Any) -> bool:
    return isinstance(value, relax.TupleGetItem)


def _is_tuple(value: Any) -> bool:
    return not isinstance(value.ty, relax.TensorType)
