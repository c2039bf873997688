"""Builds panels out of rows: pure array work, no storage and no rules about marks.

Rows arrive as structured arrays with the fields ``asset`` (position on the asset axis),
``open_time`` (UTC milliseconds) and one float64 field per panel array, or as Arrow tables.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market.bar import Settlement
from market.panel import Float32Array, Float64Array, Int64Array, Panel

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

SCATTER_ROWS = 16_384

Rows = npt.NDArray[Any]


def aligned_open_times(since: int, until: int, interval_ms: int) -> Int64Array:
    """(T,) every open time that is a multiple of ``interval_ms`` with since <= t < until."""
    first = -(-since // interval_ms) * interval_ms
    return np.arange(first, max(first, until), interval_ms, dtype=np.int64)


def unknown_arrays(names: Iterable[str], shape: tuple[int, int]) -> dict[str, Float64Array]:
    """One array of NaN for each name."""
    return {name: np.full(shape, np.nan) for name in names}


def unknown_tensor(shape: tuple[int, int, int]) -> Float32Array:
    """A float32 array of NaN in ordinary pages, all taken at once.

    For arrays of this size numpy asks for huge pages, and a machine that has run for long may
    compact its memory for a second or more before it has them.
    """
    values = math.prod(shape)
    if not values:
        return np.empty(shape, dtype=np.float32)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
    memory = mmap.mmap(-1, values * np.dtype(np.float32).itemsize, flags=flags)
    tensor = np.frombuffer(memory, dtype=np.float32).reshape(shape)
    tensor.fill(np.nan)
    return tensor


def scatter(
    rows: Rows, into: Mapping[str, Float64Array], *, open_time: Int64Array, interval_ms: int
) -> bool:
    """Write each row into its cell of the (T, N) arrays named in ``into``.

    Returns:
        Whether every cell came once. Where one came twice, either version may have been written.
    """
    if not len(rows):
        return True
    shape = next(iter(into.values())).shape
    bar = (rows["open_time"].astype(np.int64) - open_time[0]) // interval_ms
    cell = bar * shape[1] + rows["asset"].astype(np.int64)
    for name, array in into.items():
        array.reshape(-1)[cell] = rows[name]  # one flat index: half the time of two
    came = np.zeros(shape[0] * shape[1], dtype=np.bool_)
    came[cell] = True
    return bool(np.count_nonzero(came) == len(rows))


def scatter_table(rows: pa.Table, tensor: Float32Array, asset: int) -> bool:
    """Write the rows of one symbol into ``tensor[:, asset]``.

    Args:
        rows: R rows of ``bar``, the position on the time axis, and C columns of float32; null is
            NaN.
        tensor: (T, N, C) float32.
        asset: position on the asset axis.

    Returns:
        Whether every bar came once. Where one came twice, either version may have been written.
    """
    came = np.zeros(len(tensor), dtype=np.bool_)
    # In pieces: the cells of a piece stay in the processor's cache while column follows column.
    for piece in rows.to_batches(max_chunksize=SCATTER_ROWS):
        bars = piece.column(0).to_numpy()
        came[bars] = True
        place = _as_slice(bars)
        for idx in range(tensor.shape[2]):
            tensor[place, asset, idx] = piece.column(idx + 1).to_numpy(zero_copy_only=False)
    return bool(np.count_nonzero(came) == rows.num_rows)


def _as_slice(bars: Rows) -> Rows | slice:
    """The same positions as a slice where they are consecutive: ten times faster to write to."""
    if len(bars) and int(bars[-1]) - int(bars[0]) + 1 == len(bars) and np.all(bars[1:] > bars[:-1]):
        return slice(int(bars[0]), int(bars[-1]) + 1)
    return bars


def opens_at(
    settlements: Sequence[Settlement],
    opens: Float64Array,
    *,
    symbols: Sequence[str],
    open_time: Int64Array,
    interval_ms: int,
) -> dict[tuple[str, int], float]:
    """The opens (T, N) of the bars that open when a settlement falls due, by symbol and time.

    Those that fall due within a bar, outside the bars, or where ``opens`` holds NaN are left out.
    """
    position = {symbol: asset for asset, symbol in enumerate(symbols)}
    found = {}
    for settlement in settlements:
        bar, inside_ms = divmod(settlement.nominal_time - int(open_time[0]), interval_ms)
        if inside_ms or not 0 <= bar < len(open_time):
            continue
        price = float(opens[bar, position[settlement.symbol]])
        if not np.isnan(price):
            found[settlement.symbol, settlement.nominal_time] = price
    return found


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
