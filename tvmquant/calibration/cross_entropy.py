"""The range for logits: least change of what softmax makes of them."""

from __future__ import annotations

import numpy as np

from tvmquant.calibration.params import activation_params

# Rows that are kept, spread evenly over the stream.
ROWS = 1024
_STEPS = 32


class CrossEntropyEstimator:
    """Range whose quantized logits give the distributions nearest to the real ones.

    Only the order of the large values of a row matters to a classifier, which a squared error over
    all classes does not know. See Nagel et al. 2021, "A White Paper on Neural Network
    Quantization", eq. 14. The last axis holds the classes.
    """

    def __init__(self) -> None:
        self._rows: list[np.ndarray] = []
        self._kept = 0
        self._every = 1
        self._seen = 0
        self.low = np.inf
        self.high = -np.inf

    def update(self, values: np.ndarray) -> None:
        """Observe logits ``[..., classes]``."""
        if not values.size:
            return
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        rows = values.reshape(-1, values.shape[-1] if values.ndim else 1)
        first = -self._seen % self._every
        self._seen += len(rows)
        taken = rows[first :: self._every].astype(np.float32)
        self._rows.extend(taken)
        if len(self._rows) > 2 * ROWS:
            step = -(-len(self._rows) // ROWS)
            self._rows = self._rows[::step]
            self._every *= step

    def range(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """Best ``(low, high)`` among fractions of the observed range."""
        if not self._rows:
            return 0.0, 0.0
        logits = np.stack(self._rows).astype(np.float64)
        wanted = np.exp(_log_softmax(logits))
        low, high = min(self.low, 0.0), max(self.high, 0.0)

        def loss(a: float, b: float) -> tuple[float, float]:
            scale, zero = activation_params(a, b, bits, symmetric)
            q = np.clip(np.rint(logits / scale) + zero, 0, 2**bits - 1)
            # Of equal ones the widest.
            return -float((wanted * _log_softmax((q - zero) * scale)).sum()), a - b

        best = (loss(low, high), low, high)
        # What is small matters little here: first the low end, then both.
        for low_share in np.linspace(0, 1, _STEPS // 4):
            for share in np.linspace(1 / _STEPS, 1, _STEPS):
                a, b = low * low_share, high * share
                best = min(best, (loss(a, b), a, b))
        return best[1], best[2]


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
