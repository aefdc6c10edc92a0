"""Values of some tensors of a float graph on samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvmquant.interpreter import Interpreter


def observe_rows(
    mod: tvm.IRModule,
    names: Collection[str],
    samples: Sequence[Sequence[np.ndarray]],
    see: Callable[[str, np.ndarray], None],
) -> None:
    """Run ``main`` on samples.

    Parameters
    ----------
    mod : tvm.IRModule
        A float graph.
    names : collection of str
        Which variables to look at.
    samples : sequence of sequence of np.ndarray
        Inputs of ``main``.
    see : callable
        Gets a name and the values ``[positions, channels]``.
    """

    def tap(var: relax.Var, _value: Any, result: np.ndarray) -> None:
        if var.name in names:
            see(var.name, result.reshape(-1, result.shape[-1]))

    interpreter = Interpreter(mod)
    for arrays in samples if names else ():
        interpreter.run(arrays, tap)
