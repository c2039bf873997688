"""What the documented file names of Binance's public data and of freqtrade say. Reads no file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from market.importers.recording import ImportHints, ImportKind, ImportRejected, agreed, market_of
from market.instrument import Market

_BINANCE = re.compile(
    r"(?P<id>[A-Z0-9_]+)-(?P<what>\d+[a-z]{1,2}|fundingRate)-\d{4}-\d{2}(?:-\d{2})?\.zip"
)
_BINANCE_FOLDER = re.compile(
    r"(?:^|/)(spot|futures/um|futures/cm|option)/(?:daily|monthly)/(\w+)(?:/|$)"
)
_BINANCE_KINDS = {
    "klines": ImportKind.BARS,
    "markPriceKlines": ImportKind.MARK_BARS,
    "fundingRate": ImportKind.SETTLEMENTS,
}
_QUOTES = (
    *("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USDP", "USDS", "USD1", "BIDR", "IDRT", "BKRW"),
    *("BVND", "AEUR", "EURI", "DAI", "PAX", "UST", "VAI", "USD", "EUR", "TRY", "BRL", "GBP"),
    *("AUD", "RUB", "UAH", "NGN", "ZAR", "PLN", "RON", "ARS", "JPY", "MXN", "CZK", "COP", "IDR"),
    *("BTC", "ETH", "BNB", "XRP", "TRX", "DOGE", "SOL"),
)
# Bases that are beyond doubt: BNBUSD is not BN against BUSD, nor DOTUSD DO against TUSD.
_BASES = frozenset((*_QUOTES, "ADA", "AVAX", "BCH", "DOT", "LINK", "LTC", "SHIB"))
_FREQTRADE = re.compile(
    r"(?P<pair>[A-Za-z0-9]+(?:_[A-Za-z0-9]+)+)-(?P<timeframe>\d+[A-Za-z]{1,2})"
    r"(?:-(?P<candle>[A-Za-z_]+))?\.(?:feather|json|json\.gz)"
)
_FREQTRADE_KINDS = {
    None: ImportKind.BARS,
    "futures": ImportKind.BARS,
    "mark": ImportKind.MARK_BARS,
    "funding_rate": ImportKind.SETTLEMENTS,
}
_FREQTRADE_EXCHANGES = ("binance", "binanceusdm", "bybit")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """What a file's name and folders tell.

    Attributes:
        exchange: ``binance`` or ``bybit``, or ``None`` if they do not say.
        symbol: unified.
        interval: such as ``1h``; ``None`` for settlements.
        kind: ``None`` where bars and mark candles have the same name.
    """

    exchange: str | None
    symbol: str
    interval: str | None
    kind: ImportKind | None


def is_binance_name(name: str) -> bool:
    """Whether ``name`` is that of an archive that can be imported."""
    return _BINANCE.fullmatch(name) is not None


def is_freqtrade_name(name: str) -> bool:
    """Whether ``name`` is that of freqtrade's candles of a kind that can be imported."""
    match = _FREQTRADE.fullmatch(name)
    return match is not None and match["candle"] in _FREQTRADE_KINDS


def named_interval(name: str) -> str | None:
    """The interval of the bars in an archive or a freqtrade file; ``None`` if it holds none."""
    binance, freqtrade = _BINANCE.fullmatch(name), _FREQTRADE.fullmatch(name)
    if binance is not None:
        return None if binance["what"] == "fundingRate" else binance["what"]
    if freqtrade is not None and freqtrade["candle"] != "funding_rate":
        return freqtrade["timeframe"]
    return None


def read_binance_name(path: Path, hints: ImportHints) -> NamedFile:
    """Read ``BTCUSDT-1m-2023-07[-01].zip`` or ``BTCUSDT-fundingRate-2023-07.zip``.

    The folders that Binance uses (``data/futures/um/monthly/klines/…``) tell the market and the
    kind, which the name does not; without them ``hints`` must tell the market.

    Raises:
        ImportRejected: the name has another form, or the market is not told.
    """
    match = _BINANCE.fullmatch(path.name)
    if match is None:
        raise ImportRejected(
            path,
            "unknown form of file name; expected SYMBOL-INTERVAL-YYYY-MM[-DD].zip or "
            "SYMBOL-fundingRate-YYYY-MM.zip, as Binance publishes them",
        )
    funding = match["what"] == "fundingRate"
    market, kind = _binance_folder(path)
    if funding:
        market, kind = Market.PERP, ImportKind.SETTLEMENTS
    return NamedFile(
        exchange="binance",
        symbol=_symbol(path, match["id"], market or _told_market(path, hints), hints.symbol),
        interval=None if funding else match["what"],
        kind=kind,
    )


def read_freqtrade_name(path: Path, hints: ImportHints) -> NamedFile:
    """Read ``BTC_USDT_USDT-1h-futures.feather`` (``-mark``, ``-funding_rate``; spot has none).

    The folder (``binance`` or ``binance/futures``) tells the exchange.

    Raises:
        ImportRejected: the name has another form, or the option contradicts it.
    """
    match = _FREQTRADE.fullmatch(path.name)
    if match is None or match["candle"] not in _FREQTRADE_KINDS:
        raise ImportRejected(
            path,
            "unknown form of file name; expected BASE_QUOTE-INTERVAL (spot) or "
            "BASE_QUOTE_QUOTE-INTERVAL-futures, -mark or -funding_rate, as freqtrade names them",
        )
    parts = match["pair"].split("_")
    perp = match["candle"] is not None
    if len(parts) != (3 if perp else 2) or (perp and parts[1] != parts[2]):
        form = "BASE_QUOTE_QUOTE (linear perpetuals)" if perp else "BASE_QUOTE (spot)"
        raise ImportRejected(
            path, f"unknown form of symbol {match['pair']} in its name; expected {form}"
        )
    symbol = f"{parts[0]}/{parts[1]}" + (f":{parts[2]}" if perp else "")
    kind = _FREQTRADE_KINDS[match["candle"]]
    folder = path.absolute().parent
    exchange = folder.parent.name if folder.name == "futures" else folder.name
    return NamedFile(
        exchange=exchange if exchange in _FREQTRADE_EXCHANGES else None,
        symbol=agreed(path, "symbol", symbol, hints.symbol),
        interval=None if kind is ImportKind.SETTLEMENTS else match["timeframe"],
        kind=kind,
    )


def _binance_folder(path: Path) -> tuple[Market | None, ImportKind | None]:
    found = _BINANCE_FOLDER.search(path.absolute().parent.as_posix())
    if found is None:
        return None, None
    if found[1] not in ("spot", "futures/um"):
        raise ImportRejected(
            path, f"its folder says {found[1]}; only spot and futures/um can be imported"
        )
    kind = _BINANCE_KINDS.get(found[2])
    if kind is None:
        raise ImportRejected(
            path,
            f"its folder says {found[2]}; only {', '.join(_BINANCE_KINDS)} can be imported",
        )
    return (Market.SPOT if found[1] == "spot" else Market.PERP), kind


def _told_market(path: Path, hints: ImportHints) -> Market:
    exchange = hints.exchange
    implied = exchange.market if exchange and exchange.value.startswith("binance") else None
    if hints.symbol is not None:
        implied = market_of(path, hints.symbol)
    market = hints.market or implied
    if market is None:
        raise ImportRejected(
            path,
            "neither its name nor its folders tell the market; keep Binance's folders "
            "(futures/um/monthly/klines/…), or say it with --market perp or --market spot",
        )
    return market


def _symbol(path: Path, venue_symbol: str, market: Market, hint: str | None) -> str:
    """The option where the name can be read as it says, else the likeliest reading of the name."""
    if hint is None:
        symbol = _unified(venue_symbol, market)
        if symbol is None:
            raise ImportRejected(
                path,
                f"unknown form of symbol {venue_symbol} in its name; expected base and quote such "
                "as BTCUSDT, or say it with --symbol",
            )
        return symbol
    pair = hint.split(":")[0]
    if market_of(path, hint) is market and pair.replace("/", "") == venue_symbol:
        return hint
    return agreed(path, "symbol", _unified(venue_symbol, market) or venue_symbol, hint)


def _unified(venue_symbol: str, market: Market) -> str | None:
    """The reading with the longest known base, else the one with the longest known quote."""
    quotes = [quote for quote in _QUOTES if venue_symbol.endswith(quote)]
    readings = [(venue_symbol.removesuffix(quote), quote) for quote in quotes]
    sound = sorted((reading for reading in readings if reading[0]), key=lambda each: len(each[0]))
    if not sound or "_" in venue_symbol:
        return None
    known = [reading for reading in sound if reading[0] in _BASES]
    base, quote = known[-1] if known else sound[0]
    return f"{base}/{quote}" + (f":{quote}" if market is Market.PERP else "")
