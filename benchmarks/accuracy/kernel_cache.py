"""Machine code of kernels that were compiled before in this process is used again.

The draws of one method, and the methods of one precision, give programs that differ in their
constants only: weights, scales and biases are not part of the kernels. Generating the kernels'
code takes most of the time of a compilation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tvm
import tvm_ffi
from tvm.script import tirx as T


@T.prim_func(private=False)
def _nothing(x: T.Buffer((1,), "int8")) -> None:
    T.func_attr({"global_symbol": "benchmarks_accuracy_nothing"})
    x[0] = T.int8(0)


class KernelCache:
    """Builds every function of a module apart, and only those not seen before.

    Attributes
    ----------
    built, reused : int
        How many functions were compiled and how many were not.
    """

    def __init__(self) -> None:
        self.built = self.reused = 0
        self._build = tvm.tirx.build
        self._libraries: dict[int, list[tuple[Any, Any, Any]]] = {}

    @contextmanager
    def active(self) -> Iterator[KernelCache]:
        """``tvm.compile`` uses the cache inside; not for several threads at once."""
        tvm.tirx.build = self.build
        try:
            yield self
        finally:
            tvm.tirx.build = self._build

    def build(self, mod: Any, target: Any = None, pipeline: Any = "default") -> Any:
        """Like ``tvm.tirx.build``."""
        libraries = [
            self._library(name, function, mod, target, pipeline)
            for name, function in mod.functions.items()
        ]
        # A module of its own each time: what is imported into a library stays in it.
        root = self._build(tvm.IRModule({"benchmarks_accuracy_nothing": _nothing}), target=target)
        for library in libraries:
            root.import_module(library)
        return root

    def _library(self, name: Any, function: Any, mod: Any, target: Any, pipeline: Any) -> Any:
        key = hash((tvm_ffi.structural_hash(function), name.name_hint, str(target)))
        for known, itself, library in self._libraries.get(key, ()):
            if known == name.name_hint and tvm_ffi.structural_equal(itself, function):
                self.reused += 1
                return library
        self.built += 1
        alone = tvm.IRModule({name: function}, attrs=mod.attrs)
        library = self._build(alone, target=target, pipeline=pipeline)
        self._libraries.setdefault(key, []).append((name.name_hint, function, library))
        return library
