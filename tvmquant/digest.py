"""Identities of graphs and arrays, for caches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.graph import Graph, is_const


def graph_digest(mod: tvm.IRModule, *more: str) -> str:
    """SHA-256 of ``main``: its operators, attributes, constants and names, and of ``more``."""
    graph = Graph(mod)
    digest = hashlib.sha256()
    for text in more:
        _text(digest, text)
    for function in sorted(str(f) for f in mod.functions.values() if _is_tir(f)):
        _text(digest, function)
    for var in graph.params:
        _text(digest, f"{var.name}: {var.ty}")
    for var, value in graph.bindings:
        _text(digest, str(var.name))
        _expression(digest, value)
    for out in graph.outputs:
        _expression(digest, out)
    return digest.hexdigest()


def _is_tir(function: Any) -> bool:
    return not isinstance(function, relax.Function)


def _text(digest: Any, text: str) -> None:
    digest.update(text.encode() + b"\0")


def _expression(digest: Any, expr: Any) -> None:
    if is_const(expr):
        _array(digest, expr.value.numpy())
    elif isinstance(expr, relax.Call):
        _text(digest, f"{expr.op} {expr.attrs}")
        for arg in expr.args:
            _expression(digest, arg)
    elif isinstance(expr, relax.Tuple):
        _text(digest, f"tuple of {len(expr.fields)}")
        for item in expr.fields:
            _expression(digest, item)
    elif isinstance(expr, relax.TupleGetItem):
        _text(digest, f"item {expr.index}")
        _expression(digest, expr.tuple_value)
    else:
        _text(digest, str(expr.name) if isinstance(expr, relax.Var) else str(expr))


def _array(digest: Any, array: np.ndarray) -> None:
    _text(digest, f"{array.dtype} {array.shape}")
    digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")


def data_digest(data: Any) -> str:
    """SHA-256 of arrays in lists, tuples and dictionaries.

    Raises
    ------
    TypeError
        If there is anything else in them.
    """
    digest = hashlib.sha256()
    _data(digest, data)
    return digest.hexdigest()


def _data(digest: Any, data: Any) -> None:
    if isinstance(data, Mapping):
        _text(digest, f"dict of {len(data)}")
        for name, item in data.items():
            _text(digest, str(name))
            _data(digest, item)
    elif isinstance(data, list | tuple):
        _text(digest, f"list of {len(data)}")
        for item in data:
            _data(digest, item)
    elif isinstance(data, np.ndarray | np.number | bool | int | float):
        array = np.asarray(data)
        if array.dtype.kind == "O":
            raise TypeError("an array of objects")
        _array(digest, array)
    else:
        raise TypeError(type(data).__name__)
