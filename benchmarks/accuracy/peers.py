"""What another tool must offer to be compared, and the table of those that do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.accuracy.network import Inputs, Network

Infer = Callable[[Inputs], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Peer:
    """A row of another tool.

    Attributes
    ----------
    name, adds : str
        As of ``Method``.
    engine : str
        What computes its outputs.
    build : callable
        ``(network, calibration batches, precision, folder) → infer``; raises ``Unavailable``.
    bits : tuple of str
    networks : tuple of str
        Where it takes part.
    """

    name: str
    adds: str
    engine: str
    build: Callable[[Network, list[Inputs], str, Path], Infer]
    bits: tuple[str, ...] = ("w8a8",)
    networks: tuple[str, ...] = ("resnet20", "mobilenetv2")
    section: str = "peers"

    @property
    def key(self) -> str:
        """Section and name: unique."""
        return f"{self.section}/{self.name}"


def peers() -> list[Peer]:
    """All rows of other tools, installed or not."""
    from benchmarks.accuracy import peers_aimet, peers_nncf, peers_onnxruntime

    return [*peers_onnxruntime.rows(), *peers_nncf.rows(), *peers_aimet.rows()]
