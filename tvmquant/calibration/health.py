"""What is odd about calibration data: one warning a kind, with the names of the tensors."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from tvmquant.calibration.histogram import BULK, OUTLIER_RATIO
from tvmquant.errors import CalibrationWarning

# Values of an update that are looked at one by one, and the exponents of float32.
_SAMPLED = 4096
_LOWEST, _EXPONENTS = -160, 320
# Fewer samples than that leave channels silent by chance; fewer silent channels are nothing odd.
_ENOUGH = 8
_SILENT_SHARE = 0.25
_NAMES = 5


class TensorHealth:
    """Statistics of one tensor over all updates.

    Attributes
    ----------
    low, high : float
        Of its finite values.
    bad : int
        Number of values that were NaN or infinite.
    seen : int
        Number of values.
    updates : int
    peaks : np.ndarray
        Largest magnitude of every channel (last axis), ``[channels]``.
    """

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self.bad = self.seen = self.updates = 0
        self.peaks = np.zeros(0, np.float32)
        # Counts by exponent: of sampled magnitudes, and of the largest one of every update.
        self.sampled = np.zeros(_EXPONENTS, np.int64)
        self.largest = np.zeros(_EXPONENTS, np.int64)

    def observe(self, values: np.ndarray, *, whole_rows: bool = False) -> np.ndarray:
        """Take notes; returns the finite values, flat unless all are.

        ``whole_rows`` leaves out every row (last axis) that has a value which is not finite.
        """
        self.updates += 1
        self.seen += values.size
        if not values.size:
            return values
        rows = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
        low, high = rows.min(0), rows.max(0)
        # NaN and infinity are passed on by both.
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            finite = np.isfinite(rows)
            self.bad += int(finite.size - finite.sum())
            clean = np.where(finite, rows, 0)
            low, high = clean.min(0), clean.max(0)
            values = rows[finite.all(-1)] if whole_rows else rows[finite]
            if not values.size:
                return values
        if values.ndim == 1:
            self.low = min(self.low, float(values.min()))
            self.high = max(self.high, float(values.max()))
        else:
            self.low = min(self.low, float(low.min()))
            self.high = max(self.high, float(high.max()))
        peaks = np.maximum(np.abs(low), np.abs(high)).astype(np.float32)
        self.peaks = np.maximum(self.peaks, peaks) if self.peaks.shape == peaks.shape else peaks
        flat = values.reshape(-1)
        self._count(self.sampled, flat[:: max(1, flat.size // _SAMPLED)])
        self._count(self.largest, peaks.max(keepdims=True))
        return values

    @staticmethod
    def _count(counts: np.ndarray, values: np.ndarray) -> None:
        exponents = np.frexp(values[values != 0])[1] - _LOWEST
        counts += np.bincount(exponents.clip(0, _EXPONENTS - 1), minlength=_EXPONENTS)

    @property
    def constant(self) -> bool:
        """Whether all finite values were the same."""
        return self.low == self.high

    @property
    def silent_channels(self) -> int:
        """Number of channels that were always zero."""
        return int((self.peaks == 0).sum()) if self.peaks.size > 1 else 0

    @property
    def bulk(self) -> float:
        """Power of two below which 99.9 % of the values lie that are not zero."""
        below = np.cumsum(self.sampled)
        total = below[-1]
        if not total:
            return 0.0
        # Of few values at least one is no bulk.
        share = max(min(BULK * total, total - 1), 1)
        return 2.0 ** int(np.searchsorted(below, share) + _LOWEST)

    @property
    def outlier(self) -> float | None:
        """Largest magnitude where it is far beyond all others and few updates have such."""
        peak, bulk = max(-self.low, self.high), self.bulk
        if bulk == 0.0 or not np.isfinite(peak) or peak <= OUTLIER_RATIO * bulk:
            return None
        far = int(np.ceil(np.log2(OUTLIER_RATIO * bulk))) - _LOWEST
        rare = self.updates < 4 or 4 * self.largest[far:].sum() <= self.updates
        return peak if rare else None


def warn_of_tensors(
    tensors: Iterable[tuple[str, TensorHealth, bool]], batches: int, samples: int
) -> None:
    """Warn of what is odd, one :class:`CalibrationWarning` a kind.

    Parameters
    ----------
    tensors : iterable
        Name, statistics and whether the range estimator left the outliers out.
    batches, samples : int
        How many were run.
    """
    tensors = [item for item in tensors if item[1].updates]
    if samples == 1:
        _warn("calibration: all ranges rest on one sample; give a few dozen real inputs")
    found = [
        f"{name} ({h.bad:,} of {h.seen:,} values)" for name, h, _ in tensors if h.bad < h.seen
        and h.bad
    ]  # fmt: skip
    _warn_names("values that are NaN or infinite were left out of the range of", found)
    found = [name for name, h, _ in tensors if h.seen and h.bad == h.seen]
    _warn_names("nothing but NaN or infinite values, the scale means nothing in", found)
    found = [f"{name} ({h.low:g})" for name, h, _ in tensors if h.constant]
    _warn_names("always the same value (a dead layer or constant inputs) in", found)
    for left_out, text in (
        (True, "outliers were left out of the range of"),
        (False, "outliers stretch the range (percentile leaves rare ones out) of"),
    ):
        found = [
            f"{name} (up to {h.outlier:.3g}, 99.9 % below {h.bulk:.3g})"
            for name, h, out in tensors
            if h.outlier is not None and out == left_out
        ]
        _warn_names(text, found)
    if batches >= _ENOUGH:
        found = [
            f"{name} ({h.silent_channels} of {h.peaks.size})"
            for name, h, _ in tensors
            if not h.constant and h.silent_channels >= max(1, _SILENT_SHARE * h.peaks.size)
        ]
        _warn_names("channels that are always zero in", found)


def _warn_names(text: str, names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        _warn(f"calibration: {text} {', '.join(names[:_NAMES])}{more}")


def _warn(text: str) -> None:
    warnings.warn(text, CalibrationWarning, stacklevel=5)
