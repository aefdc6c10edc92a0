"""What a compiled model is to its user, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvmquant.runtime.arrays import check_inputs
from tvmquant.runtime.manifest import LayerInfo, Manifest, TensorInfo

Inputs = Mapping[str, Any] | Sequence[Any]


class Model:
    """A described program that takes and returns NumPy arrays.

    Attributes
    ----------
    manifest : Manifest
    """

    manifest: Manifest

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Inputs in the order of a call."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Outputs in the order of a call."""
        return self.manifest.outputs

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """Kernel calls in the order of execution."""
        return self.manifest.layers

    def __call__(self, *arrays: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run on arrays in the order of :attr:`inputs`.

        Returns
        -------
        numpy.ndarray or tuple of numpy.ndarray
            One fresh array an output; the array itself when there is one output.

        Raises
        ------
        InputError
            If the number, a shape or a dtype is wrong.
        """
        results = self._invoke(check_inputs(arrays, self.inputs))
        return results[0] if len(results) == 1 else results

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run on arrays by name and return the outputs by name.

        Raises
        ------
        InputError
            If a name is missing or unknown, or a shape or dtype is wrong.
        """
        results = self._invoke(check_inputs(inputs, self.inputs))
        return {info.name: array for info, array in zip(self.outputs, results)}

    def _invoke(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Run on checked arrays."""
        raise NotImplementedError
