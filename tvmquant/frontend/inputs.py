"""What a loaded model looks like from outside: the names, shapes and dtypes of its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import tvm


@dataclass(frozen=True)
class InputInfo:
    """One input of a model.

    Attributes
    ----------
    name : str
        Name in the original model (Relax may spell it differently).
    shape : tuple of int or None
        ``None`` marks a dimension that is not fixed yet; a loaded model has none of them.
    dtype : str
        NumPy dtype of the array to feed; 4- and 2-bit integers travel as ``int8``/``uint8``.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"input '{self.name}' ({self.dtype} [{dims}])"


@dataclass(frozen=True)
class LoadedModel:
    """A model in Relax.

    Attributes
    ----------
    mod : tvm.IRModule
        Its ``main`` takes the inputs in the order of ``inputs``.
    inputs : tuple of InputInfo
    output_names : tuple of str
        Original names, in the order of the results.
    """

    mod: tvm.IRModule
    inputs: tuple[InputInfo, ...]
    output_names: tuple[str, ...]
