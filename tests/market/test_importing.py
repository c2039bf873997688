"""Importing Parquet and CSV files whose columns say what they hold."""

from __future__ import annotations

import datetime
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from market.bar import HOUR_MS, MarkSource
from market.importers import recording
from market.importing import (
    ImportKind,
    ImportRejected,
    check_file,
    find_files,
    import_checked,
    import_file,
)
from market.instrument import Market, Venue
from market.warehouse import Warehouse
from tests.market.recorded_files import (
    HOURS,
    NOW,
    START,
    VENUE,
    candles,
    closes,
    covered,
    funding,
    load,
    write_csv,
    write_parquet,
)

RECORDED = Path(__file__).parents[3] / "shared" / "market"


@pytest.fixture
def symbol(venue_name: str) -> str:
    """A symbol that no other test uses: the files' exchange decides the venue."""
    return f"{venue_name.upper()}/USDT:USDT"


def without(columns: dict[str, list[Any]], *names: str) -> dict[str, list[Any]]:
    """The columns but ``names``."""
    return {name: cells for name, cells in columns.items() if name not in names}


@pytest.mark.parametrize("write", [write_parquet, write_csv])
def test_bars_are_stored_under_the_venue_s_name(
    warehouse: Warehouse, symbol: str, tmp_path: Path, write: Any
) -> None:
    """The files say binance, the perpetual venue is binanceusdm; empty cells become NaN."""
    summary = load(write(tmp_path, candles(symbol)), warehouse)
    assert (summary.kind, summary.rows, summary.written) == (ImportKind.BARS, 5, 5)
    panel = warehouse.load_panel(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=START, until=START + HOURS * HOUR_MS
    )
    assert panel.close[:, 0].tolist() == [11.0, 12.0, 13.0, 14.0, 15.0]
    np.testing.assert_array_equal(panel.trades[:, 0], [np.nan, 7, np.nan, np.nan, np.nan])
    assert np.isnan(panel.quote_volume).all()


@pytest.mark.parametrize(
    ("exchange", "market", "suffix", "venue"),
    [
        ("binance", "perp", ":USDT", "binanceusdm"),
        ("binanceusdm", "perp", ":USDT", "binanceusdm"),
        ("binance", "spot", "", "binance"),
        ("bybit", "perp", ":USDT", "bybit"),
        ("bybit", "spot", "", "bybitspot"),
    ],
)
def test_exchange_and_market_decide_the_venue(
    warehouse: Warehouse,
    venue_name: str,
    tmp_path: Path,
    exchange: str,
    market: str,
    suffix: str,
    venue: str,
) -> None:
    """Spot bars are stored under the spot venue of the same exchange."""
    name = f"{venue_name.upper()}/USDT{suffix}"
    changes = {"exchange": [exchange] * HOURS, "market": [market] * HOURS}
    load(write_parquet(tmp_path, candles(name, **changes)), warehouse)
    assert closes(warehouse, name, venue=venue) == [11.0, 12.0, 13.0, 14.0, 15.0]


@pytest.mark.parametrize("write", [write_parquet, write_csv])
def test_second_import_writes_nothing(
    warehouse: Warehouse, symbol: str, tmp_path: Path, write: Any
) -> None:
    """Importing is idempotent, and the summary says what was unchanged."""
    path = write(tmp_path, candles(symbol))
    load(path, warehouse)
    again = load(path, warehouse)
    assert (again.rows, again.written, again.unchanged, again.rejected) == (5, 0, 5, 0)


def test_a_gap_in_the_file_stays_a_gap(warehouse: Warehouse, symbol: str, tmp_path: Path) -> None:
    """No bar is made up for the hours between two rows."""
    columns = {name: [cells[0], cells[4]] for name, cells in candles(symbol).items()}
    load(write_parquet(tmp_path, columns), warehouse)
    np.testing.assert_array_equal(closes(warehouse, symbol), [11.0, np.nan, np.nan, np.nan, 15.0])


def test_candles_without_any_volume_are_mark_prices(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """Mark files have the columns of bars, and no volume in any row."""
    columns = candles(symbol, volume=[None] * HOURS)
    summary = load(write_csv(tmp_path, columns), warehouse)
    assert (summary.kind, summary.written) == (ImportKind.MARK_BARS, 5)
    times = warehouse.mark_bar_times(
        symbol, venue=VENUE, interval_ms=HOUR_MS, since=START, until=NOW
    )
    assert times.tolist() == columns["open_time"]
    assert covered(warehouse, symbol) is None


def test_candles_said_to_be_marks_need_no_volume(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """A volume column may be missing, or hold what a mark has none of."""
    for columns in (without(candles(symbol), "volume"), candles(symbol)):
        summary = load(write_parquet(tmp_path, columns), warehouse, kind=ImportKind.MARK_BARS)
        assert (summary.kind, summary.rejected) == (ImportKind.MARK_BARS, 0)
    assert covered(warehouse, symbol) is None


@pytest.mark.parametrize("write", [write_parquet, write_csv])
def test_settlements_keep_where_their_mark_came_from(
    warehouse: Warehouse, symbol: str, tmp_path: Path, write: Any
) -> None:
    """A recorded mark candle is no mark of the venue, and an empty cell is unknown."""
    summary = load(write(tmp_path, funding(symbol)), warehouse)
    assert (summary.kind, summary.written) == (ImportKind.SETTLEMENTS, 2)
    first, second = warehouse.settlements(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=START, until=NOW
    )
    assert (first.funding_time, first.rate, first.mark_price) == (START + 7, 0.001, 99.0)
    assert (first.mark_source, second.mark_source) == (MarkSource.MARK_CANDLE, MarkSource.UNKNOWN)


def test_the_venue_s_own_mark_keeps_its_name(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """A file may say that a mark is the venue's, or the open of a bar."""
    columns = funding(symbol, mark_price=[9.0, 8.0], mark_price_source=["venue", "bar_open"])
    load(write_parquet(tmp_path, columns), warehouse)
    stored = warehouse.settlements(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=START, until=NOW
    )
    assert [item.mark_source for item in stored] == [MarkSource.VENUE, MarkSource.BAR_OPEN]


def test_bad_rows_are_quarantined_and_counted_by_reason(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """Unsound and empty cells and a bar still open leave the other rows alone."""
    columns = candles(symbol, close=[11.0, 99.0, None, 14.0, 15.0])
    columns["open_time"][4] = NOW
    summary = load(write_parquet(tmp_path, columns), warehouse)
    assert summary.rejected_by == {
        "not_closed_yet": 1,
        "not_finite": 1,
        "open_or_close_outside_low_high": 1,
    }
    assert (summary.written, summary.rejected, summary.unchanged) == (2, 3, 0)
    found = covered(warehouse, symbol)
    assert found is not None
    assert (found.bars, found.quarantined) == (2, 3)


def test_settlement_without_a_rate_is_rejected(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """A rate that is not a number is never stored as zero."""
    summary = load(write_parquet(tmp_path, funding(symbol, rate=[None, 0.002])), warehouse)
    assert (summary.written, summary.rejected_by) == (1, {"not_finite": 1})
    stored = warehouse.settlements(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=START, until=NOW
    )
    assert [item.rate for item in stored] == [0.002]


def test_equal_rows_count_once_and_contradicting_rows_not_at_all(
    warehouse: Warehouse, symbol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of two different bars is true the file cannot tell, so the venue is asked later."""
    monkeypatch.setattr(recording, "BATCH_ROWS", 2)
    columns = candles(symbol, close=[11.0, 12.0, 13.0, 11.0, 12.5])
    columns["open_time"] = [START + hour * HOUR_MS for hour in (0, 1, 2, 0, 1)]
    columns["trades"] = [None] * HOURS
    path = write_parquet(tmp_path, columns)
    first, again = load(path, warehouse), load(path, warehouse)
    assert (first.written, first.unchanged, first.rejected_by) == (2, 1, {"conflicting_rows": 2})
    assert (again.written, again.unchanged, again.rejected) == (0, 3, 2)
    np.testing.assert_array_equal(closes(warehouse, symbol), [11.0, np.nan, 13.0, np.nan, np.nan])


def test_rows_may_come_in_any_order(warehouse: Warehouse, symbol: str, tmp_path: Path) -> None:
    """Newest first, as some sites write their files."""
    columns = {name: cells[::-1] for name, cells in candles(symbol).items()}
    assert load(write_csv(tmp_path, columns), warehouse).written == 5
    assert closes(warehouse, symbol) == [11.0, 12.0, 13.0, 14.0, 15.0]


@pytest.mark.parametrize("text", ["{}", "{}Z", "{}+00:00"])
def test_times_in_csv_may_be_iso(
    warehouse: Warehouse, symbol: str, tmp_path: Path, text: str
) -> None:
    """Without a zone they are UTC."""
    hours = [
        text.format(f"2023-11-{14 + hour // 24}T{hour % 24:02}:00:00") for hour in range(22, 27)
    ]
    path = write_csv(tmp_path, candles(symbol, open_time=hours))
    assert load(path, warehouse).written == 5
    assert closes(warehouse, symbol) == [11.0, 12.0, 13.0, 14.0, 15.0]


def test_a_bare_csv_takes_what_it_does_not_say_from_options(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """Six columns are a bar once exchange, symbol and interval are told; gzip is read as well."""
    columns = without(
        candles(symbol), "exchange", "market", "symbol", "timeframe", "quote_volume", "trades"
    )
    path = tmp_path / "file.csv.gz"
    path.write_bytes(gzip.compress(write_csv(tmp_path, columns).read_bytes()))
    hints = {"exchange": Venue.BINANCE, "symbol": symbol, "interval": "1h"}
    assert load(path, warehouse, **hints).written == 5
    assert closes(warehouse, symbol) == [11.0, 12.0, 13.0, 14.0, 15.0]


@pytest.mark.parametrize(
    ("names", "hints", "cause"),
    [
        (["exchange"], {}, "the columns exchange of bars are missing; --exchange can say it"),
        (["symbol", "timeframe"], {}, "symbol, timeframe .* --symbol, --interval can say it"),
        (["exchange"], {"symbol": "X/USDT"}, "--exchange can say it"),
        ([], {"symbol": "X/USDT"}, "its symbol is .*, but --symbol says X/USDT"),
        ([], {"interval": "5m"}, "its interval is 1h, but --interval says 5m"),
        ([], {"market": Market.SPOT}, "its market is perp, but --market says spot"),
    ],
)
def test_what_neither_file_nor_option_says_is_named(
    symbol: str, tmp_path: Path, names: list[str], hints: dict[str, Any], cause: str
) -> None:
    """So is an option that contradicts the file."""
    path = write_parquet(tmp_path, without(candles(symbol), *names))
    with pytest.raises(ImportRejected, match=cause):
        check_file(path, recording.ImportHints(**hints))


@pytest.mark.parametrize("write", [write_parquet, write_csv])
def test_missing_columns_are_named_and_nothing_is_written(
    warehouse: Warehouse, symbol: str, tmp_path: Path, write: Any
) -> None:
    """The error names the file and every missing column."""
    path = write(tmp_path, without(candles(symbol), "close", "volume"))
    with pytest.raises(ImportRejected, match="close, volume") as caught:
        load(path, warehouse)
    assert str(path) in str(caught.value)
    assert caught.value.missing == ("close", "volume")
    assert covered(warehouse, symbol) is None


@pytest.mark.parametrize("content", [b"", b"open,close\n1,2\n", b"PAR1" + bytes(40) + b"PAR1"])
def test_file_that_is_no_parquet_is_rejected(tmp_path: Path, content: bytes) -> None:
    """The error names the file and says what it is not."""
    path = tmp_path / "bars.parquet"
    path.write_bytes(content)
    with pytest.raises(ImportRejected, match=r"bars\.parquet: not a readable Parquet file"):
        check_file(path)


@pytest.mark.parametrize(
    ("name", "cause"),
    [("nowhere.parquet", "nowhere"), ("nowhere.csv", "nowhere"), ("notes.txt", "unknown kind")],
)
def test_file_that_is_not_there_or_unknown_is_rejected(
    tmp_path: Path, name: str, cause: str
) -> None:
    """A path with a typing error is named; so is what could have been expected."""
    with pytest.raises(ImportRejected, match=cause):
        check_file(tmp_path / name)


def test_damaged_data_are_found_before_anything_is_written(
    warehouse: Warehouse, symbol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage in the last rows of a file leaves no row of its first batch behind."""
    monkeypatch.setattr(recording, "BATCH_ROWS", 2)
    path = tmp_path / "file.parquet"
    table = pa.table(candles(symbol))
    pq.write_table(table, path, row_group_size=2, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    last = pq.ParquetFile(path).metadata.row_group(2).column(8)
    start = last.data_page_offset
    content[start : start + last.total_compressed_size] = bytes(last.total_compressed_size)
    path.write_bytes(content)
    with pytest.raises(ImportRejected, match="damaged"):
        load(path, warehouse)
    assert covered(warehouse, symbol) is None


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"market": ["perp"] * 4 + ["spot"]}, "column market says spot, but .* of perp"),
        ({"market": ["future"] * 5}, "unknown market future"),
        ({"exchange": ["kraken"] * 5}, "unknown exchange kraken"),
        ({"timeframe": ["1h"] * 4 + ["7h"]}, "does not divide a day"),
        ({"timeframe": ["1h"] * 4 + ["5m"]}, "timeframe mixes bars of 5 min, 60 min"),
        ({"symbol": [None] * 5}, "symbol has empty cells"),
        ({"symbol": ["A/B:B"] * 4 + [None]}, "symbol has empty cells"),
        ({"symbol": ["BTCUSDT"] * 5}, "unknown form of symbol 'BTCUSDT'"),
        ({"symbol": ["BTC/USD:BTC"] * 5}, "unknown form of symbol 'BTC/USD:BTC'"),
        ({"close": ["11"] * 5}, "close is string, not number"),
        ({"open_time": [0.5] * 5}, "open_time is double, not integer"),
        ({"open_time": [START // 1000] * 5}, "open_time holds 1699999200; expected UTC milli"),
        ({"open_time": [START * 1000] * 5}, "open_time holds .*; expected UTC milliseconds"),
    ],
)
def test_file_that_cannot_be_stored_as_a_whole_is_rejected(
    warehouse: Warehouse,
    symbol: str,
    tmp_path: Path,
    changes: dict[str, list[Any]],
    cause: str,
) -> None:
    """Unknown markets, venues, intervals, units and types are named; nothing is written."""
    with pytest.raises(ImportRejected, match=cause):
        load(write_parquet(tmp_path, candles(symbol) | changes), warehouse)
    assert covered(warehouse, symbol) is None


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("binance,perp,A/B:B,1h,1699999200000,x,1,1,1,1,,", "the column open: .*'x'"),
        ("binance,perp,A/B:B,1h,yesterday,1,1,1,1,1,,", "the column open_time: .*ISO 8601"),
        ("binance,perp,A/B:B,1h,,1,1,1,1,1,,", "the column open_time has empty cells"),
        ("binance,perp,A/B:B,1h", "Expected 12 columns, got 4"),
    ],
)
def test_wrong_cell_of_a_csv_is_named(tmp_path: Path, line: str, cause: str) -> None:
    """The column, what stood in it, and what was expected."""
    path = write_csv(tmp_path, without(candles("A/B:B")))
    header = path.read_text().splitlines()[0]
    path.write_text(f"{header}\n{line}\n")
    with pytest.raises(ImportRejected, match=cause):
        check_file(path)


def test_longer_bars_than_the_file_says_are_rejected(symbol: str, tmp_path: Path) -> None:
    """Hourly rows called 5m would be taken for 5-minute bars with gaps between them."""
    columns = {name: cells * 3 for name, cells in candles(symbol).items()}
    columns["open_time"] = [START + hour * HOUR_MS for hour in range(15)]
    columns["timeframe"] = ["5m"] * 15
    with pytest.raises(ImportRejected, match="never advances by less than 3600 s; .* of 300 s"):
        check_file(write_parquet(tmp_path, columns))


def test_progress_counts_rows_up_to_the_total(
    warehouse: Warehouse, symbol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each batch: rows done, rows in the file."""
    monkeypatch.setattr(recording, "BATCH_ROWS", 2)
    calls: list[tuple[int, int]] = []
    import_file(
        write_parquet(tmp_path, candles(symbol)),
        warehouse,
        ingested_at=NOW,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize("name", ["file.parquet", "file.csv"])
def test_empty_file_imports_nothing(
    warehouse: Warehouse, symbol: str, tmp_path: Path, name: str
) -> None:
    """No rows are not an error."""
    pq.write_table(pa.table(candles(symbol)).slice(0, 0), tmp_path / "file.parquet")
    (tmp_path / "file.csv").write_text(",".join(candles(symbol)) + "\n")
    summary = load(tmp_path / name, warehouse)
    assert (summary.rows, summary.written, summary.rejected) == (0, 0, 0)


def test_folders_are_searched_for_what_can_be_imported(tmp_path: Path) -> None:
    """At any depth, sorted; what is none of ours is listed, hidden files are not."""
    below = tmp_path / "futures" / "um" / "monthly"
    names = [
        *("a.parquet", "futures/b.csv", "futures/BTC_USDT_USDT-1h-futures.feather"),
        *("futures/um/monthly/BTCUSDT-1m-2023-07.zip", ".hidden.parquet", "notes.txt"),
        *("futures/um/monthly/BTCUSDT-1m-2023-07.zip.CHECKSUM", "config.json"),
        *("futures/um/monthly/BTCUSDT-aggTrades-2023-07.zip", "futures/BTC_USDT-1w.feather"),
    ]
    below.mkdir(parents=True)
    for name in names:
        (tmp_path / name).touch()
    found = find_files([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found.files] == [
        *("a.parquet", "futures/BTC_USDT_USDT-1h-futures.feather", "futures/b.csv"),
        "futures/um/monthly/BTCUSDT-1m-2023-07.zip",
    ]
    assert {path.name for path in found.skipped} == {
        *("notes.txt", "config.json", "BTCUSDT-aggTrades-2023-07.zip", "BTC_USDT-1w.feather")
    }


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded market data are not here")
def test_recorded_data_arrive_as_they_are(warehouse: Warehouse, tmp_path: Path) -> None:
    """Real bars and settlements of one symbol equal what pyarrow reads from the files."""
    recorded = [("symbol", "==", "SOL/USDT:USDT")]
    bars = pq.read_table(RECORDED / "bars_bybit_perp_1h.parquet", filters=recorded)
    due = pq.read_table(RECORDED / "funding_bybit.parquet", filters=recorded)
    for table in (bars, due):
        pq.write_table(table, tmp_path / "file.parquet")
        summary = import_file(tmp_path / "file.parquet", warehouse, ingested_at=NOW + 10**11)
        assert (summary.rows, summary.rejected) == (len(table), 0)
    times = bars["open_time"].to_numpy()
    first, end = int(times.min()), int(times.max()) + HOUR_MS
    panel = warehouse.load_panel(
        ["SOL/USDT:USDT"], venue="bybit", interval_ms=HOUR_MS, since=first, until=end
    )
    rows = (times - first) // HOUR_MS
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_array_equal(getattr(panel, name)[rows, 0], bars[name].to_numpy())
    assert int(panel.observed.sum()) == len(bars)
    settled = due["funding_time"].to_numpy() // 60_000 * 60_000
    within = (settled >= first) & (settled < end)
    assert np.nansum(panel.funding_rate) == pytest.approx(due["rate"].to_numpy()[within].sum())


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded market data are not here")
def test_every_recorded_file_is_recognised() -> None:
    """All of them can be imported, none is skipped, and no row is lost on the way."""
    found = find_files([RECORDED])
    checked = {path.name: check_file(path) for path in found.files}
    expected = {path: pq.read_metadata(path).num_rows for path in RECORDED.glob("*.parquet")}
    assert {name: file.rows for name, file in checked.items()} == {
        path.name: rows for path, rows in expected.items()
    }
    assert checked["mark_bybit_perp_1h.parquet"].kind is ImportKind.MARK_BARS
    assert checked["sentiment_fear_greed_1d.parquet"].kind is ImportKind.SIGNALS
    assert {path.name for path in found.skipped} <= {"README.md"}


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded market data are not here")
@pytest.mark.parametrize(
    ("symbol", "before", "hours"),
    [
        ("BTC/USDT", "2018-02-08T00", 33),  # the venue's maintenance
        ("BNB/USDT", "2023-12-30T19", 2932),  # the source has nothing until 2024-05-01
    ],
)
def test_real_gaps_are_kept(
    empty_warehouse: Warehouse, tmp_path: Path, symbol: str, before: str, hours: int
) -> None:
    """Hours that the recording lacks are not there afterwards either."""
    known = [("symbol", "==", symbol)]
    bars = pq.read_table(RECORDED / "bars_binance_spot_1h.parquet", filters=known)
    pq.write_table(bars, tmp_path / "file.parquet")
    import_file(tmp_path / "file.parquet", empty_warehouse, ingested_at=NOW + 10**11)
    times = empty_warehouse.bar_times(
        symbol, venue="binance", interval_ms=HOUR_MS, since=0, until=NOW + 10**11
    )
    moment = datetime.datetime.fromisoformat(f"{before}:00:00+00:00")
    last = int(np.searchsorted(times, int(moment.timestamp() * 1000)))
    assert int(times[last + 1] - times[last]) // HOUR_MS - 1 == hours


def test_a_refused_settlement_keeps_its_rate(
    warehouse: Warehouse, symbol: str, tmp_path: Path
) -> None:
    """Quarantine holds every column of the row, also those that a bar has not."""
    columns = funding(symbol, funding_time=[START, START], rate=[0.001, 0.002])
    summary = load(write_parquet(tmp_path, columns), warehouse)
    assert summary.rejected_by == {"conflicting_rows": 2}
    found = warehouse._connection.rows(
        "SELECT content FROM quarantine FINAL WHERE symbol = {symbol:String}", {"symbol": symbol}
    )
    assert sorted(json.loads(content)["rate"] for (content,) in found) == [0.001, 0.002]


def test_each_batch_of_signals_has_a_stamp_of_its_own(
    empty_warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long file is stored piece by piece: a decision in between must not accept later pieces."""
    monkeypatch.setattr(recording, "BATCH_ROWS", 1)
    columns: dict[str, list[Any]] = {
        name: [name] * 2 for name in ("source", "version", "symbol", "name")
    }
    columns |= {name: [START, START + 1] for name in ("event_time", "published_at")}
    stamps = iter([NOW + 5, NOW + 9])
    import_checked(
        check_file(write_parquet(tmp_path, columns | {"value": [1.0, 2.0]})),
        empty_warehouse,
        ingested_at=NOW,
        signals_stamp=lambda: next(stamps),
    )
    found = empty_warehouse.signals(since=START, until=START + 2)
    assert [row.ingested_at for row in found] == [NOW + 5, NOW + 9]
