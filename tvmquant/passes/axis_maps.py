"""Chains of reshapes and permutations as one permutation of finer axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod


@dataclass(eq=False)
class _Atom:
    """A part of an axis that moves as a whole."""

    size: int


class AxisMap:
    """What a chain of reshapes and permutations does to the axes of a tensor.

    Pixel shuffles, channel shuffles and windows are written as a permutation between reshapes,
    beside others that change the layout; together they are one permutation, too.

    Parameters
    ----------
    shape : sequence of int
        The tensor before the chain.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self._source = [_Atom(size) for size in shape if size != 1]
        pending = iter(self._source)
        # The atoms of every axis; an axis of length 1 has none.
        self._axes = [[next(pending)] if size != 1 else [] for size in shape]

    def permute(self, axes: Sequence[int]) -> None:
        """Apply ``permute_dims``."""
        self._axes = [self._axes[axis] for axis in axes]

    def reshape(self, shape: Sequence[int]) -> bool:
        """Apply ``reshape``; ``False`` if an axis is cut where it has no common divisor."""
        waiting = [atom for axis in self._axes for atom in axis]
        axes: list[list[_Atom]] = []
        for size in shape:
            taken: list[_Atom] = []
            while (missing := size // prod(atom.size for atom in taken)) > 1:
                if not waiting:
                    return False
                atom = waiting.pop(0)
                if atom.size > missing:
                    if atom.size % missing:
                        return False
                    waiting.insert(0, self._split(atom, missing))
                elif missing % atom.size:
                    return False
                taken.append(atom)
            axes.append(taken)
        self._axes = axes
        return not waiting

    def _split(self, atom: _Atom, outer: int) -> _Atom:
        """Keep ``outer`` steps in ``atom``; the rest becomes the atom behind it."""
        rest = _Atom(atom.size // outer)
        atom.size = outer
        self._source.insert(self._source.index(atom) + 1, rest)
        return rest

    def permutation(self) -> tuple[list[int], list[int]]:
        """Shape to give the source, and the axes to permute it by; neighbours stay together."""
        place = {atom: i for i, atom in enumerate(self._source)}
        order = [place[atom] for axis in self._axes for atom in axis]
        runs: list[list[int]] = []
        for position in order:
            if runs and position == runs[-1][-1] + 1:
                runs[-1].append(position)
            else:
                runs.append([position])
        starts = sorted(run[0] for run in runs)
        sizes = {run[0]: prod(self._source[i].size for i in run) for run in runs}
        return [sizes[start] for start in starts], [starts.index(run[0]) for run in runs]
