"""A bookkeeper with Parquet files and decimals: what a daily rebalance would have earned.

It imports nothing of the project, and is written from the accounting rules alone: weights to lots,
one factor on purchases, fill at the next open plus half spread and square-root impact, fee, funding
on what was held just before the nominal time. It works in cash: what was paid, and what is held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HOUR = 3_600_000
MINUTE = 60_000
TRAILING_BARS = 168
BARS_PER_DAY = 24
DIGITS = 34
ALMOST_A_LOT = Decimal("1e-6")
NOTHING = Decimal(0)
Candles = Mapping[int, Mapping[str, Decimal]]


@dataclass(frozen=True)
class Terms:
    """What the venue and the account demand; fractions of the notional as decimals."""

    lots: Mapping[str, tuple[Decimal, Decimal]]  # (lot step, minimum notional) by symbol
    cash: Decimal
    fee_rate: Decimal
    half_spread: Decimal
    impact: Decimal
    leverage: Decimal = Decimal(1)


@dataclass
class Totals:
    """What one symbol brought and cost, quote currency: equity is cash + the sum of these."""

    price: Decimal = NOTHING
    fee: Decimal = NOTHING
    slippage: Decimal = NOTHING
    funding: Decimal = NOTHING
    fills: int = 0
    marks: Counter[str] = field(default_factory=Counter)

    @property
    def net(self) -> Decimal:
        """What is left."""
        return self.price - self.fee - self.slippage + self.funding


@dataclass(frozen=True)
class Settlement:
    """One funding settlement: when it counts, what was held pays ``mark·rate``."""

    time: int
    symbol: str
    rate: Decimal
    mark: Decimal
    source: str


class Files:
    """Bars, mark candles and funding of some symbols, as decimals."""

    def __init__(self, bars: Path, marks: Path, funding: Path) -> None:
        self.bars = _candles(bars, "volume")
        self.marks = _candles(marks)
        self._funding = pq.read_table(funding).to_pylist()

    def settlements(self) -> Iterator[Settlement]:
        """In time; the mark is the venue's, else its candle's open, else the bar's open."""
        for row in sorted(self._funding, key=lambda one: (one["funding_time"], one["symbol"])):
            symbol, time = row["symbol"], row["funding_time"] - row["funding_time"] % MINUTE
            candle, bar = self.marks.get(symbol, {}).get(time), self.bars[symbol].get(time)
            if row["mark_price"] is not None:
                stated = row.get("mark_price_source")
                mark = _decimal(row["mark_price"])
                source = "mark_candle" if stated == "mark_1h_open" else "venue"
            elif candle is not None:
                mark, source = candle["open"], "mark_candle"
            elif bar is not None:
                mark, source = bar["open"], "bar_open"
            else:
                mark, source = NOTHING, "none"
            yield Settlement(time, symbol, _decimal(row["rate"]), mark, source)

    def mark(self, symbol: str, opened: int) -> Decimal:
        """Close of the mark candle, else of the bar."""
        candle = self.marks.get(symbol, {}).get(opened)
        return (candle or self.bars[symbol][opened])["close"]


class Bookkeeper:
    """One account: cash, quantities, and where every cent came from."""

    def __init__(self, files: Files, terms: Terms) -> None:
        self.files, self.terms = files, terms
        self.cash = terms.cash
        self.held = dict.fromkeys(terms.lots, NOTHING)
        self.totals = {symbol: Totals() for symbol in terms.lots}

    def keep(self, weights: Mapping[int, Mapping[str, Decimal]], *, since: int, until: int) -> None:
        """Decide at the closes in ``weights``; value what is held at ``until``."""
        with localcontext() as context:
            context.prec = DIGITS
            due = [one for one in self.files.settlements() if since <= one.time < until][::-1]
            for close in sorted(weights):
                # What falls due at the very close is not known when deciding, and paid before
                # the fill at the open that follows.
                self._settle(due, close - 1)
                orders = self._orders(weights[close], close - HOUR)
                self._settle(due, close)
                self._fill(orders, close)
            self._settle(due, until)
            for symbol, quantity in self.held.items():
                self.totals[symbol].price += quantity * self.files.mark(symbol, until - HOUR)

    def equity(self, opened: int) -> Decimal:
        """Cash and what is held at the mark of the bar that opened then, at its close."""
        return self.cash + sum(q * self.files.mark(s, opened) for s, q in self.held.items())

    def _settle(self, due: list[Settlement], until: int) -> None:
        """Post what fell due up to ``until``, that moment included."""
        while due and due[-1].time <= until:
            one = due.pop()
            if self.held[one.symbol] and one.source != "none":
                paid = self.held[one.symbol] * one.mark * one.rate
                self.cash -= paid
                self.totals[one.symbol].funding -= paid
            if self.held[one.symbol]:
                self.totals[one.symbol].marks[one.source] += 1

    def _fill(self, orders: Mapping[str, Decimal], opened: int) -> None:
        for symbol, quantity in orders.items():
            reference = self.files.bars[symbol][opened]["open"]
            adverse = self._adverse(symbol, abs(quantity) * reference, opened - HOUR)
            slippage = abs(quantity) * reference * adverse
            fee = (abs(quantity) * reference + slippage.copy_sign(quantity)) * self.terms.fee_rate
            self.cash -= quantity * reference + slippage + fee
            self.held[symbol] += quantity
            totals = self.totals[symbol]
            totals.price -= quantity * reference
            totals.slippage += slippage
            totals.fee += fee
            totals.fills += 1

    def _orders(self, weights: Mapping[str, Decimal], opened: int) -> dict[str, Decimal]:
        """Whole lots worth trading; purchases scaled to what is left after all costs."""
        worth = self.equity(opened)
        close = {symbol: self.files.bars[symbol][opened]["close"] for symbol in self.held}
        wanted = {
            symbol: self._worthwhile(
                symbol, weights[symbol] * worth / price - self.held[symbol], price
            )
            for symbol, price in close.items()
        }
        sold = {symbol: quantity for symbol, quantity in wanted.items() if quantity < 0}
        bought = {symbol: quantity for symbol, quantity in wanted.items() if quantity > 0}
        cost = {
            symbol: abs(quantity)
            * close[symbol]
            * (self.terms.fee_rate + self._adverse(symbol, abs(quantity) * close[symbol], opened))
            for symbol, quantity in wanted.items()
        }
        kept = sum((self.held[s] + sold.get(s, NOTHING)) * close[s] for s in close)
        room = self.terms.leverage * (worth - sum(cost[s] for s in sold)) - kept
        need = sum(bought[s] * close[s] + self.terms.leverage * cost[s] for s in bought)
        if need > room:
            factor = max(NOTHING, room / need)
            bought = {s: self._worthwhile(s, q * factor, close[s]) for s, q in bought.items()}
        return {symbol: quantity for symbol, quantity in (sold | bought).items() if quantity}

    def _worthwhile(self, symbol: str, quantity: Decimal, price: Decimal) -> Decimal:
        """Toward zero to the lot; nothing below the minimum notional unless it reduces."""
        step, minimum = self.terms.lots[symbol]
        lots = int(abs(quantity) / step + ALMOST_A_LOT) * step
        if quantity > 0 and lots * price < minimum:
            return NOTHING
        return lots.copy_sign(quantity)

    def _adverse(self, symbol: str, notional: Decimal, opened: int) -> Decimal:
        """Half spread + Y·σ_daily·√(notional/ADV), known at the close of the bar ``opened``."""
        volume, sigma = self._depth(symbol, opened)
        share = min(Decimal(1), notional / volume)
        return self.terms.half_spread + self.terms.impact * sigma * share.sqrt()

    @cache  # noqa: B019  # a bookkeeper lives as long as one test
    def _depth(self, symbol: str, opened: int) -> tuple[Decimal, Decimal]:
        """Average daily volume (quote) and daily σ of log returns over the trailing bars."""
        bars = self.files.bars[symbol]
        times = [opened - lag * HOUR for lag in range(TRAILING_BARS)]
        traded = (bars[time]["volume"] * bars[time]["close"] for time in times)
        volume = sum(traded, NOTHING) / TRAILING_BARS
        changes = [self._change(symbol, time) for time in times]
        mean = sum(changes, NOTHING) / len(changes)
        variance = sum(((one - mean) ** 2 for one in changes), NOTHING) / (len(changes) - 1)
        return volume * BARS_PER_DAY, (variance * BARS_PER_DAY).sqrt()

    @cache  # noqa: B019  # as above
    def _change(self, symbol: str, opened: int) -> Decimal:
        bars = self.files.bars[symbol]
        return (bars[opened]["close"] / bars[opened - HOUR]["close"]).ln()


def _candles(path: Path, *more: str) -> dict[str, Candles]:
    names = ("open", "close", *more)
    found: dict[str, dict[int, dict[str, Decimal]]] = {}
    for row in pq.read_table(path, columns=["symbol", "open_time", *names]).to_pylist():
        values = {name: _decimal(row[name]) for name in names}
        found.setdefault(row["symbol"], {})[row["open_time"]] = values
    return dict(found)


def _decimal(value: Any) -> Decimal:
    return Decimal(repr(float(value)))
