"""Recorded tapes: values unchanged, gaps kept, and files that are not as expected refused."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from market.bar import HOUR_MS, MarkSource
from market.instrument import Venue
from market.sandbox.recorded import RecordingError, recorded_tape
from market.sandbox.tape import Tape

REAL = Path(__file__).parents[2] / "../shared/market"
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
T0 = 1_700_006_400_000  # 2023-11-15 00:00 UTC, a settlement hour

Row = dict[str, Any]


def bar(symbol: str, hour: int, **changed: Any) -> Row:
    """Return one row of a bar file."""
    row = {
        "symbol": symbol,
        "open_time": T0 + hour * HOUR_MS,
        "open": 100.1 + hour,
        "high": 103.3 + hour,
        "low": 99.7 + hour,
        "close": 101.9 + hour,
        "volume": 7.123,
        "quote_volume": 712.3,
        "trades": 42,
        "taker_buy_volume": None,
    }
    return row | changed


def mark(symbol: str, hour: int) -> Row:
    """Return one row of a mark file: a bar 0.5 above, volumes null."""
    row = bar(symbol, hour)
    raised = {name: row[name] + 0.5 for name in ("open", "high", "low", "close")}
    return row | raised | {"volume": None, "quote_volume": None, "trades": None}


def settlement(symbol: str, hour: int, *, late: int = 0, price: float | None = 100.0) -> Row:
    """Return one row of a funding file."""
    return {
        "symbol": symbol,
        "funding_time": T0 + hour * HOUR_MS + late,
        "rate": 0.0001,
        "mark_price": price,
    }


BARS = [bar(BTC, 0), bar(BTC, 1), bar(BTC, 3), bar(ETH, 1), bar(ETH, 2)]
MARKS = [mark(BTC, hour) for hour in range(4)]
FUNDING = [settlement(BTC, 0, late=13), settlement(ETH, 2, price=None)]


def write(directory: Path, name: str, rows: list[Row]) -> Path:
    """Write rows as a Parquet file."""
    path = directory / f"{name}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Return a directory with four hours of two symbols, written out of order."""
    write(tmp_path, "bars_binance_perp_1h", BARS[::-1])
    write(tmp_path, "mark_binance_perp_1h", MARKS)
    write(tmp_path, "funding_binance", FUNDING)
    return tmp_path


def read(directory: Path, **changed: Any) -> Tape:
    """Read a recording with the usual arguments, some changed."""
    usual: Row = {"venue": Venue.BINANCEUSDM, "symbols": (BTC, ETH)}
    return recorded_tape(directory, **(usual | changed))


def test_values_are_exact_and_nulls_and_missing_bars_are_nan(recording: Path) -> None:
    """Each float of the file is in its cell to the last bit; the rest is NaN."""
    panel = read(recording).panel
    assert panel.symbols == (BTC, ETH)
    assert panel.open_time.tolist() == [T0 + hour * HOUR_MS for hour in range(4)]
    assert panel.close[[0, 1, 3], 0].tolist() == [101.9, 102.9, 104.9]
    assert np.isnan(panel.close[2, 0])
    assert np.isnan(panel.close[[0, 3], 1]).all()
    assert panel.volume[1, 1] == 7.123
    assert panel.trades[0, 0] == 42.0
    assert np.isnan(panel.taker_buy_volume).all()
    assert panel.mark_close[2, 0] == 101.9 + 2 + 0.5
    assert np.isnan(panel.mark_close[:, 1]).all()


def test_settlements_keep_their_jitter_and_their_missing_mark(recording: Path) -> None:
    """As recorded: 13 ms late with the venue's mark; and one whose mark nobody knew."""
    first, second = read(recording).settlements
    assert (first.symbol, first.funding_time, first.rate) == (BTC, T0 + 13, 0.0001)
    assert (first.mark_price, first.mark_source) == (100.0, MarkSource.VENUE)
    assert (second.symbol, second.mark_price) == (ETH, None)
    assert second.mark_source is MarkSource.UNKNOWN


def test_the_panel_charges_the_recorded_mark_else_the_candle_at_the_nominal_time(
    recording: Path,
) -> None:
    """BTC pays on its own mark of 100; ETH, without mark candles, on the bar's open of 102.1."""
    panel = read(recording).panel
    assert panel.funding_at_open[0, 0] == pytest.approx(0.0001 * 100.0)
    assert panel.funding_at_open[2, 1] == pytest.approx(0.0001 * 102.1)
    assert panel.funding_rate[2, 1] == 0.0001
    assert np.isnan(panel.funding_rate[0, 1])


def test_the_range_bounds_bars_and_settlements(recording: Path) -> None:
    """``since`` is included, ``until`` is not, for both."""
    tape = read(recording, since=T0 + HOUR_MS, until=T0 + 2 * HOUR_MS)
    assert tape.panel.open_time.tolist() == [T0 + HOUR_MS]
    assert tape.settlements == ()


def test_a_recording_without_mark_candles_can_be_played(recording: Path) -> None:
    """Mark candles are often not recorded: the panel then has none."""
    (recording / "mark_binance_perp_1h.parquet").unlink()
    assert np.isnan(read(recording).panel.mark_open).all()


def test_instruments_carry_the_venues_rules(recording: Path) -> None:
    """Tick, lot and minimum notional come from the venue's table."""
    btc, eth = read(recording).instruments
    assert (str(btc.tick_size), str(btc.lot_step), str(btc.min_notional)) == ("0.1", "0.001", "100")
    assert (eth.venue_symbol, eth.funding_interval_minutes) == ("ETHUSDT", 480)


def test_a_recorded_tape_does_not_call_itself_synthetic(recording: Path) -> None:
    """The description names the venue and the directory."""
    tape = read(recording)
    assert not tape.synthetic
    assert str(recording) in tape.description


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("bars_binance_perp_1h", "quote_volume"),
        ("mark_binance_perp_1h", "high"),
        ("funding_binance", "rate"),
    ],
)
def test_a_missing_column_is_named_with_its_file(recording: Path, file: str, column: str) -> None:
    """The error says which file and which column."""
    path = recording / f"{file}.parquet"
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(RecordingError, match=rf"{file}\.parquet: missing column {column}"):
        read(recording)


@pytest.mark.parametrize("file", ["bars_binance_perp_1h", "funding_binance"])
def test_a_missing_file_is_named_with_what_lies_beside_it(recording: Path, file: str) -> None:
    """Bars and funding are needed: absent funding must not become funding of zero."""
    (recording / f"{file}.parquet").unlink()
    with pytest.raises(RecordingError, match=rf"{file}\.parquet: no such file.*mark_binance"):
        read(recording)


def test_a_file_that_is_not_parquet_is_refused(recording: Path) -> None:
    """Bytes of another kind give an error that names the file."""
    (recording / "funding_binance.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(RecordingError, match=r"funding_binance\.parquet: not a Parquet file"):
        read(recording)


def test_an_unknown_symbol_is_refused_with_what_is_there(recording: Path) -> None:
    """SOL has trading rules but no bars in these files."""
    with pytest.raises(RecordingError, match=r"no bars of SOL/USDT:USDT; there are BTC.*, ETH"):
        read(recording, symbols=(BTC, "SOL/USDT:USDT"))


def test_an_empty_range_is_refused(recording: Path) -> None:
    """A tape without a bar could not be played."""
    with pytest.raises(RecordingError, match="no bar"):
        read(recording, since=T0 + 100 * HOUR_MS)


@pytest.mark.parametrize(
    ("row", "cause"),
    [(bar(BTC, 1), "two rows"), (bar(BTC, 1) | {"open_time": T0 + 1}, "off the interval's grid")],
)
def test_bars_that_cannot_be_placed_are_refused(recording: Path, row: Row, cause: str) -> None:
    """A duplicate or a misaligned bar is an error, never silently overwritten."""
    write(recording, "bars_binance_perp_1h", [*BARS, row])
    with pytest.raises(RecordingError, match=cause):
        read(recording)


def milliseconds(year: int) -> int:
    """Return the start of a year, UTC milliseconds."""
    return int(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.skipif(not REAL.is_dir(), reason="recorded market data are not present")
@pytest.mark.parametrize(
    ("year", "opened"), [(2021, 28_948), (2022, 46_210), (2023, 16_537), (2024, 42_314)]
)
def test_real_bitcoin_opens_its_years_where_it_did(year: int, opened: int) -> None:
    """BTC's first opens of 2021 to 2024, as the recording's own notes state them."""
    since = milliseconds(year)
    panel = read(REAL, symbols=(BTC,), since=since, until=since + 24 * HOUR_MS).panel
    assert math.floor(panel.open[0, 0]) == opened or round(panel.open[0, 0]) == opened
    assert len(panel) == 24


@pytest.mark.skipif(not REAL.is_dir(), reason="recorded market data are not present")
def test_real_bybit_has_no_mark_before_its_mark_candles() -> None:
    """Bybit's funding of 2022 is recorded without a mark; the panel charges the bar's open."""
    since = milliseconds(2022)
    tape = read(
        REAL, venue=Venue.BYBIT, symbols=(BTC, ETH), since=since, until=since + 48 * HOUR_MS
    )
    assert len(tape.settlements) == 12
    assert {one.mark_source for one in tape.settlements} == {MarkSource.UNKNOWN}
    first = tape.settlements[0]
    column = tape.panel.symbols.index(first.symbol)
    charge = first.rate * tape.panel.open[0, column]
    assert tape.panel.funding_at_open[0, column] == pytest.approx(charge)


def test_a_spot_recording_needs_bars_alone(tmp_path: Path) -> None:
    """Spot has its own file of bars, no marks, and nothing that settles."""
    write(tmp_path, "bars_binance_spot_1h", [bar("BTC/USDT", hour) for hour in (0, 2)])
    tape = read(tmp_path, venue=Venue.BINANCE, symbols=("BTC/USDT",))
    assert tape.panel.close[[0, 2], 0].tolist() == [101.9, 103.9]
    assert np.isnan(tape.panel.close[1, 0])
    assert np.isnan(tape.panel.mark_close).all()
    assert tape.settlements == ()
    assert tape.instruments[0].funding_interval_minutes is None


def test_recorded_spot_bars_play() -> None:
    """The recorded spot files are read under spot symbols, their long gap left open."""
    if not REAL.exists():
        pytest.skip("recorded bars are not at hand")
    day = int(datetime(2018, 2, 8, tzinfo=UTC).timestamp() * 1000)
    tape = recorded_tape(
        REAL, venue=Venue.BINANCE, symbols=("BTC/USDT",), since=day, until=day + 72 * HOUR_MS
    )
    assert np.isnan(tape.panel.close).sum() == 33
