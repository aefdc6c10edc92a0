"""What each operator of a simplified graph is to the quantizer.

======== ==========================================================================================
kind     operators
======== ==========================================================================================
raw      conv2d or matmul with constant weights whose bias is added by the next operator
linear   the same without bias, or the addition of the bias
bmm      matmul of two activations
unary    an elementwise operator of one tensor (its ``root``) and constants: part of a table
binary   addition, subtraction, multiplication of two activations
pool     average pooling, mean, sum
move     operators that only move values (reshape, slice, concat, max pooling …): scale unchanged
float    everything else
======== ==========================================================================================
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax

from tvmquant.graph import Graph, const_value, is_const, name_of, operands
from tvmquant.ops.integer import shape_of
from tvmquant.passes.fold_affine import is_linear, per_channel
from tvmquant.passes.quantized import MOVES
from tvmquant.passes.tables import TABULAR
from tvmquant.precision import FLOAT_BITS
from tvmquant.recipe import Recipe

CLIPS = ("nn.relu", "clip")
_BINARY = {"add", "subtract", "multiply"}
_WIDENING = {"square", "power", "exp", "divide", "rsqrt"}
_POOLS = {"nn.avg_pool2d", "mean", "sum"}


class Regions:
    """Kinds, roots and integer capability of every variable of ``main``.

    Attributes
    ----------
    kind : dict
        Variable → kind (see the module's table); parameters are ``float``.
    root : dict
        Variable → the tensor that its table starts from (itself unless ``unary``).
    capable : dict
        Variable → whether its producer can run in integers, given integer inputs.
    """

    def __init__(self, mod: tvm.IRModule, recipe: Recipe) -> None:
        self.graph = Graph(mod)
        self.recipe = recipe
        self.kind: dict[relax.Var, str] = {}
        self.root: dict[relax.Var, relax.Var] = {}
        stops: set[relax.Var] = set()
        # A tensor that anything but a table reads is materialised, and tables start from it.
        # Which additions mix two tensors is known only after a first round.
        for _ in range(2):
            self._classify(stops)
            stops = {v for v, _ in self.graph.bindings if self._is_read_outside_tables(v)}
        self._classify(stops)
        self.weighted = [v for v, e in self.graph.bindings if self.is_weighted(v)]
        self.linear_inputs = {self.linear_call(v).args[0] for v in self.weighted}
        for v, value in self.graph.bindings:
            if self.kind[v] == "bmm":
                self.linear_inputs.update(value.args)
        self.capable = self._capabilities()

    # -- kinds ----------------------------------------------------------------------------------
    def _classify(self, stops: set[relax.Var]) -> None:
        self._stops = stops
        self.kind = {p: "float" for p in self.graph.params}
        self.root = {p: p for p in self.graph.params}
        for var, value in self.graph.bindings:
            self.kind[var], self.root[var] = self._kind(var, value)

    def _table_root(self, var: relax.Var) -> relax.Var:
        return var if var in self._stops or self.kind[var] != "unary" else self.root[var]

    def _kind(self, var: relax.Var, value: Any) -> tuple[str, relax.Var]:
        name = name_of(value)
        if isinstance(value, relax.TupleGetItem):
            source = value.tuple_value
            moved = isinstance(source, relax.Var) and self.kind.get(source) == "move"
            return ("move" if moved else "float"), var
        if name in TABULAR and _has_dtype(value, "float32", "bool"):
            return self._elementwise(var, value, name)
        if name is None or not _has_dtype(value, "float32"):
            return ("move", var) if name == "split" else ("float", var)
        if is_linear(value):
            layer = self.recipe.bits_for(var.name)
            if not layer.quantize or layer.weight_only or self.recipe.dynamic:
                return "float", var
            return ("raw" if self._has_bias(var) else "linear"), var
        if name == "matmul":
            both = all(isinstance(a, relax.Var) for a in value.args)
            both = both and self.recipe.activations.bits not in FLOAT_BITS
            both = both and not self.recipe.dynamic
            return ("bmm" if both else "float"), var
        if name in _POOLS:
            return "pool", var
        if name in MOVES and _is_plain_move(value, name):
            return "move", var
        return "float", var

    def _has_bias(self, var: relax.Var) -> bool:
        users = self.graph.users.get(var, [])
        if len(users) != 1 or self.graph.num_uses(var) != 1:
            return False
        user = self.graph.value(users[0])
        return name_of(user) == "add" and per_channel(user.args[1], shape_of(user)) is not None

    def _is_bias_of(self, value: relax.Call) -> bool:
        return isinstance(value.args[0], relax.Var) and self.kind.get(value.args[0]) == "raw"

    def _elementwise(self, var: relax.Var, value: relax.Call, name: str) -> tuple[str, relax.Var]:
        if name == "add" and self._is_bias_of(value):
            return "linear", var
        roots = {self._table_root(a) for a in operands(value)}
        constants = [a for a in value.args if is_const(a)]
        shape = shape_of(value)
        tabular = all(per_channel(c, shape) is not None for c in constants) or name == "nn.prelu"
        same_shape = all(shape_of(a) == shape for a in operands(value))
        floats = all(isinstance(a, relax.Var) and _has_dtype(a, "float32") for a in value.args)
        if len(roots) == 1 and tabular and same_shape:
            root = next(iter(roots))
            return ("unary", root) if _has_dtype(root, "float32") else ("float", var)
        if name in _BINARY and floats:
            return "binary", var
        return "float", var

    def _is_read_outside_tables(self, var: relax.Var) -> bool:
        if var in self.graph.output_vars:
            return True
        return any(self.kind[user] != "unary" for user in self.graph.users.get(var, ()))

    # -- linear layers --------------------------------------------------------------------------
    def is_weighted(self, var: relax.Var) -> bool:
        """Whether ``var`` is bound to the convolution or matmul of a quantized layer itself."""
        if self.kind[var] == "raw":
            return True
        return self.kind[var] == "linear" and is_linear(self.graph.value(var))

    def linear_call(self, var: relax.Var) -> relax.Call:
        """Convolution or matmul behind a ``raw`` or ``linear`` variable."""
        value = self.graph.value(var)
        return value if is_linear(value) else self.graph.value(value.args[0])

    def layer_order(self) -> tuple[set[relax.Var], set[relax.Var]]:
        """First and last layers: those without a quantized layer before, or after, them."""
        before: dict[relax.Var, bool] = {}
        for var, value in self.graph.bindings:
            args = list(operands(value))
            before[var] = any(before.get(a, False) or self.is_weighted_safe(a) for a in args)
        after: dict[relax.Var, bool] = {}
        for var, _ in reversed(self.graph.bindings):
            users = self.graph.users.get(var, [])
            after[var] = any(after.get(u, False) or self.is_weighted_safe(u) for u in users)
        first = {v for v in self.weighted if not before[v]}
        return first, {v for v in self.weighted if not after[v]}

    def is_weighted_safe(self, var: relax.Var) -> bool:
        """:meth:`is_weighted` that also takes parameters."""
        return var in self.graph.values and self.is_weighted(var)

    # -- integer capability ---------------------------------------------------------------------
    def sources(self, var: relax.Var) -> list[relax.Var]:
        """Tensors that the integer form of ``var``'s producer reads (for light operators)."""
        if self.kind[var] == "unary":
            return [self.root[var]]
        return list(operands(self.graph.value(var)))

    def _capabilities(self) -> dict[relax.Var, bool]:
        capable = {p: False for p in self.graph.params}
        for var, _ in self.graph.bindings:
            kind = self.kind[var]
            if kind in ("raw", "linear", "bmm"):
                capable[var] = True
            elif kind in ("unary", "binary", "pool", "move") and not self._widens(var):
                capable[var] = all(capable[s] or s in self.linear_inputs for s in self.sources(var))
            else:
                capable[var] = False
        return capable

    def _widens(self, var: relax.Var) -> bool:
        """Whether 8 bits between ``var`` and its readers would lose its small values.

        A square or an exponential doubles the dynamic range; where it is summed before a root or
        a layer brings it back (a spectrum's magnitude), the sum belongs in float.
        """
        value = self.graph.value(var)
        squares = name_of(value) == "multiply" and value.args[0].same_as(value.args[1])
        if self.kind[var] != "unary" or not (squares or name_of(value) in _WIDENING):
            return False
        return any(
            self.kind[user] != "unary" and not self.is_weighted(user)
            for user in self.graph.users.get(var, ())
        )

    def fused_producer(self, var: relax.Var) -> relax.Var:
        """Operator whose epilogue makes ``var``: follows a chain of clips to a computing root."""
        current = var
        while self.kind[current] == "unary":
            value = self.graph.value(current)
            if name_of(value) not in CLIPS:
                return var
            current = value.args[0]
            if self.graph.num_uses(current) != 1:
                return var
        return current if self.kind[current] in ("linear", "bmm", "binary", "pool") else var


def _has_dtype(value: Any, *dtypes: str) -> bool:
    ty = value.ty
    return isinstance(ty, relax.TensorType) and str(ty.dtype) in dtypes


def _is_plain_move(value: relax.Call, name: str) -> bool:
    if name == "nn.pad":
        return str(value.attrs["pad_mode"]) != "constant" or float(value.attrs["pad_value"]) == 0
    if name == "image.resize2d":
        return str(value.attrs["method"]) == "nearest_neighbor"
    if name == "take":
        return const_value(value.args[1]) is not None and isinstance(value.args[0], relax.Var)
    return True
