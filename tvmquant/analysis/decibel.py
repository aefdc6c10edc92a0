"""Signal-to-quantization-noise ratios, summed up over samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# What stands for "no error at all"; float32 itself reaches some 140 dB.
EXACT = 200.0


def decibel(relative_noise: float) -> float:
    """Ratio of signal to noise in dB, within ±``EXACT``, of a ratio of noise to signal."""
    if relative_noise <= 0:
        return EXACT
    if not np.isfinite(relative_noise):
        return -EXACT
    return float(np.clip(-10 * np.log10(relative_noise), -EXACT, EXACT))


@dataclass
class Ratio:
    """Energies of a signal and of an error, in double precision.

    Values that are not finite in either array are left out.
    """

    signal: float = 0.0
    noise: float = 0.0

    def update(self, reference: np.ndarray, approximation: np.ndarray) -> None:
        """Add arrays of one shape."""
        wanted = np.asarray(reference, np.float64).ravel()
        error = np.asarray(approximation, np.float64).ravel() - wanted
        usable = np.isfinite(error)
        if not usable.all():
            wanted, error = wanted[usable], error[usable]
        self.signal += float(wanted @ wanted)
        self.noise += float(error @ error)

    @property
    def relative(self) -> float:
        """Noise over signal; infinite where there is an error and no signal."""
        if self.signal > 0:
            return self.noise / self.signal
        return float("inf") if self.noise > 0 else 0.0

    @property
    def db(self) -> float:
        """SQNR in dB."""
        return decibel(self.relative)


class OutputNoise:
    """Noise of a network's outputs, each relative to its own energy, so that all count alike.

    Outputs that are no floats (classes, masks) count only where there is nothing else.
    """

    def __init__(self) -> None:
        self._ratios: list[Ratio] = []

    def update(self, reference: Sequence[np.ndarray], outputs: Iterable[np.ndarray]) -> None:
        """Add the outputs of one sample."""
        if not self._ratios:
            self._ratios = [Ratio() for _ in reference]
        floats = any(np.asarray(array).dtype.kind == "f" for array in reference)
        for ratio, wanted, found in zip(self._ratios, reference, outputs, strict=True):
            if not floats or np.asarray(wanted).dtype.kind == "f":
                ratio.update(wanted, found)

    @property
    def relative(self) -> float:
        """Mean over the outputs of noise over signal."""
        used = [ratio.relative for ratio in self._ratios if ratio.signal or ratio.noise]
        return float(np.mean(used)) if used else 0.0

    @property
    def db(self) -> float:
        """SQNR in dB."""
        return decibel(self.relative)
