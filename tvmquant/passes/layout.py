"""Channels-last through the whole network.

Every conv2d becomes NHWC with OHWI weights, every transposed convolution such a conv2d, every
pooling NHWC. The pass keeps, for each 4-D value, both names: the one in the original order (a
``permute_dims`` that dead-code elimination removes when nobody reads it) and the channels-last one,
which layout-agnostic operators are rewritten to. So permutations remain only at the borders of what
the pass understands.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from tvmquant.graph import Builder, Graph, name_of, rewrite
from tvmquant.interpreter.float_ops import split_sections
from tvmquant.ops.dynamic import DYNAMIC_QUANTIZE
from tvmquant.ops.integer import shape_of
from tvmquant.passes.conv_transpose import conv2d_transpose
from tvmquant.passes.layout_names import AXIS, Names, permutation
from tvmquant.passes.layout_rules import FINAL, FOLLOWING, LEADING, axis_of


def channels_last(mod: tvm.IRModule) -> tvm.IRModule:
    """Convert ``main`` to channels-last convolutions and whatever can follow them."""
    return rewrite(mod, _Layout(_dynamic_images(Graph(mod))).visit)


class _Layout:
    def __init__(self, images: set[relax.Var]) -> None:
        self.images = images
        self.names = Names()

    def visit(self, builder: Builder, var: relax.Var, value: Any) -> Any:
        names = self.names
        if isinstance(value, relax.TupleGetItem):
            return self._item(builder, var, value)
        name = name_of(value)
        if var in self.images:
            # One scale for all: the order of the values does not matter.
            x = names.channels_last(builder, value.args[0])
            parts = builder.emit(relax.Call(value.op, [x], value.attrs), var.name)
            names.tuples[parts] = parts
            return parts
        if name == "nn.conv2d_transpose":
            x = names.channels_last(builder, value.args[0])
            image = conv2d_transpose(builder, x, value, var.name)
            return None if image is None else names.emit(builder, image, f"{var.name}/crop")
        leading = LEADING.get(name)
        if leading and (call := leading(names, builder, value)) is not None:
            return names.emit(builder, call, var.name)
        if name == "permute_dims" and names.has(value.args[0]):
            axes = [AXIS[a] for a in permutation(value)]
            source = names.last[value.args[0]]
            return source if axes == [0, 1, 2, 3] else relax.op.permute_dims(source, axes)
        if name is None or not any(names.has(arg) for arg in _flat_args(value)):
            return None
        if name == "split":
            return self._split(builder, var, value)
        rule = FOLLOWING.get(name)
        out = rule(names, builder, value) if rule else None
        if out is None:
            return None
        if len(shape_of(builder.bb.normalize(out))) == 4 and name not in FINAL:
            return names.emit(builder, out, var.name)
        return out

    def _item(self, builder: Builder, var: relax.Var, value: relax.TupleGetItem) -> Any:
        parts = self.names.tuples.get(value.tuple_value)
        if parts is None:
            return None
        item = builder.bb.normalize(relax.TupleGetItem(parts, value.index))
        return self.names.emit(builder, item, var.name) if len(shape_of(item)) == 4 else item

    def _split(self, builder: Builder, var: relax.Var, value: relax.Call) -> Any:
        source = self.names.last[value.args[0]]
        call = relax.op.split(source, split_sections(value), AXIS[axis_of(value)])
        parts = builder.emit(call, f"{var.name}/nhwc")
        self.names.tuples[var] = parts
        # The original tuple stays for readers that want its order; unused, it disappears.
        kept = builder.emit(value, var.name)
        self.names.tuples[kept] = parts
        return kept


def _flat_args(value: Any) -> list:
    args = list(getattr(value, "args", []))
    return [item for a in args for item in (a.fields if isinstance(a, relax.Tuple) else [a])]


def _dynamic_images(graph: Graph) -> set[relax.Var]:
    """Tensors that are quantized at run time and read by convolutions."""
    found = set()
    for var, value in graph.bindings:
        if name_of(value) != DYNAMIC_QUANTIZE or bool(value.attrs["per_row"]):
            continue
        readers = [user for item in graph.users.get(var, ()) for user in graph.users.get(item, ())]
        layers = {name_of(graph.value(u)) for r in readers for u in graph.users.get(r, ())}
        if "nn.conv2d" in layers and len(shape_of(value.args[0])) == 4:
            found.add(var)
    return found
