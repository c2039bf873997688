"""Builds panels out of rows: pure array work, no storage and no rules about marks.

Rows arrive as structured arrays with the fields ``asset`` (position on the asset axis),
``open_time`` (UTC milliseconds) and one float64 field per panel array.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from market.bar import Settlement
from market.panel import Float64Array, Int64Array, Panel

BAR_ARRAYS = (
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_buy_volume",
)
MARK_ARRAYS = ("mark_open", "mark_high", "mark_low", "mark_close")

Rows = npt.NDArray[Any]


def aligned_open_times(since: int, until: int, interval_ms: int) -> Int64Array:
    """(T,) every open time that is a multiple of ``interval_ms`` with since <= t < until."""
    first = -(-since // interval_ms) * interval_ms
    return np.arange(first, max(first, until), interval_ms, dtype=np.int64)


def unknown_arrays(names: Iterable[str], shape: tuple[int, int]) -> dict[str, Float64Array]:
    """One array of NaN for each name."""
    return {name: np.full(shape, np.nan) for name in names}


def scatter(
    rows: Rows, into: Mapping[str, Float64Array], *, open_time: Int64Array, interval_ms: int
) -> None:
    """Write each row into its cell of the (T, N) arrays named in ``into``."""
    if not len(rows):
        return
    bar = (rows["open_time"].astype(np.int64) - open_time[0]) // interval_ms
    asset = rows["asset"].astype(np.int64)
    for name, array in into.items():
        array[bar, asset] = rows[name]


def funding_arrays(
    settlements: Sequence[Settlement],
    symbols: Sequence[str],
    *,
    open_time: Int64Array,
    interval_ms: int,
) -> dict[str, Float64Array]:
    """The three funding arrays of a panel, as ``Panel`` defines them.

    A settlement whose mark is unknown counts in ``funding_rate`` and pays nothing in the others.

    Args:
        settlements: resolved, every nominal time within the bars of ``open_time``.
        symbols: N symbols in the order of the asset axis.
        open_time: (T,) UTC milliseconds, consecutive.
        interval_ms: length of a bar.
    """
    shape = (len(open_time), len(symbols))
    rate, at_open, in_bar = np.full(shape, np.nan), np.zeros(shape), np.zeros(shape)
    position = {symbol: asset for asset, symbol in enumerate(symbols)}
    for settlement in settlements:
        offset_ms = settlement.nominal_time - int(open_time[0])
        bar, inside_ms = divmod(offset_ms, interval_ms)
        cell = (bar, position[settlement.symbol])
        rate[cell] = settlement.rate + (0.0 if np.isnan(rate[cell]) else rate[cell])
        payment = settlement.rate * (settlement.mark_price or 0.0)
        (in_bar if inside_ms else at_open)[cell] += payment
    return {"funding_rate": rate, "funding_at_open": at_open, "funding_in_bar": in_bar}


def assemble(
    symbols: Sequence[str],
    *,
    interval_ms: int,
    open_time: Int64Array,
    arrays: Mapping[str, Float64Array],
) -> Panel:
    """A panel from its arrays; the panel checks their shapes."""
    return Panel(symbols=tuple(symbols), interval_ms=interval_ms, open_time=open_time, **arrays)
