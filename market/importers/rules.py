"""The rules of ``market.bar`` over whole columns: which rows are sound, and why the others are not.

Pure. A property test holds it to ``row_defect``: the same rows break the same rule first.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from market.bar import FIRST_TIME_MS, TRADES_LIMIT, VOLUME_ROUNDING, BarDefect
from market.importers.recording import PRICES, VOLUMES, ImportKind
from market.panel import BoolArray, Float64Array

SOUND = -1
DEFECTS = tuple(BarDefect)

DefectCodes: TypeAlias = npt.NDArray[np.int8]


def time_column(kind: ImportKind) -> str:
    """The column that, with venue and symbol, identifies a row."""
    return "funding_time" if kind is ImportKind.SETTLEMENTS else "open_time"


def find_defects(rows: pa.Table, *, kind: ImportKind, interval_ms: int, now: int) -> DefectCodes:
    """Return per row the first rule that it breaks, as an index into ``DEFECTS``, or ``SOUND``.

    Args:
        rows: R rows of one kind in its canonical schema.
        kind: bars, mark candles (whose volumes nobody reads) or settlements.
        interval_ms: length of a bar; ignored for settlements.
        now: a row that ends later than this is not final yet.
    """
    if kind is ImportKind.SETTLEMENTS:
        return _settlement_defects(rows, now)
    prices = np.stack([_floats(rows[name]) for name in PRICES])
    open_, high, low, close = prices
    traded = kind is ImportKind.BARS
    volumes = [_floats(rows[name]) if traded else np.zeros(len(rows)) for name in VOLUMES]
    open_time = rows["open_time"].to_numpy()
    with np.errstate(invalid="ignore"):
        return _first(
            {
                BarDefect.TOO_EARLY: open_time < FIRST_TIME_MS,
                BarDefect.NOT_FINITE: ~(np.isfinite(prices).all(axis=0) & np.isfinite(volumes[0])),
                BarDefect.NOT_POSITIVE: prices.min(axis=0, initial=np.inf) <= 0,
                BarDefect.RANGE_INVERTED: ~(
                    (low <= np.minimum(open_, close)) & (np.maximum(open_, close) <= high)
                ),
                BarDefect.MISALIGNED: open_time % interval_ms != 0,
                **_volume_defects(*volumes),
                BarDefect.NOT_CLOSED: open_time > now - interval_ms,
            }
        )


def _volume_defects(
    volume: Float64Array,
    quote: Float64Array,
    trades: Float64Array,
    taker: Float64Array,
    taker_quote: Float64Array,
) -> dict[BarDefect, BoolArray]:
    """What is not given is NaN, and breaks no rule."""
    return {
        BarDefect.NEGATIVE_VOLUME: (volume < 0) | (quote < 0) | (taker < 0) | (taker_quote < 0),
        BarDefect.TAKER_ABOVE_TOTAL: taker > volume * (1 + VOLUME_ROUNDING),
        BarDefect.NOT_A_COUNT: ~np.isnan(trades)
        & ~((trades >= 0) & (trades < TRADES_LIMIT) & (trades % 1 == 0)),
    }


def _settlement_defects(rows: pa.Table, now: int) -> DefectCodes:
    funding_time = rows["funding_time"].to_numpy()
    return _first(
        {
            BarDefect.TOO_EARLY: funding_time < FIRST_TIME_MS,
            BarDefect.NOT_FINITE: ~np.isfinite(_floats(rows["rate"])),
            BarDefect.NOT_CLOSED: funding_time > now,
        }
    )


def _first(broken: dict[BarDefect, BoolArray]) -> DefectCodes:
    codes = [np.int8(DEFECTS.index(defect)) for defect in broken]
    return np.select(list(broken.values()), codes, default=np.int8(SOUND)).astype(np.int8)


def _floats(column: pa.ChunkedArray) -> Float64Array:
    """The column with NaN for empty cells."""
    values: Float64Array = pc.fill_null(column, np.nan).to_numpy()
    return values
