"""What was raised to meet an allowed drop of accuracy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from tvmquant.analysis.report import db_text


@dataclass(frozen=True)
class RaisedLayer:
    """A layer that got 8 bits, and why.

    Attributes
    ----------
    name : str
    bits : str
        What was asked for, for example ``w4a8``.
    output_db, output_db_at_8 : float
        SQNR of the network's output when this layer alone is quantized, at the asked bits and at 8.
    share : float
        Its part of the noise that all layers make in the output at the asked bits.
    """

    name: str
    bits: str
    output_db: float
    output_db_at_8: float
    share: float


@dataclass(frozen=True)
class MaxDropReport:
    """What was raised to meet an allowed drop.

    Attributes
    ----------
    unit : str
        Of all drops: ``points of top-1`` below float, or ``dB of SQNR`` below the same network
        with all layers at 8 bits.
    max_drop : float
    reference : float
        Top-1 of float in percent, or SQNR at 8 bits in dB.
    start, reached : float
        Drops of the network at the asked bits and of the result.
    layers : int
        How many could have been raised.
    raised : tuple of RaisedLayer
        In the order of their gain.
    candidates : int
        Networks that were quantized and executed.
    estimates : int
        Networks that were put together of layers of those, to see which are worth it.
    """

    unit: str
    max_drop: float
    reference: float
    start: float
    reached: float
    layers: int
    raised: tuple[RaisedLayer, ...]
    candidates: int
    estimates: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        what = f"{len(self.raised)} of {self.layers} layers raised to 8 bits"
        if not self.raised:
            what = "no layer raised"
        return (
            f"{what}: {self.reached:.2f} {self.unit} below {self.reference:.2f}, "
            f"{self.start:.2f} without, {self.max_drop:g} allowed"
        )

    def table(self) -> Table:
        """The raised layers and what each of them costs."""
        table = Table(title=str(self))
        table.add_column("raised to 8 bits", overflow="fold")
        for header in ("from", "share of the noise", "output dB alone", "at 8 bits"):
            table.add_column(header, justify="right", no_wrap=True)
        for layer in self.raised:
            db = (db_text(layer.output_db), db_text(layer.output_db_at_8))
            table.add_row(layer.name, layer.bits, f"{layer.share:.1%}", *db)
        return table
