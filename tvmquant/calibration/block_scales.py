"""Scales that consecutive weights of a channel share, and the best ones for given integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvmquant.calibration.moments import Moments

_TINY = 1e-30
# Added to the diagonal of the equations for the scales: blocks whose inputs are the same have no
# single solution.
_DAMPING = 1e-6


@dataclass(frozen=True)
class BlockScales:
    """``depth`` weights a channel in blocks of ``size``; the last block may be shorter."""

    size: int
    depth: int

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.depth // self.size)

    def steps(self, scale: np.ndarray) -> np.ndarray:
        """Scales ``[..., blocks]`` as one for every weight, ``[..., 1]`` where they are one."""
        return scale if self.count == 1 else np.repeat(scale, self.size, -1)[..., : self.depth]

    def refit(self, q: np.ndarray, scale: np.ndarray, data: Moments) -> np.ndarray:
        """Scales of least error for given integers.

        Parameters
        ----------
        q : np.ndarray
            ``[groups, channels of a group, K]``.
        scale : np.ndarray
            float64 ``[groups, channels of a group, blocks]``; kept where nothing better is found.
        data : Moments

        Returns
        -------
        np.ndarray
            float64, positive, and float32 numbers like those that are stored.
        """
        q = q.astype(np.float64)
        pad = [(0, 0)] * (q.ndim - 1) + [(0, self.count * self.size - self.depth)]
        parts = np.pad(q, pad).reshape(*q.shape[:-1], self.count, self.size)
        right = (parts * np.pad(data.yx, pad).reshape(parts.shape)).sum(-1)
        if self.count == 1:
            norm = ((q @ data.xx) * q).sum(-1, keepdims=True)
            fitted = right / np.maximum(norm, _TINY)
            solved = norm > _TINY
        else:
            fitted, solved = self._solve(parts, right, data)
        fitted = fitted.astype(np.float32).astype(np.float64)
        fitted = np.where(solved & (fitted > _TINY), fitted, scale)
        if self.count == 1:
            return fitted
        # A kept scale among refitted ones may be worse than all the old ones.
        better = data.error(q * self.steps(fitted)) < data.error(q * self.steps(scale))
        return np.where(better[..., None], fitted, scale)

    def _solve(
        self, parts: np.ndarray, right: np.ndarray, data: Moments
    ) -> tuple[np.ndarray, np.ndarray]:
        """Solution of one small system a channel, and where it is one."""
        left = np.empty((*parts.shape[:2], self.count, self.count))
        for index in range(self.count):
            span = slice(index * self.size, min((index + 1) * self.size, self.depth))
            own = parts[..., index, : span.stop - span.start] @ data.xx[:, span]
            own = np.pad(own, [(0, 0), (0, 0), (0, self.count * self.size - self.depth)])
            left[..., index, :] = (own.reshape(parts.shape) * parts).sum(-1)
        diagonal = np.einsum("gokk->gok", left)
        solved = diagonal > _TINY
        unit = np.maximum(diagonal.mean(-1, keepdims=True), _TINY)
        left = left / unit[..., None] + _DAMPING * np.eye(self.count)
        return np.linalg.solve(left, (right / unit)[..., None])[..., 0], solved
