"""The devices that have a name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tvmquant.errors import TargetError
from tvmquant.targets.cuda import cuda_names

_LINUX = "aarch64-linux-gnu"


@dataclass(frozen=True)
class Board:
    """A device that can be asked for by name.

    Attributes
    ----------
    name : str
    about : str
        One line for a person.
    mtriple, mcpu : str
        As LLVM names them.
    mattr : tuple of str
        Features to add to those of ``mcpu``, for example ``+dotprod``.
    optional : dict
        Features that the name may carry, as in ``aarch64+dotprod``, each with what it adds to
        ``mattr``.
    tested : bool
        Whether compiled models have been run on it, or on an emulation of it.
    num_cores : int
    """

    name: str
    about: str
    mtriple: str
    mcpu: str
    mattr: tuple[str, ...] = ()
    optional: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tested: bool = True
    num_cores: int = 4

    def target(self, extra: tuple[str, ...] = ()) -> dict[str, Any]:
        """TVM target dictionary, with optional features.

        Raises
        ------
        TargetError
            If a feature is not one of :attr:`optional`.
        """
        for name in extra:
            if name not in self.optional:
                can = ", ".join(self.optional) or "none"
                raise TargetError(f"{self.name} has no feature {name!r} to add: it takes {can}")
        more = [attribute for name in extra for attribute in self.optional[name]]
        target: dict[str, Any] = {"kind": "llvm", "mtriple": self.mtriple, "mcpu": self.mcpu}
        attributes = list(dict.fromkeys([*self.mattr, *more]))
        if attributes:
            target["mattr"] = attributes
        if self.mtriple.endswith("eabihf"):
            target["mfloat-abi"] = "hard"
        return {**target, "num-cores": self.num_cores}


BOARDS: tuple[Board, ...] = (
    Board("rpi3", "Raspberry Pi 3, 64-bit system", _LINUX, "cortex-a53"),
    Board("rpi4", "Raspberry Pi 4, 64-bit system", _LINUX, "cortex-a72"),
    Board("rpi5", "Raspberry Pi 5", _LINUX, "cortex-a76"),
    Board(
        "aarch64",
        "any 64-bit ARM processor",
        _LINUX,
        "generic",
        # A processor with the matrix instructions has the dot products as well.
        optional={"dotprod": ("+dotprod",), "i8mm": ("+dotprod", "+i8mm")},
    ),
    Board(
        "armv7l",
        "any 32-bit ARM processor with NEON; it links, nobody has run it",
        "armv7l-linux-gnueabihf",
        "generic",
        mattr=("+neon",),
        tested=False,
    ),
)
ALIASES = {"arm_cpu": "rpi4"}


def find_board(text: str) -> tuple[Board, tuple[str, ...]] | None:
    """Board and optional features of a name such as ``rpi4`` or ``aarch64+dotprod``."""
    name, *extra = text.split("+")
    name = ALIASES.get(name, name)
    return next(((board, tuple(extra)) for board in BOARDS if board.name == name), None)


def known_names() -> list[str]:
    """Every name that a target can be given by, but for ``cuda``, which needs a GPU here."""
    return ["host", *(board.name for board in BOARDS), *ALIASES, *cuda_names()]
