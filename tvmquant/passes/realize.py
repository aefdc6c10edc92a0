"""Phase 4: QDQ graph → integer operators. The only place that changes arithmetic.

The pass walks the graph once. A dequantize node is remembered as "this float tensor *is*
``scale * (q - zero_point)``"; value-moving operators are applied to ``q`` directly; convolutions
and matmuls of dequantized tensors become integer operators with a float epilogue
(``dequantize``), and a later quantize node turns that epilogue into the requantization it asks for.
What matches nothing stays float between dequantize and quantize: always right, only slower.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Builder, const_value, name_of, rewrite
from tvmquant.ops import is_op, make_call
from tvmquant.ops.dynamic import DYNAMIC_RESCALE
from tvmquant.passes.quantized import MOVES, Quantized, move, move_integers, moved_tensors
from tvmquant.passes.realize_dynamic import (
    dynamic_accumulator,
    fold_dynamic_bias,
    lower_dynamic,
)
from tvmquant.passes.realize_light import lower_binary, lower_pool, lower_table
from tvmquant.passes.realize_linear import (
    LINEAR_OPS,
    fold_bias,
    fold_scale,
    lower_bmm,
    lower_conv2d,
    lower_matmul,
    requantized,
)
from tvmquant.passes.weight_only import fold_weight_only_bias, lower_weight_only
from tvmquant.recipe import Recipe


def realize(mod: tvm.IRModule, recipe: Recipe) -> tvm.IRModule:
    """Turn a QDQ graph into integer operators (``tvmquant.ops.integer``).

    Parameters
    ----------
    mod : tvm.IRModule
        A simplified graph with quantize and dequantize nodes, from ``calibrate`` or imported.
    recipe : Recipe
        Decides the requantize flavour.

    Returns
    -------
    tvm.IRModule
        Equal to the QDQ graph up to the rounding of scales and biases.
    """
    return rewrite(mod, _Realizer(recipe.requantize).visit)


class _Realizer:
    def __init__(self, flavour: str) -> None:
        self.flavour = flavour
        self.known: dict[relax.Var, Quantized] = {}

    def visit(self, builder: Builder, var: relax.Var, value: Any) -> Any:
        name = name_of(value)
        if name == "tvmquant.dequantize":
            return self._dequantize(builder, value)
        if name == "tvmquant.quantize":
            return self._quantize(builder, var.name, value)
        if isinstance(value, relax.TupleGetItem):
            parts = self.known.get(value.tuple_value)
            if parts is None:
                return None
            q = builder.emit(relax.TupleGetItem(parts.q, value.index), f"{var.name}/int")
            return self._remember(builder, parts.replaced(q), None)
        if name in MOVES:
            moved = move(builder, self.known, value, var.name)
            if moved is not None:
                return self._remember(builder, moved, value)
        if name == "nn.conv2d":
            made = lower_conv2d(builder, self.known, value, var.name)
            return made if made is not None else lower_dynamic(builder, value, var.name)
        if name == "matmul":
            made = lower_matmul(builder, self.known, value, var.name)
            if made is None:
                made = lower_bmm(builder, self.known, value, var.name)
            if made is None:
                made = lower_dynamic(builder, value, var.name)
            return made if made is not None else lower_weight_only(builder, value, var.name)
        if name == "add":
            made = fold_bias(builder, self.known, value, var.name)
            if made is None:
                made = fold_dynamic_bias(builder, value)
            return made if made is not None else fold_weight_only_bias(builder, value)
        if name == "multiply":
            return fold_scale(builder, value)
        if name == "astype" and str(value.attrs["dtype"]) == "int32":
            return self._accumulator(builder, value)
        return None

    # -- float names of quantized tensors -------------------------------------------------------
    def _remember(self, builder: Builder, tensor: Quantized, value: Any) -> Any:
        """Bind the float name of an integer tensor (dead unless a float operator reads it)."""
        if not isinstance(tensor.q.ty, relax.TensorType):
            kept = builder.emit(value, "parts")
            self.known[kept] = tensor
            return kept
        var = builder.emit(tensor.dequantized(), "float")
        self.known[var] = tensor
        return var

    def _dequantize(self, builder: Builder, value: relax.Call) -> Any:
        tensor = Quantized.from_dequantize(builder, value)
        return None if tensor is None else self._remember(builder, tensor, value)

    def _accumulator(self, builder: Builder, value: relax.Call) -> Any:
        """``astype(int32)`` of an exact integer product (ConvInteger, MatMulInteger)."""
        source = builder.value(value.args[0])
        if is_op(source, DYNAMIC_RESCALE):
            return dynamic_accumulator(builder, value)
        if not is_op(source, *LINEAR_OPS) or str(source.attrs["requantize"]) != "dequantize":
            return None
        params = const_value(source.args[-1])
        if params is None or not np.all(params == 1.0):
            return None
        attrs = {**dict(source.attrs), "requantize": "none"}
        return make_call(str(source.op.name), list(source.args[:-1]), **attrs)

    # -- quantize nodes -------------------------------------------------------------------------
    def _quantize(self, builder: Builder, name: str, value: relax.Call) -> Any:
        out = Quantized.target_of(value)
        if out is None:
            return None
        x = value.args[0]
        produced = self._integers(builder, name, x, out)
        if produced is None:
            return None
        return out.to_storage(builder, produced, str(value.attrs["dtype"]))

    def _integers(self, builder: Builder, name: str, x: Any, out: Quantized) -> Any:
        """Integer expression (canonical uint8) for quantizing the float ``x`` to ``out``."""
        same = self.known.get(x) if isinstance(x, relax.Var) else None
        if same is not None and same.same_params(out):
            return same.q
        base, clipped = out.through_clips(builder, x)
        source = builder.value(base)
        if is_op(source, *LINEAR_OPS) and str(source.attrs["requantize"]) == "dequantize":
            return requantized(source, clipped, self.flavour)
        kind = name_of(source)
        if kind in ("add", "subtract", "multiply"):
            made = lower_binary(builder, self.known, source, clipped, self.flavour, name)
            if made is not None:
                return made
        if kind in MOVES and base is x:
            made = self._moved(builder, name, source, out)
            if made is not None:
                return made
        if kind in ("mean", "sum", "nn.avg_pool2d"):
            made = lower_pool(builder, self.known, source, clipped, self.flavour, name)
            if made is not None:
                return made
        return lower_table(builder, self.known, x, out, name)

    def _moved(self, builder: Builder, name: str, call: relax.Call, out: Quantized) -> Any:
        """Quantize before moving, so that a concatenation may join tensors of any scale."""
        tensors = []
        for item in moved_tensors(call):
            q = self._integers(builder, name, item, out)
            if q is None:
                return None
            tensors.append(out.replaced(builder.emit(q, f"{name}/part")))
        made = move_integers(builder, call, tensors, name)
        return None if made is None else made.q
