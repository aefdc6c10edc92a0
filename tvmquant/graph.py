"""A straight-line view of a Relax function, and the one loop that every pass rewrites it with.

``main`` is a single dataflow block of bindings. :func:`rewrite` walks it once, in order, gives
every binding (arguments already replaced) to a visitor and keeps variable names, because names
are how recipes and profiles refer to layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.ops import op_name

Visitor = Callable[["Builder", relax.Var, Any], Any]


class Builder:
    """Emits bindings under exact names and remembers what each variable is bound to.

    ``uses`` counts, for the variables that stand for an old one, the uses of the old one.
    """

    def __init__(self, mod: tvm.IRModule | None = None) -> None:
        self.bb = relax.BlockBuilder(mod)
        self.values: dict[relax.Var, Any] = {}
        self.uses: dict[relax.Var, int] = {}
        self._names: dict[str, int] = {}

    def emit(self, expr: Any, name: str = "lv", *, supersede: bool = False) -> relax.Var:
        """Bind ``expr`` to a fresh variable called ``name``, numbered when that is taken.

        ``supersede`` takes the name over from an earlier binding that is dead from now on.
        """
        if isinstance(expr, relax.Var) or is_const(expr):
            return expr
        count = 0 if supersede else self._names.get(name, 0)
        self._names[name] = self._names.get(name, 0) + 1
        unique = name if count == 0 else f"{name}#{count}"
        expr = self.bb.normalize(expr)
        if isinstance(expr, relax.Var):
            return expr
        var = relax.DataflowVar(unique, expr.ty)
        self.bb.emit_normalized(relax.VarBinding(var, expr))
        self.values[var] = expr
        return var

    def value(self, expr: Any) -> Any:
        """What a variable is bound to; other expressions (and parameters) are returned as is."""
        return self.values.get(expr, expr) if isinstance(expr, relax.Var) else expr


class Graph:
    """Read-only view of ``main``: parameters, bindings in order, outputs, uses."""

    def __init__(self, mod: tvm.IRModule) -> None:
        func = mod["main"]
        self.func = func
        self.params = list(func.params)
        self.bindings: list[tuple[relax.Var, Any]] = []
        alias: dict[relax.Var, Any] = {}
        for block in func.body.blocks:
            for binding in block.bindings:
                value = binding.value
                if isinstance(value, relax.Var) or is_const(value):
                    alias[binding.var] = alias.get(value, value)
                else:
                    self.bindings.append((binding.var, substitute(value, alias)))
        self.values = dict(self.bindings)
        body = substitute(func.body.body, alias)
        seen = self.values.get(body) if isinstance(body, relax.Var) else body
        if isinstance(seen, relax.Tuple):
            self.is_tuple, self.outputs = True, list(seen.fields)
            self.bindings = [(v, e) for v, e in self.bindings if not v.same_as(body)]
        else:
            self.is_tuple, self.outputs = False, [body]
        self.users: dict[relax.Var, list[relax.Var]] = {}
        for var, value in self.bindings:
            for arg in operands(value):
                self.users.setdefault(arg, []).append(var)
        self.output_vars = {v for v in self.outputs if isinstance(v, relax.Var)}

    def value(self, expr: Any) -> Any:
        """What a variable is bound to; other expressions are returned as they are."""
        return self.values.get(expr, expr) if isinstance(expr, relax.Var) else expr

    def num_uses(self, var: relax.Var) -> int:
        """Number of uses, a function output counts as one."""
        return len(self.users.get(var, ())) + sum(o.same_as(var) for o in self.outputs)


def operands(value: Any) -> Iterable[relax.Var]:
    """All variables that an expression reads (tuples are looked into)."""
    if isinstance(value, relax.Var):
        yield value
    elif isinstance(value, relax.Call):
        for arg in value.args:
            yield from operands(arg)
    elif isinstance(value, relax.Tuple):
        for item in value.fields:
            yield from operands(item)
    elif isinstance(value, relax.TupleGetItem):
        yield from operands(value.tuple_value)


def substitute(value: Any, mapping: dict[relax.Var, Any]) -> Any:
    """Replace variables inside an expression (one level of calls and tuples).

    What does not change stays the same object, which keeps its type.
    """
    if isinstance(value, relax.Var):
        return mapping.get(value, value)
    if isinstance(value, relax.Call):
        args = [substitute(arg, mapping) for arg in value.args]
        if _same(args, value.args):
            return value
        return relax.Call(value.op, args, value.attrs, value.ty_args)
    if isinstance(value, relax.Tuple):
        fields = [substitute(item, mapping) for item in value.fields]
        return value if _same(fields, value.fields) else relax.Tuple(fields)
    if isinstance(value, relax.TupleGetItem):
        source = substitute(value.tuple_value, mapping)
        same = source.same_as(value.tuple_value)
        return value if same else relax.TupleGetItem(source, value.index)
    return value


def _same(new: Iterable[Any], old: Iterable[Any]) -> bool:
    return all(a is b or a.same_as(b) for a, b in zip(new, old))


def rewrite(
    mod: tvm.IRModule,
    visit: Visitor,
    finish: Callable[[Builder, Any], Any] | None = None,
    params: list[relax.Var] | None = None,
) -> tvm.IRModule:
    """Rebuild ``main`` binding by binding.

    Parameters
    ----------
    mod : tvm.IRModule
        Module with a straight-line ``main``; its PrimFuncs are kept when still used.
    visit : callable
        ``(builder, old_var, value) -> expr or None``. ``value`` has its arguments replaced
        already; the returned expression is bound under the old variable's name, ``None`` keeps
        ``value``.
    finish : callable, optional
        ``(builder, output_expr) -> expr`` applied to every function output.
    params : list of relax.Var, optional
        New parameters, one for each old one.
    """
    graph = Graph(mod)
    kept = {gv: f for gv, f in mod.functions.items() if not isinstance(f, relax.Function)}
    builder = Builder(tvm.IRModule(kept))
    new_params = params or graph.params
    mapping: dict[relax.Var, Any] = dict(zip(graph.params, new_params))
    attrs = dict(graph.func.attrs) if graph.func.attrs else None
    with builder.bb.function("main", new_params, attrs=attrs):
        with builder.bb.dataflow():
            for var, value in graph.bindings:
                value = builder.bb.normalize(substitute(value, mapping))
                new = visit(builder, var, value)
                mapping[var] = builder.emit(value if new is None else new, var.name)
                if isinstance(mapping[var], relax.Var):
                    uses = graph.num_uses(var) + builder.uses.get(mapping[var], 0)
                    builder.uses[mapping[var]] = uses
            outputs = [substitute(out, mapping) for out in graph.outputs]
            if finish:
                outputs = [finish(builder, out) for out in outputs]
            result = builder.bb.emit_output(relax.Tuple(outputs) if graph.is_tuple else outputs[0])
        builder.bb.emit_func_output(result)
    out = builder.bb.get()
    return relax.transform.DeadCodeElimination()(out)


def is_const(expr: Any) -> bool:
    """Whether ``expr`` is a tensor constant."""
    return isinstance(expr, tvm.ir.GenericConst)


def const_value(expr: Any) -> np.ndarray | None:
    """NumPy value of a tensor constant, ``None`` for anything else."""
    return expr.value.numpy() if is_const(expr) else None


def name_of(value: Any) -> str | None:
    """Name of the operator that ``value`` calls without the ``relax.`` prefix."""
    name = op_name(value)
    return name.removeprefix("relax.") if name else None
