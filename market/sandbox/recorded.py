"""A tape of real bars, mark candles and funding, read from Parquet files.

Owns the files' names and columns. Values go through unchanged, nulls become NaN or ``None``, and
a file that is not as expected is refused with its path and what is wrong with it.

Files in the directory, ``VENUE`` being ``binance`` or ``bybit``, ``MARKET`` ``perp`` or ``spot``:
``bars_VENUE_MARKET_INTERVAL`` and, for perpetuals, ``funding_VENUE`` are needed;
``mark_VENUE_perp_INTERVAL`` may be absent, as mark candles are often not recorded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from market.bar import MarkSource, Settlement, interval_ms
from market.instrument import Market, Venue
from market.panel import Float64Array, Int64Array, Panel
from market.panels import MARK_ARRAYS, funding_arrays, unknown_arrays
from market.sandbox.rules import list_instruments
from market.sandbox.tape import Tape

_FILE_NAMES = {
    Venue.BINANCEUSDM: "binance",
    Venue.BINANCE: "binance",
    Venue.BYBIT: "bybit",
    Venue.BYBITSPOT: "bybit",
}
_PRICE_COLUMNS = ("open", "high", "low", "close")
_BAR_COLUMNS = (*_PRICE_COLUMNS, "volume", "quote_volume", "trades", "taker_buy_volume")
_BAR_KEYS = ("symbol", "open_time")
_FUNDING_COLUMNS = ("symbol", "funding_time", "rate", "mark_price")


class RecordingError(ValueError):
    """A recorded file cannot be played; ``path`` and ``cause`` say which and why."""

    def __init__(self, path: Path, cause: str) -> None:
        """Keep the parts, so that a message for a person can name each."""
        super().__init__(f"{path}: {cause}")
        self.path = path
        self.cause = cause


def recorded_tape(
    directory: Path,
    *,
    venue: Venue,
    symbols: Sequence[str],
    interval: str = "1h",
    since: int | None = None,
    until: int | None = None,
) -> Tape:
    """Read the bars of ``symbols`` with ``since <= open_time < until`` and all that goes with them.

    Args:
        directory: where the Parquet files lie.
        venue: whose files to read.
        symbols: unified symbols, in the order of the tape's asset axis.
        interval: length of a bar, such as ``1h``; part of the file names.
        since: first open time, UTC milliseconds; the first recorded one by default.
        until: end of the open times, exclusive; after the last recorded one by default.

    Raises:
        RecordingError: a file or a column is missing, a symbol is not in the file, the range
            holds no bar, or a bar appears twice or off the interval's grid.
        ValueError: no trading rules are known for a symbol, or the interval is malformed.
    """
    instruments = list_instruments(symbols, venue=venue)
    step, name = interval_ms(interval), _FILE_NAMES[venue]
    bars_path = directory / f"bars_{name}_{venue.market}_{interval}.parquet"
    marks_path = directory / f"mark_{name}_perp_{interval}.parquet"
    bars = _read(bars_path, (*_BAR_KEYS, *_BAR_COLUMNS), time="open_time", span=(since, until))
    _check_symbols(bars_path, symbols)
    bars = _only(bars, symbols)
    open_time = _open_times(bars_path, bars, step)
    values = _grid(bars_path, bars, symbols, open_time, step, _BAR_COLUMNS)
    marks = unknown_arrays(MARK_ARRAYS, (len(open_time), len(symbols)))
    settlements: tuple[Settlement, ...] = ()
    if venue.market is Market.PERP:
        marks = _mark_grid(marks_path, symbols, open_time, step)
        funding_path = directory / f"funding_{name}.parquet"
        settlements = _settlements(funding_path, venue, symbols, open_time, step)
    charge_price = np.where(np.isnan(marks["mark_open"]), values["open"], marks["mark_open"])
    funding = funding_arrays(
        _resolved(settlements, symbols, open_time, step, charge_price),
        symbols,
        open_time=open_time,
        interval_ms=step,
    )
    panel = Panel(
        symbols=tuple(symbols),
        interval_ms=step,
        open_time=open_time,
        **values,
        **marks,
        **funding,
    )
    return Tape(
        venue=venue,
        panel=panel,
        settlements=settlements,
        instruments=instruments,
        synthetic=False,
        description=f"recorded {venue} {interval} bars of {len(symbols)} symbols from {directory}",
    )


def _read(
    path: Path, columns: Sequence[str], *, time: str, span: tuple[int | None, int | None]
) -> pa.Table:
    """Rows with ``span[0] <= time < span[1]``; None leaves an end open."""
    _check_columns(path, columns)
    since, until = span
    chosen = pc.field(time).is_valid()
    if since is not None:
        chosen = chosen & (pc.field(time) >= since)
    if until is not None:
        chosen = chosen & (pc.field(time) < until)
    return pq.read_table(path, columns=list(columns), filters=chosen)


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if not path.is_file():
        beside = sorted(one.name for one in path.parent.glob("*.parquet"))
        raise RecordingError(path, f"no such file; there are {', '.join(beside) or 'none'}")
    try:
        present = set(pq.read_schema(path).names)
    except pa.ArrowInvalid as error:
        raise RecordingError(path, f"not a Parquet file: {error}") from error
    if missing := [column for column in columns if column not in present]:
        raise RecordingError(path, f"missing column {', '.join(missing)}")


def _check_symbols(path: Path, symbols: Sequence[str]) -> None:
    present = set(pq.read_table(path, columns=["symbol"])["symbol"].unique().to_pylist())
    if unknown := [symbol for symbol in symbols if symbol not in present]:
        raise RecordingError(
            path, f"no bars of {', '.join(unknown)}; there are {', '.join(sorted(present))}"
        )


def _only(table: pa.Table, symbols: Sequence[str]) -> pa.Table:
    return table.filter(pc.is_in(table["symbol"], value_set=pa.array(list(symbols))))


def _open_times(path: Path, bars: pa.Table, step: int) -> Int64Array:
    """(T,) every open time from the first bar of any symbol to the last."""
    if not bars.num_rows:
        raise RecordingError(path, "no bar of the symbols in the asked range")
    times = bars["open_time"].to_numpy()
    return np.arange(times.min(), times.max() + step, step, dtype=np.int64)


def _grid(
    path: Path,
    table: pa.Table,
    symbols: Sequence[str],
    open_time: Int64Array,
    step: int,
    columns: Sequence[str],
) -> dict[str, Float64Array]:
    """(T, N) per column; NaN where the file has no row or a null."""
    places = {symbol: place for place, symbol in enumerate(symbols)}
    asset = np.array([places[one] for one in table["symbol"].to_pylist()], dtype=np.int64)
    row, off_grid = np.divmod(table["open_time"].to_numpy() - open_time[0], step)
    if off_grid.any():
        raise RecordingError(path, "open_time off the interval's grid")
    if len(np.unique(row * len(symbols) + asset)) != len(row):
        raise RecordingError(path, "two rows of the same symbol and open_time")
    grids = {}
    for column in columns:
        grid = np.full((len(open_time), len(symbols)), np.nan)
        grid[row, asset] = pc.cast(table[column], pa.float64()).to_numpy()
        grids[column] = grid
    return grids


def _mark_grid(
    path: Path, symbols: Sequence[str], open_time: Int64Array, step: int
) -> dict[str, Float64Array]:
    """Mark candles by the panel's field names, all NaN where none were recorded."""
    if not path.is_file():
        return unknown_arrays(MARK_ARRAYS, (len(open_time), len(symbols)))
    span = (int(open_time[0]), int(open_time[-1]) + step)
    table = _read(path, (*_BAR_KEYS, *_PRICE_COLUMNS), time="open_time", span=span)
    grids = _grid(path, _only(table, symbols), symbols, open_time, step, _PRICE_COLUMNS)
    return {f"mark_{column}": grid for column, grid in grids.items()}


def _settlements(
    path: Path, venue: Venue, symbols: Sequence[str], open_time: Int64Array, step: int
) -> tuple[Settlement, ...]:
    """Settlements within the bars, as recorded: jitter kept, mark None where null."""
    span = (int(open_time[0]), int(open_time[-1]) + step)
    table = _only(_read(path, _FUNDING_COLUMNS, time="funding_time", span=span), symbols)
    known = MarkSource.VENUE if venue is Venue.BINANCEUSDM else MarkSource.MARK_CANDLE
    found = [
        Settlement(
            symbol=row["symbol"],
            funding_time=row["funding_time"],
            rate=row["rate"],
            mark_price=_mark_price(row["mark_price"]),
            mark_source=MarkSource.UNKNOWN if _mark_price(row["mark_price"]) is None else known,
        )
        for row in table.to_pylist()
    ]
    return tuple(sorted(found, key=lambda one: (one.funding_time, one.symbol)))


def _resolved(
    settlements: Sequence[Settlement],
    symbols: Sequence[str],
    open_time: Int64Array,
    step: int,
    charge_price: Float64Array,
) -> list[Settlement]:
    """Settlements whose missing marks are taken from the candle they fall into, where it is known.

    The panel's charges need a price; the tape's settlements stay as they were recorded.
    """
    places = {symbol: place for place, symbol in enumerate(symbols)}
    resolved = []
    for one in settlements:
        row = (one.nominal_time - int(open_time[0])) // step
        price = float(charge_price[row, places[one.symbol]])
        if one.mark_price is None and not math.isnan(price):
            one = dataclasses.replace(one, mark_price=price, mark_source=MarkSource.BAR_OPEN)
        resolved.append(one)
    return resolved


def _mark_price(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
