"""Tiers of maintenance margin by date: read from a file, lined up as the arrays of ``margin``.

The file (``margin_tiers.json``, or one of the user's) is a list of ladders. Each names its symbol
(``*``: every other one), the day from which it counts, the liquidation fee, and its tiers as
``[lowest notional, rate]``; the amounts that make the margin continuous follow from these.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ValidationError

from broker.book import MarginSchedule

ANY_SYMBOL = "*"


class TiersRejected(ValueError):
    """A table of margin tiers that cannot be used; names the ladder and what is wrong."""


class _Row(BaseModel):
    """A ladder as it is written in a file."""

    symbol: str
    since: date
    tiers: tuple[tuple[float, float], ...]
    liquidation_fee: float


class _File(BaseModel):
    """A whole file; what it says besides is for people."""

    ladders: list[_Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """The tiers of one symbol from one day on.

    Attributes:
        since: UTC milliseconds.
        tiers: (lowest notional in quote currency, rate as a fraction), ascending from 0.
        liquidation_fee: fraction of the notional that is closed.
    """

    symbol: str
    since: int
    tiers: tuple[tuple[float, float], ...]
    liquidation_fee: float

    def __post_init__(self) -> None:
        floors = [floor for floor, _ in self.tiers]
        rates = [rate for _, rate in self.tiers]
        if not floors or floors[0] != 0 or not all(a < b for a, b in pairwise(floors)):
            raise TiersRejected(f"{self.symbol}: tiers must begin at 0 and ascend, got {floors}")
        if not all(0 < rate < 1 for rate in rates) or rates != sorted(rates):
            raise TiersRejected(f"{self.symbol}: rates must rise within (0, 1), got {rates}")
        if not 0 <= self.liquidation_fee < 1:
            raise TiersRejected(
                f"{self.symbol}: liquidation_fee must be in [0, 1), got {self.liquidation_fee}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class MarginTable:
    """Every ladder of one venue; ladders of ``*`` are for symbols that have none of their own."""

    ladders: tuple[Ladder, ...]

    @property
    def content_hash(self) -> str:
        """SHA-256 of the ladders: two tables with one hash ask for the same margin."""
        rows = [dataclasses.asdict(one) for one in self.ladders]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    def schedule(self, symbols: Sequence[str]) -> MarginSchedule:
        """Line the ladders of N symbols up as arrays (S, N, K), S days of change."""
        return _schedule(self, tuple(symbols))

    def of(self, symbol: str) -> tuple[Ladder, ...]:
        """The ladders of one symbol by date.

        Raises:
            TiersRejected: there is none, not even for any symbol.
        """
        own = [one for one in self.ladders if one.symbol == symbol]
        own = own or [one for one in self.ladders if one.symbol == ANY_SYMBOL]
        if not own:
            raise TiersRejected(
                f"no ladder for {symbol} in the table of margin tiers: add one, or one for '*', "
                "which is every symbol without its own"
            )
        return tuple(sorted(own, key=lambda one: one.since))


def shipped_tiers() -> MarginTable:
    """Return the table that comes with Ballast; its source and date are in the file."""
    file = resources.files("broker").joinpath("margin_tiers.json")
    return _read(file.read_text(encoding="utf-8"))


def read_tiers(path: Path) -> MarginTable:
    """Read a table of the user's.

    Raises:
        TiersRejected: it cannot be read; names the file and what is wrong.
    """
    try:
        return _read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TiersRejected(f"{path}: {error}") from error


def _read(text: str) -> MarginTable:
    try:
        ladders = _File.model_validate_json(text).ladders
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise TiersRejected(f"{where}: {first['msg']}, got {first['input']!r}") from None
    return MarginTable(tuple(map(_ladder, ladders)))


def _ladder(row: _Row) -> Ladder:
    midnight = datetime.combine(row.since, time(), UTC)
    return Ladder(
        symbol=row.symbol,
        since=int(midnight.timestamp() * 1000),
        tiers=row.tiers,
        liquidation_fee=row.liquidation_fee,
    )


@lru_cache(maxsize=256)
def _schedule(table: MarginTable, symbols: tuple[str, ...]) -> MarginSchedule:
    ladders = [table.of(symbol) for symbol in symbols]
    days = sorted({one.since for own in ladders for one in own}) or [0]
    depth = max((len(one.tiers) for own in ladders for one in own), default=1)
    shape = (len(days), len(symbols), depth)
    floor, rate, amount = np.full(shape, math.inf), np.zeros(shape), np.zeros(shape)
    fee = np.zeros(shape[:2])
    for asset, own in enumerate(ladders):
        for row, day in enumerate(days):
            current = [one for one in own if one.since <= day][-1:] or [own[0]]
            count = len(current[0].tiers)
            floor[row, asset, :count], rate[row, asset, :count] = np.array(current[0].tiers).T
            amount[row, asset, :count] = _amounts(current[0].tiers)
            fee[row, asset] = current[0].liquidation_fee
    return MarginSchedule(
        since=np.array(days, dtype=np.int64),
        floor=floor,
        rate=rate,
        amount=amount,
        top_rate=rate.max(axis=(0, 2)),
        liquidation_fee=fee,
    )


def _amounts(tiers: Sequence[tuple[float, float]]) -> list[float]:
    """What each tier's margin is reduced by, so that it continues the tier below."""
    amounts = [0.0]
    for (_, below), (floor, rate) in pairwise(tiers):
        amounts.append(amounts[-1] + floor * (rate - below))
    return amounts
