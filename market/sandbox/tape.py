"""What a sandbox venue plays: bars, mark candles, settlements and trading rules as one value.

A tape holds past and future alike; the server decides how much of it has happened. It does no IO
and must never invent a value: where the source gave nothing, the panel holds NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.bar import Settlement
from market.instrument import Instrument, Venue
from market.panel import Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Tape:
    """One venue's market, complete, to be revealed bar by bar.

    Attributes:
        venue: the venue whose protocols and rules the tape follows.
        panel: bars, mark candles and resolved funding of every symbol.
        settlements: as the venue publishes them, ordered by ``(funding_time, symbol)``; jitter
            kept, the mark ``None`` where the source has none.
        instruments: trading rules, in the order of ``panel.symbols``.
        synthetic: whether the market was generated.
        description: one line for people; for a generated market it says that it is not real data.
    """

    venue: Venue
    panel: Panel
    settlements: tuple[Settlement, ...]
    instruments: tuple[Instrument, ...]
    synthetic: bool
    description: str

    def __post_init__(self) -> None:
        listed = tuple(instrument.symbol for instrument in self.instruments)
        if listed != self.panel.symbols:
            raise ValueError(f"tape instruments {listed} are not the symbols {self.panel.symbols}")
        if unknown := {one.symbol for one in self.settlements} - set(listed):
            raise ValueError(f"tape settlements of symbols without bars: {sorted(unknown)}")
