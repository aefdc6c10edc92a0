"""Whether a scheduled function leaves anything to the host."""

from __future__ import annotations

from typing import Any

import tvm_ffi
from tvm import tirx


def all_on_device(func: tirx.PrimFunc) -> bool:
    """Whether threads of a GPU do everything that a function stores or calls."""
    return in_threads(func.body)


def in_threads(body: Any) -> bool:
    """The same for a statement."""
    left: list[Any] = []
    skip = tvm_ffi.WalkResult.SKIP

    def visit_loop(loop: tirx.For) -> Any:
        return skip if loop.thread_binding is not None else None

    def visit_attribute(statement: tirx.AttrStmt) -> Any:
        return skip if statement.attr_key == "thread_extent" else None

    callbacks = [
        (tirx.For, visit_loop),
        (tirx.AttrStmt, visit_attribute),
        ((tirx.BufferStore, tirx.Evaluate), lambda statement: left.append(statement)),
    ]
    tvm_ffi.structural_walk(body, callbacks, order="pre")
    return not left
