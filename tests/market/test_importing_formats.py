"""Importing Binance's public-data zips, freqtrade's files, and files of signals."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import hashlib
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as pa_feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.bar import HOUR_MS, MarkSource
from market.importing import ImportHints, ImportKind, ImportRejected, check_file
from market.instrument import Market, Venue
from market.signals import Signal
from market.warehouse import Warehouse
from tests.market.recorded_files import (
    NOW,
    START,
    VENUE,
    candles,
    closes,
    load,
    write_csv,
    write_parquet,
)

Row = Sequence[object]
FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures"
KLINE_HEADER = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
    "taker_buy_quote_volume,ignore"
)
FUNDING_HEADER = "calc_time,funding_interval_hours,last_funding_rate"
SIGNAL_HEADER = "source,version,symbol,event_time,published_at,name,value"


@pytest.fixture
def base(venue_name: str) -> str:
    """A base asset that no other test uses."""
    return venue_name.replace("_", "").upper()


def klines(*, unit: int = 1, volume: float = 2.0, count: int = 7) -> list[Row]:
    """Three hourly klines; ``unit`` 1000 counts time in microseconds."""
    opened = [(START + hour * HOUR_MS) * unit for hour in range(3)]
    return [
        (t, 10, 20, 5, 11 + i, volume, t + HOUR_MS * unit - 1, volume * 12, count, 1, 12, 0)
        for i, t in enumerate(opened)
    ]


def write_zip(path: Path, rows: Sequence[Row], header: str | None = None) -> Path:
    """An archive with one CSV file of its name."""
    lines = [] if header is None else [header]
    lines += [",".join(map(str, row)) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{path.stem}.csv", "\n".join(lines) + "\n")
    return path


def write_feather(path: Path, rows: Sequence[Row], unit: str = "ms") -> Path:
    """A file as freqtrade writes it: (milliseconds, open, high, low, close, volume)."""
    names = ("date", "open", "high", "low", "close", "volume")
    columns: dict[str, Any] = dict(zip(names, zip(*rows, strict=True), strict=True))
    times = pa.array(columns["date"], pa.timestamp("ms", "UTC"))
    columns["date"] = times.cast(pa.timestamp(unit, "UTC"))
    path.parent.mkdir(parents=True, exist_ok=True)
    pa_feather.write_feather(pa.table(columns), str(path), compression="lz4")
    return path


def ohlcv(volume: float = 2.0) -> list[Row]:
    """Three hourly candles."""
    return [(START + hour * HOUR_MS, 10.0, 20.0, 5.0, 11.0 + hour, volume) for hour in range(3)]


def settled(warehouse: Warehouse, symbol: str) -> list[tuple[int, float, MarkSource]]:
    """The stored settlements of ``symbol``."""
    found = warehouse.settlements(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=START, until=NOW
    )
    return [(item.funding_time, item.rate, item.mark_source) for item in found]


@pytest.mark.parametrize("header", [None, KLINE_HEADER])
@pytest.mark.parametrize("stamp", ["2023-11", "2023-11-14"])
def test_binance_klines_of_perpetuals(
    warehouse: Warehouse, base: str, tmp_path: Path, header: str | None, stamp: str
) -> None:
    """Monthly or daily, with a header or without: every field is kept; again adds nothing."""
    folder = tmp_path / f"futures/um/monthly/klines/{base}USDT/1h"
    path = write_zip(folder / f"{base}USDT-1h-{stamp}.zip", klines(), header)
    first, again = load(path, warehouse), load(path, warehouse)
    assert (first.kind, first.written, again.written) == (ImportKind.BARS, 3, 0)
    symbol = f"{base}/USDT:USDT"
    panel = warehouse.load_panel(
        [symbol], venue=VENUE, interval_ms=HOUR_MS, since=START, until=START + 3 * HOUR_MS
    )
    assert panel.close[:, 0].tolist() == [11.0, 12.0, 13.0]
    assert panel.quote_volume[:, 0].tolist() == [24.0] * 3
    assert panel.trades[:, 0].tolist() == [7.0] * 3
    assert panel.taker_buy_volume[:, 0].tolist() == [1.0] * 3


@pytest.mark.parametrize("unit", [1, 1000])
def test_binance_spot_times_may_be_microseconds(
    warehouse: Warehouse, base: str, tmp_path: Path, unit: int
) -> None:
    """Spot archives since 2025 count in microseconds; spot bars go to the spot venue."""
    path = tmp_path / f"spot/daily/klines/{base}USDT/1h/{base}USDT-1h-2023-11-14.zip"
    load(write_zip(path, klines(unit=unit)), warehouse)
    assert closes(warehouse, f"{base}/USDT", venue="binance")[:3] == [11.0, 12.0, 13.0]


def test_binance_mark_klines_are_mark_bars(warehouse: Warehouse, base: str, tmp_path: Path) -> None:
    """Their folder, or the option, tells what their name does not."""
    rows = klines(volume=0, count=3600)
    name = f"{base}USDT-1h-2023-11.zip"
    told = write_zip(tmp_path / "futures/um/monthly/markPriceKlines" / name, rows)
    bare = write_zip(tmp_path / name, rows)
    assert load(told, warehouse).written == 3
    hints = {"market": Market.PERP, "kind": ImportKind.MARK_BARS}
    assert load(bare, warehouse, **hints).unchanged == 3
    times = warehouse.mark_bar_times(
        f"{base}/USDT:USDT", venue=VENUE, interval_ms=HOUR_MS, since=START, until=NOW
    )
    assert times.tolist() == [START, START + HOUR_MS, START + 2 * HOUR_MS]
    assert np.isnan(closes(warehouse, f"{base}/USDT:USDT")).all()


def test_binance_funding_rates_keep_their_jitter_and_have_no_mark(
    warehouse: Warehouse, base: str, tmp_path: Path
) -> None:
    """The archive gives no mark price, so it is unknown until a candle tells it."""
    rows = [(START + 12, 8, 0.0001), (START + 8 * HOUR_MS, 8, -0.0003)]
    path = write_zip(tmp_path / f"{base}USDT-fundingRate-2023-11.zip", rows, FUNDING_HEADER)
    assert load(path, warehouse).kind is ImportKind.SETTLEMENTS
    unknown = MarkSource.UNKNOWN
    assert settled(warehouse, f"{base}/USDT:USDT") == [
        (START + 12, 0.0001, unknown),
        (START + 8 * HOUR_MS, -0.0003, unknown),
    ]
    assert load(path, warehouse).written == 0


@pytest.mark.parametrize(
    ("name", "hints", "symbol"),
    [
        ("BTCUSDT", {"market": Market.PERP}, "BTC/USDT:USDT"),
        ("1000SHIBUSDT", {"exchange": Venue.BINANCEUSDM}, "1000SHIB/USDT:USDT"),
        ("ETHBTC", {"exchange": Venue.BINANCE}, "ETH/BTC"),
        ("BTCFDUSD", {"market": Market.SPOT}, "BTC/FDUSD"),
        ("BTCUSDC", {"market": Market.PERP}, "BTC/USDC:USDC"),
        ("XYZQQQ", {"symbol": "XYZ/QQQ"}, "XYZ/QQQ"),
    ],
)
def test_binance_names_become_unified_symbols(
    tmp_path: Path, name: str, hints: dict[str, Any], symbol: str
) -> None:
    """The quote is the longest known ending; an option helps with others."""
    path = write_zip(tmp_path / f"{name}-1h-2023-11.zip", klines())
    rows = next(check_file(path, ImportHints(**hints)).recording.read())
    assert set(rows["symbol"].to_pylist()) == {symbol}


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("BTCUSDT-1h-2023-11.zip", "neither its name nor its folders tell the market"),
        ("BTCUSDT-aggTrades-2023-11.zip", "unknown form of file name; expected SYMBOL-INTERVAL"),
        ("futures/um/daily/klines/BTCUSDT_231229-1h-2023-11.zip", "unknown form of symbol BTCU"),
        ("futures/um/daily/klines/XYZQQQ-1h-2023-11.zip", "unknown form of symbol XYZQQQ"),
        ("futures/um/daily/klines/BTCUSDT-1w-2023-11.zip", "interval '1w' is not"),
        ("futures/um/daily/klines/BTCUSDT-5m-2023-11.zip", None),
        ("futures/um/daily/indexPriceKlines/BTCUSDT-1h-2023-11.zip", "says indexPriceKlines"),
        ("futures/cm/daily/klines/BTCUSD_PERP-1h-2023-11.zip", "its folder says futures/cm"),
        ("futures/um/daily/markPriceKlines/BTCUSDT-1h-2023-11.zip", "the column volume is not 0"),
    ],
)
def test_binance_names_that_do_not_tell_are_rejected(
    tmp_path: Path, name: str, cause: str | None
) -> None:
    """The error says what was expected; three rows are too few to tell a wrong interval."""
    path = write_zip(tmp_path / name, klines())
    if cause is None:
        check_file(path)
        return
    with pytest.raises(ImportRejected, match=cause):
        check_file(path)


def test_klines_without_volume_need_their_kind_told(tmp_path: Path) -> None:
    """Mark, index and premium candles look alike."""
    path = write_zip(tmp_path / "BTCUSDT-1h-2023-11.zip", klines(volume=0, count=60))
    with pytest.raises(ImportRejected, match="say it with --kind mark_bars"):
        check_file(path, ImportHints(market=Market.PERP))


@pytest.mark.parametrize(
    ("rows", "header", "cause"),
    [
        (klines(), KLINE_HEADER.replace("close_time", "time"), "expected 'open_time,open,high"),
        ([row[:6] for row in klines()], None, "expected 12 columns .*got 6"),
        ([("1699999200000", *["x"] * 11)], None, "the column open: .*'x'"),
        ([], None, "its file is empty"),
    ],
)
def test_archive_with_other_content_is_rejected(
    tmp_path: Path, rows: Sequence[Row], header: str | None, cause: str
) -> None:
    """The error names the column, or what the columns should be."""
    path = write_zip(tmp_path / "BTCUSDT-1h-2023-11.zip", rows, header)
    with pytest.raises(ImportRejected, match=cause):
        check_file(path, ImportHints(market=Market.PERP))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "checksum"])
def test_damaged_archive_is_rejected(tmp_path: Path, damage: str) -> None:
    """Cut short, a flipped byte, or another file than the published checksum says."""
    path = write_zip(tmp_path / "BTCUSDT-fundingRate-2023-11.zip", [(START, 8, 0.0001)])
    content = path.read_bytes()
    beside = path.with_name(f"{path.name}.CHECKSUM")
    beside.write_text(f"{hashlib.sha256(content).hexdigest()}  {path.name}\n")
    assert check_file(path).rows == 1
    damaged = {
        "cut": content[: len(content) // 2],
        "flipped": content[:70] + bytes([content[70] ^ 1]) + content[71:],
        "empty": b"",
        "checksum": content + b"",
    }[damage]
    path.write_bytes(damaged)
    if damage == "checksum":
        beside.write_text(f"{'0' * 64}  {path.name}\n")
    else:
        beside.unlink()
    with pytest.raises(ImportRejected, match="not a readable zip file|damaged"):
        check_file(path)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_freqtrade_futures_candles(
    warehouse: Warehouse, base: str, tmp_path: Path, unit: str
) -> None:
    """The folder tells the exchange, the name the rest."""
    name = f"{base}_USDT_USDT-1h-futures.feather"
    path = write_feather(tmp_path / "binance" / "futures" / name, ohlcv(), unit)
    first, again = load(path, warehouse), load(path, warehouse)
    assert (first.kind, first.written, again.written) == (ImportKind.BARS, 3, 0)
    assert closes(warehouse, f"{base}/USDT:USDT")[:3] == [11.0, 12.0, 13.0]


def test_freqtrade_spot_candles_go_to_the_spot_venue(
    warehouse: Warehouse, base: str, tmp_path: Path
) -> None:
    """No suffix means spot."""
    path = write_feather(tmp_path / "bybit" / f"{base}_USDT-1h.feather", ohlcv())
    assert load(path, warehouse).written == 3
    assert closes(warehouse, f"{base}/USDT", venue="bybitspot")[:3] == [11.0, 12.0, 13.0]


def test_freqtrade_mark_and_funding(warehouse: Warehouse, base: str, tmp_path: Path) -> None:
    """A funding file has the rate in open and zeros elsewhere."""
    folder, symbol = tmp_path / "binance" / "futures", f"{base}/USDT:USDT"
    mark = write_feather(folder / f"{base}_USDT_USDT-1h-mark.feather", ohlcv(0.0))
    rates: list[Row] = [(START, 0.0001, 0.0, 0.0, 0.0, 0.0)]
    rate = write_feather(folder / f"{base}_USDT_USDT-8h-funding_rate.feather", rates)
    kinds = [load(path, warehouse).kind for path in (mark, rate)]
    assert kinds == [ImportKind.MARK_BARS, ImportKind.SETTLEMENTS]
    # The mark candle that opens at the settlement gives its price.
    assert settled(warehouse, symbol) == [(START, 0.0001, MarkSource.MARK_CANDLE)]


@pytest.mark.parametrize("ending", ["json", "json.gz"])
def test_freqtrade_json(warehouse: Warehouse, base: str, tmp_path: Path, ending: str) -> None:
    """Its older form: one list of lists."""
    content = json.dumps(ohlcv()).encode()
    path = tmp_path / f"{base}_USDT_USDT-1h-futures.{ending}"
    path.write_bytes(gzip.compress(content) if ending == "json.gz" else content)
    assert load(path, warehouse, exchange=Venue.BINANCEUSDM).written == 3
    assert closes(warehouse, f"{base}/USDT:USDT")[:3] == [11.0, 12.0, 13.0]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("BTC_USDT_USDT-1h-futures.feather", "nothing in it tells its exchange"),
        ("binance/BTC_USDT_USDT-1h-index.feather", "unknown form of file name"),
        ("binance/BTC_USDT-1h-futures.feather", "unknown form of symbol BTC_USDT"),
        ("binance/BTC_USD_BTC-1h-futures.feather", "unknown form of symbol BTC_USD_BTC"),
        ("binance/BTC_USDT-1Mo.feather", "interval '1Mo'"),
    ],
)
def test_freqtrade_names_that_do_not_tell_are_rejected(
    tmp_path: Path, name: str, cause: str
) -> None:
    """The error says what was expected."""
    with pytest.raises(ImportRejected, match=cause):
        check_file(write_feather(tmp_path / name, ohlcv()))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"[[1,2],[3,4]]", "its rows are not lists of date, open"),
        (b"[[1,2,", "not a readable list of candles"),
        (b'{"a": 1}', "not a readable list of candles"),
    ],
)
def test_freqtrade_json_of_another_shape_is_rejected(
    tmp_path: Path, content: bytes, cause: str
) -> None:
    """Damage and other documents are told apart from candles."""
    path = tmp_path / "BTC_USDT_USDT-1h-futures.json"
    path.write_bytes(content)
    with pytest.raises(ImportRejected, match=cause):
        check_file(path, ImportHints(exchange=Venue.BINANCE))


def test_freqtrade_feather_without_its_columns_is_rejected(tmp_path: Path) -> None:
    """Missing columns are named, and so is a file that is no Feather at all."""
    path = tmp_path / "BTC_USDT_USDT-1h-futures.feather"
    hints = ImportHints(exchange=Venue.BINANCE)
    pa_feather.write_feather(pa.table({"date": [1], "open": [1.0]}), str(path))
    with pytest.raises(ImportRejected, match="the columns high, low, close, volume of candles"):
        check_file(path, hints)
    path.write_bytes(b"nothing")
    with pytest.raises(ImportRejected, match="not a readable Feather file"):
        check_file(path, hints)


@given(
    st.sampled_from(["zip", "feather", "json", "csv", "parquet"]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3),
    st.floats(0, 1),
)
def test_a_damaged_file_is_read_or_rejected(
    ending: str, flips: list[tuple[float, int]], kept: float
) -> None:
    """Changed bytes and a cut end never become another kind of error."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "binance" / "futures"
        path = folder / f"BTC_USDT_USDT-1h-futures.{ending}"
        write_feather(folder / "BTC_USDT_USDT-1h-futures.feather", ohlcv())
        if ending == "zip":
            path = write_zip(folder / "BTCUSDT-fundingRate-2023-11.zip", [(START, 8, 0.1)])
        elif ending == "csv":
            write_csv(folder, candles("A/B:B")).rename(path)
        elif ending == "parquet":
            write_parquet(folder, candles("A/B:B")).rename(path)
        elif ending == "json":
            path.write_text(json.dumps(ohlcv()))
        content = bytearray(path.read_bytes())
        for place, byte in flips:
            content[int(place * (len(content) - 1))] = byte
        path.write_bytes(content[: int(kept * len(content))])
        with contextlib.suppress(ImportRejected):
            assert check_file(path).rows <= 5


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the recorded fixtures are not here")
def test_real_freqtrade_file(tmp_path: Path) -> None:
    """A file that freqtrade wrote: hourly candles without a repeated row."""
    source = FIXTURES / "binance_usdm" / "freqtrade_XRP_USDT_USDT-1h-futures.json.gz"
    path = tmp_path / "XRP_USDT_USDT-1h-futures.json.gz"
    path.write_bytes(source.read_bytes())
    checked = check_file(path, ImportHints(exchange=Venue.BINANCE))
    rows = json.loads(gzip.decompress(source.read_bytes()))
    assert (checked.rows, checked.interval_ms, checked.repeated) == (len(rows), HOUR_MS, {})


def write_signals(path: Path, *lines: str, header: str = SIGNAL_HEADER) -> Path:
    """A CSV file of signals."""
    path.write_text("\n".join((header, *lines)) + "\n")
    return path


def stored_signals(warehouse: Warehouse, source: str) -> tuple[Signal, ...]:
    """All signals of ``source``."""
    return warehouse.signals(sources=[source], since=0, until=NOW)


def test_signals_are_back_filled_with_their_lag(
    warehouse: Warehouse, venue_name: str, tmp_path: Path
) -> None:
    """They count from their publication and the declared lag, whenever they were imported."""
    path = write_signals(
        tmp_path / "signals.csv",
        f"{venue_name},1,BTC/USDT:USDT,{START},{START + 1000},sentiment,0.25,60",
        f"{venue_name},1,,2023-11-14T23:00:00Z,2023-11-14T23:00:01Z,sentiment,-1,",
        header=f"{SIGNAL_HEADER},lag_seconds",
    )
    # Both times are numbers in one row and ISO in the other: a column has one form.
    with pytest.raises(ImportRejected, match="event_time"):
        load(path, warehouse)
    write_signals(
        path,
        f"{venue_name},1,BTC/USDT:USDT,{START},{START + 1000},sentiment,0.25,60",
        f"{venue_name},1,,{START + HOUR_MS},{START + HOUR_MS},sentiment,-1,",
        header=f"{SIGNAL_HEADER},lag_seconds",
    )
    first, again = load(path, warehouse), load(path, warehouse)
    assert (first.kind, first.written, again.written) == (ImportKind.SIGNALS, 2, 0)
    one, other = stored_signals(warehouse, venue_name)
    assert (one.symbol, one.value, one.lag_ms) == ("BTC/USDT:USDT", 0.25, 60_000)
    assert (one.event_time, one.published_at) == (START, START + 1000)
    assert (other.symbol, other.value, other.lag_ms) == ("", -1.0, 0)
    assert one.is_backfilled
    assert one.available_at == START + 61_000
    assert one.ingested_at == NOW


def test_signals_in_parquet_may_have_timestamps(
    warehouse: Warehouse, venue_name: str, tmp_path: Path
) -> None:
    """A timestamp column is as good as milliseconds."""
    moment = datetime.datetime.fromtimestamp(START / 1000, datetime.UTC)
    columns = {
        "source": [venue_name],
        "version": ["2"],
        "symbol": [""],
        "event_time": [moment],
        "published_at": [moment],
        "name": ["x"],
        "value": [3],
    }
    pq.write_table(pa.table(columns), tmp_path / "signals.parquet")
    assert load(tmp_path / "signals.parquet", warehouse).written == 1
    (stored,) = stored_signals(warehouse, venue_name)
    assert (stored.event_time, stored.value, stored.version) == (START, 3.0, "2")


def test_bad_signals_are_counted_by_reason(
    warehouse: Warehouse, venue_name: str, tmp_path: Path
) -> None:
    """An empty value, a time in seconds and a publication before the event leave others alone."""
    path = write_signals(
        tmp_path / "signals.csv",
        f"{venue_name},1,,{START},{START},x,1",
        f"{venue_name},1,,{START},{START},y,",
        f"{venue_name},1,,{START // 1000},{START // 1000},x,1",
        f"{venue_name},1,,{START},{START - 1},x,1",
    )
    summary = load(path, warehouse)
    assert (summary.written, summary.unchanged) == (1, 0)
    assert summary.rejected_by == {
        "bad_time": 1,
        "not_a_number": 1,
        "published_before_event": 1,
    }


@pytest.mark.parametrize(
    ("header", "cause"),
    [
        (SIGNAL_HEADER.replace(",version", ""), "the columns version of signals are missing"),
        (f"{SIGNAL_HEADER},colour", "unknown column colour; signals have source, version"),
        ("open_time,open", "the columns source, version, .* of signals are missing"),
    ],
)
def test_signals_have_a_strict_schema(tmp_path: Path, header: str, cause: str) -> None:
    """A file that is said to hold signals has their columns and no others."""
    path = write_signals(tmp_path / "signals.csv", header=header)
    with pytest.raises(ImportRejected, match=cause):
        check_file(path, ImportHints(kind=ImportKind.SIGNALS))


def test_recorded_fear_and_greed_index_is_the_built_in_signal(
    empty_warehouse: Warehouse, tmp_path: Path
) -> None:
    """One value a day becomes what the built-in producer would have back-filled."""
    table = pa.table(
        {"source": ["alternative.me"], "time": [START], "value": pa.array([30], pa.int16())}
    )
    pq.write_table(table, tmp_path / "fear_greed.parquet")
    assert load(tmp_path / "fear_greed.parquet", empty_warehouse).written == 1
    (stored,) = stored_signals(empty_warehouse, "crypto_fear_greed")
    assert (stored.version, stored.name, stored.symbol, stored.value) == ("1", "value", "", 30.0)
    assert (stored.event_time, stored.available_at) == (START, START + HOUR_MS)


def test_index_of_another_publisher_is_rejected(tmp_path: Path) -> None:
    """Three columns alone do not make it that index."""
    table = pa.table({"source": ["somebody"], "time": [START], "value": [30]})
    pq.write_table(table, tmp_path / "index.parquet")
    with pytest.raises(ImportRejected, match="the column source says somebody"):
        check_file(tmp_path / "index.parquet")
