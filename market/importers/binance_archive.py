"""Reads the zips of Binance's public data: klines, mark-price klines and funding rates.

Source: https://github.com/binance/binance-public-data. Futures archives start with a header, older
ones and spot do not; spot archives since 2025 count time in microseconds.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from market.bar import MarkSource, interval_ms
from market.importers.names import NamedFile, read_binance_name
from market.importers.recording import (
    CANDLES,
    PRICES,
    SETTLEMENTS,
    ImportHints,
    ImportKind,
    ImportRejected,
    Recording,
    agreed,
    venue_of,
)
from market.importers.stored import faults_named, known

_KLINE_COLUMNS = (
    *("open_time", *PRICES, "volume", "close_time", "quote_volume", "count"),
    *("taker_buy_volume", "taker_buy_quote_volume", "ignore"),
)
_FUNDING_COLUMNS = ("calc_time", "funding_interval_hours", "last_funding_rate")
_INTEGERS = ("open_time", "close_time", "calc_time", "funding_interval_hours")
# A month of one-minute bars is 6 MB; what is beyond this is no such archive.
LARGEST_MEMBER_BYTES = 1 << 29
_MICROSECONDS_FROM = 10**14


def open_archive(path: Path, hints: ImportHints) -> Recording:
    """Open one archive by its documented name (``market.importers.names``).

    Raises:
        ImportRejected: the name has another form or does not tell the market, the interval is not
            one of ours, the zip is damaged, or its content has other columns.
    """
    named = read_binance_name(path, hints)
    venue = venue_of(path, named.exchange, named.symbol, hints).value
    kind = named.kind or hints.kind
    if named.kind is not None and hints.kind is not None:
        agreed(path, "kind", named.kind.value, hints.kind.value)
    interval = 0
    if named.interval is not None:
        agreed(path, "interval", named.interval, hints.interval)
        try:
            interval = interval_ms(named.interval)
        except ValueError as error:
            raise ImportRejected(path, str(error)) from error

    def read() -> Iterator[pa.Table]:
        rows = _rows(path, _KLINE_COLUMNS if named.interval else _FUNDING_COLUMNS)
        if named.interval is None:
            yield _settlements(rows, named, venue)
        else:
            _check_traded(path, rows, kind)
            yield _candles(rows, named, venue, interval, kind)

    return Recording(path=path, kind=kind or ImportKind.BARS, read=read)


def _rows(path: Path, columns: tuple[str, ...]) -> pa.Table:
    content = _content(path)
    header = not content[:1].isdigit()
    if header:
        first = content.split(b"\n", 1)[0].decode("utf-8", "replace").strip()
        if first and tuple(first.split(",")) != columns:
            raise ImportRejected(path, f"its header is {first!r}; expected {','.join(columns)!r}")
    if not content.strip():
        raise ImportRejected(path, "its file is empty")
    with faults_named(path, f"damaged; expected {len(columns)} columns", columns):
        return pa_csv.read_csv(
            pa.BufferReader(content),
            read_options=pa_csv.ReadOptions(column_names=list(columns), skip_rows=int(header)),
            convert_options=pa_csv.ConvertOptions(
                column_types={
                    name: pa.int64() if name in _INTEGERS else pa.float64() for name in columns
                }
            ),
        )


def _content(path: Path) -> bytes:
    """The archive's only file; reading it checks its CRC."""
    _verify_checksum(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) != 1 or not members[0].filename.endswith(".csv"):
                names = ", ".join(member.filename for member in members[:3]) or "nothing"
                raise ImportRejected(path, f"it holds {names}; expected one .csv file")
            if members[0].file_size > LARGEST_MEMBER_BYTES:
                raise ImportRejected(
                    path, f"{members[0].filename} is larger than any month of bars"
                )
            return archive.read(members[0])
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
        raise ImportRejected(path, f"not a readable zip file ({error})") from error


def _verify_checksum(path: Path) -> None:
    """Compare with ``NAME.zip.CHECKSUM`` where it lies beside the archive."""
    beside = path.with_name(f"{path.name}.CHECKSUM")
    if not beside.is_file():
        return
    words = beside.read_text(encoding="utf-8", errors="replace").split()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not words or words[0].lower() != digest:
        raise ImportRejected(path, f"damaged: its SHA-256 is not the one in {beside.name}")


def _check_traded(path: Path, rows: pa.Table, kind: ImportKind | None) -> None:
    """Mark and index candles have the name of bars, but no volume where bars would have one."""
    traded = pc.sum(rows["volume"]).as_py() or 0
    counted = pc.sum(rows["count"]).as_py() or 0
    if kind is None and counted and not traded:
        raise ImportRejected(
            path,
            "its rows have no volume, as mark, index and premium candles do, and neither name nor "
            "folders tell which; if they are mark candles, say it with --kind mark_bars",
        )
    if kind is ImportKind.MARK_BARS and traded:
        raise ImportRejected(path, "the column volume is not 0; mark candles have none")


def _candles(
    rows: pa.Table, named: NamedFile, venue: str, interval: int, kind: ImportKind | None
) -> pa.Table:
    size = len(rows)
    traded = {
        "volume": rows["volume"],
        "quote_volume": known(rows["quote_volume"]),
        "trades": known(rows["count"]),
        "taker_buy_volume": known(rows["taker_buy_volume"]),
        "taker_buy_quote_volume": known(rows["taker_buy_quote_volume"]),
    }
    if kind is ImportKind.MARK_BARS:
        traded = {name: pa.nulls(size, CANDLES.field(name).type) for name in traded}
    columns = {
        "venue": pa.repeat(venue, size),
        "interval_ms": pa.repeat(pa.scalar(interval, pa.int64()), size),
        "symbol": pa.repeat(named.symbol, size),
        "open_time": _milliseconds(rows["open_time"]),
        **{name: rows[name] for name in PRICES},
        **traded,
    }
    return pa.table(columns).select(CANDLES.names).cast(CANDLES)


def _settlements(rows: pa.Table, named: NamedFile, venue: str) -> pa.Table:
    size = len(rows)
    columns = {
        "venue": pa.repeat(venue, size),
        "symbol": pa.repeat(named.symbol, size),
        "funding_time": _milliseconds(rows["calc_time"]),
        "rate": rows["last_funding_rate"],
        "mark_price": pa.nulls(size, pa.float64()),
        "mark_source": pa.repeat(MarkSource.UNKNOWN.value, size),
    }
    return pa.table(columns).select(SETTLEMENTS.names).cast(SETTLEMENTS)


def _milliseconds(times: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.greater_equal(times, _MICROSECONDS_FROM), pc.divide(times, 1000), times)
