"""A rectangular market history: every array is aligned on the same bars and symbols.

The panel is what features, the environment and replay read. It holds facts only; where the venue
gave nothing the value is NaN, and consumers must mask it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Panel:
    """Market history of N symbols over T consecutive bars.

    Attributes:
        symbols: N unified symbols, in the order of the asset axis.
        interval_ms: length of a bar.
        open_time: (T,) UTC milliseconds, strictly consecutive (a missing bar is a row of NaN).
        open, high, low, close: (T, N) quote currency; NaN where the bar is missing.
        volume: (T, N) base units; quote_volume: (T, N) quote currency, NaN where not given.
        trades, taker_buy_volume: (T, N), NaN where not given.
        mark_open, mark_high, mark_low, mark_close: (T, N), NaN where no mark candle is known.
        funding_rate: (T, N) sum of the rates that settled at a nominal time within the bar's
            ``[open_time, close_time)``; NaN where none did.
        funding_at_open: (T, N) sum of rate·mark of settlements whose nominal time equals the
            bar's open_time, quote currency per unit held before the fill; 0 where none.
        funding_in_bar: (T, N) the same for nominal times strictly inside the bar, per unit held
            after the fill; 0 where none.
    """

    symbols: tuple[str, ...]
    interval_ms: int
    open_time: Int64Array
    open: Float64Array
    high: Float64Array
    low: Float64Array
    close: Float64Array
    volume: Float64Array
    quote_volume: Float64Array
    trades: Float64Array
    taker_buy_volume: Float64Array
    mark_open: Float64Array
    mark_high: Float64Array
    mark_low: Float64Array
    mark_close: Float64Array
    funding_rate: Float64Array
    funding_at_open: Float64Array
    funding_in_bar: Float64Array

    def __post_init__(self) -> None:
        bars = len(self.open_time)
        if bars > 1 and not np.all(np.diff(self.open_time) == self.interval_ms):
            raise ValueError("panel bars are not consecutive")
        for name in ARRAY_FIELDS:
            shape = getattr(self, name).shape
            if shape != (bars, len(self.symbols)):
                raise ValueError(f"panel.{name} has shape {shape}, not {(bars, len(self.symbols))}")

    def __len__(self) -> int:
        return len(self.open_time)

    @property
    def close_time(self) -> Int64Array:
        """(T,) the moment each bar became knowable."""
        return self.open_time + self.interval_ms

    @property
    def observed(self) -> BoolArray:
        """(T, N) whether the venue had a final bar."""
        return ~np.isnan(self.close)

    @property
    def mark(self) -> Float64Array:
        """(T, N) valuation price at the close: the mark candle's close, else the bar's close."""
        return np.where(np.isnan(self.mark_close), self.close, self.mark_close)

    def window(self, start: int, stop: int) -> Panel:
        """Return bars ``start`` to ``stop`` (exclusive) as views, not copies."""
        part = object.__new__(Panel)  # a part of a checked panel needs no check
        object.__setattr__(part, "symbols", self.symbols)
        object.__setattr__(part, "interval_ms", self.interval_ms)
        for name in ("open_time", *ARRAY_FIELDS):
            object.__setattr__(part, name, getattr(self, name)[start:stop])
        return part


ARRAY_FIELDS: tuple[str, ...] = tuple(
    field.name
    for field in fields(Panel)
    if field.name not in ("symbols", "interval_ms", "open_time")
)
