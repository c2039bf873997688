"""What every reader yields: one file's rows as Arrow tables in one canonical schema per kind.

It owns the schemas, the options that fill in what a file does not tell, and the error that names a
file that cannot be imported. It reads nothing itself.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from market.instrument import Market, Venue

BATCH_ROWS = 100_000

PRICES = ("open", "high", "low", "close")
VOLUMES = ("volume", "quote_volume", "trades", "taker_buy_volume", "taker_buy_quote_volume")

CANDLES = pa.schema(
    [
        ("venue", pa.string()),
        ("interval_ms", pa.int64()),
        ("symbol", pa.string()),
        ("open_time", pa.int64()),
        # Trades too: what is no count must get as far as the judge.
        *((name, pa.float64()) for name in (*PRICES, *VOLUMES)),
    ]
)
SETTLEMENTS = pa.schema(
    [
        ("venue", pa.string()),
        ("symbol", pa.string()),
        ("funding_time", pa.int64()),
        ("rate", pa.float64()),
        ("mark_price", pa.float64()),
        ("mark_source", pa.string()),
    ]
)
SIGNALS = pa.schema(
    [
        *((name, pa.string()) for name in ("source", "version", "symbol")),
        ("event_time", pa.int64()),
        ("published_at", pa.int64()),
        ("name", pa.string()),
        ("value", pa.float64()),
        ("lag_ms", pa.int64()),
    ]
)

_PERP_SYMBOL = re.compile(r"[^/:\s]+/([^/:\s]+):([^/:\s]+)")
_SPOT_SYMBOL = re.compile(r"[^/:\s]+/[^/:\s]+")
# Either name of an exchange, and its venues for perpetuals and for spot.
_FAMILIES = {
    "binance": (Venue.BINANCEUSDM, Venue.BINANCE),
    "binanceusdm": (Venue.BINANCEUSDM, Venue.BINANCE),
    "bybit": (Venue.BYBIT, Venue.BYBITSPOT),
    "bybitspot": (Venue.BYBIT, Venue.BYBITSPOT),
}


class ImportKind(enum.StrEnum):
    """What the rows of a file are."""

    BARS = "bars"
    MARK_BARS = "mark_bars"
    SETTLEMENTS = "settlements"
    SIGNALS = "signals"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportHints:
    """What the user says about files that do not say it themselves.

    Attributes:
        exchange: whose rows they are; a file that names its exchange is believed before it.
        market: perpetuals or spot.
        symbol: ccxt's unified symbol, such as ``BTC/USDT:USDT`` or ``BTC/USDT``.
        interval: such as ``1h``.
        kind: tells mark candles from bars where a file has a volume column either way.
    """

    exchange: Venue | None = None
    market: Market | None = None
    symbol: str | None = None
    interval: str | None = None
    kind: ImportKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """One readable file.

    Attributes:
        path: the file.
        kind: what it holds; ``None`` for candles that are bars if any row has a volume, else
            mark candles.
        read: yields the rows in the file's order, in the kind's schema, at most about
            ``BATCH_ROWS`` at a time; raises ``ImportRejected`` where the file is damaged. It may
            be called any number of times.
    """

    path: Path
    kind: ImportKind | None
    read: Callable[[], Iterator[pa.Table]]


class ImportRejected(Exception):
    """The file cannot be imported; ``missing`` names the columns it lacks, if that is why."""

    def __init__(self, path: Path, cause: str, *, missing: Sequence[str] = ()) -> None:
        """Say which file, why, and which columns are missing."""
        super().__init__(f"{path}: {cause}")
        self.path = path
        self.missing = tuple(missing)


def agreed(path: Path, what: str, stated: str | None, hint: str | None) -> str:
    """What the file states, else the option ``--what``.

    Raises:
        ImportRejected: neither says it, or they contradict each other.
    """
    if stated is None and hint is None:
        raise ImportRejected(path, f"nothing in it tells its {what}; say it with --{what}")
    if stated is not None and hint is not None and stated != hint:
        raise ImportRejected(path, f"its {what} is {stated}, but --{what} says {hint}")
    return stated or hint or ""


def market_of(path: Path, symbol: str) -> Market:
    """Tell the market from a unified symbol's form.

    Raises:
        ImportRejected: the symbol is neither ``BASE/QUOTE`` nor a linear ``BASE/QUOTE:QUOTE``.
    """
    if _SPOT_SYMBOL.fullmatch(symbol):
        return Market.SPOT
    form = _PERP_SYMBOL.fullmatch(symbol)
    if form is None or form[1] != form[2]:
        raise ImportRejected(
            path,
            f"unknown form of symbol {symbol!r}; expected BASE/QUOTE (spot) or BASE/QUOTE:QUOTE "
            "(linear perpetual)",
        )
    return Market.PERP


def venue_in(exchange: Venue, market: Market) -> Venue:
    """The venue of the same exchange for ``market``."""
    perp, spot = _FAMILIES[exchange.value]
    return perp if market is Market.PERP else spot


def venue_of(path: Path, exchange: str | None, symbol: str, hints: ImportHints) -> Venue:
    """Tell the venue of ``symbol``.

    Args:
        path: the file, for errors.
        exchange: what the file says, such as ``binance``, or ``None`` if it says nothing.
        symbol: unified; its form decides between perpetuals and spot.
        hints: its exchange is used where the file names none.

    Raises:
        ImportRejected: the exchange is unknown or not told, or it contradicts the market.
    """
    word = exchange or (hints.exchange and hints.exchange.value)
    if word is None:
        raise ImportRejected(path, "nothing in it tells its exchange; say it with --exchange")
    if word not in _FAMILIES:
        raise ImportRejected(
            path, f"unknown exchange {word}; known are {', '.join(sorted(_FAMILIES))}"
        )
    market = market_of(path, symbol)
    agreed(path, "market", market.value, hints.market and hints.market.value)
    return venue_in(Venue(word), market)
