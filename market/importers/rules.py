"""The rules of ``market.bar`` over whole columns: which rows are sound, and why the others are not.

Pure. A property test holds it to ``bar_defect``: the same rows break the same rule first.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from market.bar import BarDefect
from market.importers.recording import PRICES, ImportKind

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
        kind: bars, mark candles (judged as bars with volume 0) or settlements.
        interval_ms: length of a bar; ignored for settlements.
        now: a row that ends later than this is not final yet.
    """
    if kind is ImportKind.SETTLEMENTS:
        return _settlement_defects(rows, now)
    prices = np.stack([_floats(rows[name]) for name in PRICES])
    open_, high, low, close = prices
    volume = np.zeros(len(rows)) if kind is ImportKind.MARK_BARS else _floats(rows["volume"])
    open_time = rows["open_time"].to_numpy()
    with np.errstate(invalid="ignore"):
        return _first(
            {
                BarDefect.NOT_FINITE: ~(np.isfinite(prices).all(axis=0) & np.isfinite(volume)),
                BarDefect.NOT_POSITIVE: prices.min(axis=0, initial=np.inf) <= 0,
                BarDefect.RANGE_INVERTED: ~(
                    (low <= np.minimum(open_, close)) & (np.maximum(open_, close) <= high)
                ),
                BarDefect.NEGATIVE_VOLUME: volume < 0,
                BarDefect.MISALIGNED: open_time % interval_ms != 0,
                BarDefect.NOT_CLOSED: open_time > now - interval_ms,
            }
        )


def _settlement_defects(rows: pa.Table, now: int) -> DefectCodes:
    rate, mark = _floats(rows["rate"]), _floats(rows["mark_price"])
    unknown = np.isnan(mark)
    return _first(
        {
            BarDefect.NOT_FINITE: ~np.isfinite(rate) | np.isinf(mark),
            BarDefect.NOT_POSITIVE: ~unknown & (mark <= 0),
            BarDefect.NOT_CLOSED: rows["funding_time"].to_numpy() > now,
        }
    )


def _first(broken: dict[BarDefect, npt.NDArray[np.bool_]]) -> DefectCodes:
    codes = [np.int8(DEFECTS.index(defect)) for defect in broken]
    return np.select(list(broken.values()), codes, default=np.int8(SOUND)).astype(np.int8)


def _floats(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """The column with NaN for empty cells."""
    values: npt.NDArray[np.float64] = pc.fill_null(column, np.nan).to_numpy()
    return values
