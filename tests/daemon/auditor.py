"""An auditor with a pencil: recomputes a replay from the files, importing nothing of Ballast.

Decimal arithmetic throughout, written from DESIGN's accounting rules and not from the code: target
quantity from weights, rounding toward zero to the lot, minimum notional, one factor on purchases,
fill at the next open against us, fee, and funding on what was held at the nominal time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, getcontext

getcontext().prec = 40

HOUR = 3_600_000
WINDOW = 168
BARS_PER_DAY = 24
LOT_NOISE = Decimal("1e-6")


@dataclass(frozen=True)
class Rules:
    """What the venue and the account demand; fractions as decimals."""

    lot_step: Mapping[str, Decimal]
    min_notional: Mapping[str, Decimal]
    fee_rate: Decimal
    half_spread: Decimal
    impact: Decimal
    leverage: Decimal = Decimal(1)


@dataclass(frozen=True)
class BookedFill:
    """One fill as the auditor expects it."""

    symbol: str
    time: int
    quantity: Decimal
    price: Decimal
    fee: Decimal


@dataclass(frozen=True)
class BookedFunding:
    """One funding payment as the auditor expects it, positive when received."""

    symbol: str
    time: int
    amount: Decimal


@dataclass
class Auditor:
    """One account, carried bar by bar."""

    bars: Mapping[str, Mapping[int, Mapping[str, Decimal]]]
    marks: Mapping[str, Mapping[int, Mapping[str, Decimal]]]
    settlements: Sequence[tuple[int, str, Decimal, Decimal | None]]
    rules: Rules
    cash: Decimal
    held: dict[str, Decimal] = field(default_factory=dict)
    fills: list[BookedFill] = field(default_factory=list)
    funding: list[BookedFunding] = field(default_factory=list)
    equity: dict[int, Decimal] = field(default_factory=dict)

    def run(self, weights: Mapping[int, Mapping[str, Decimal]], *, since: int, until: int) -> None:
        """Decide at every close from ``since`` to ``until``."""
        orders: dict[str, Decimal] = {}
        for time in range(since, until + HOUR, HOUR):
            opened = time - HOUR
            self._settle(lambda nominal, at=opened: nominal == at)
            self._fill(orders, opened)
            self._settle(lambda nominal, at=opened: at < nominal < at + HOUR)
            self.equity[time] = self._worth(opened)
            row = weights.get(time)
            orders = {} if row is None else self._orders(row, opened)

    def _settle(self, chosen) -> None:  # type: ignore[no-untyped-def]  # a predicate on a time
        for nominal, symbol, rate, mark in self.settlements:
            quantity = self.held.get(symbol, Decimal(0))
            if not chosen(nominal) or quantity == 0:
                continue
            price = mark
            if price is None:
                candle = self.marks[symbol].get(nominal)
                price = candle["open"] if candle else self.bars[symbol][nominal]["open"]
            amount = -quantity * price * rate
            self.cash += amount
            self.funding.append(BookedFunding(symbol, nominal, amount))

    def _fill(self, orders: Mapping[str, Decimal], opened: int) -> None:
        for symbol, quantity in sorted(orders.items()):
            open_price = self.bars[symbol][opened]["open"]
            adverse = self._adverse(symbol, abs(quantity) * open_price, opened - HOUR)
            price = open_price * (1 + adverse if quantity > 0 else 1 - adverse)
            fee = abs(quantity) * price * self.rules.fee_rate
            self.cash -= quantity * price + fee
            self.held[symbol] = self.held.get(symbol, Decimal(0)) + quantity
            self.fills.append(BookedFill(symbol, opened + 1_000, quantity, price, fee))

    def _worth(self, opened: int) -> Decimal:
        """Cash view: equity = cash + Σ quantity·mark, the same as wallet + Σ q·(mark − entry)."""
        return self.cash + sum(
            (quantity * self._mark(symbol, opened) for symbol, quantity in self.held.items()),
            Decimal(0),
        )

    def _mark(self, symbol: str, opened: int) -> Decimal:
        candle = self.marks[symbol].get(opened)
        return candle["close"] if candle else self.bars[symbol][opened]["close"]

    def _orders(self, row: Mapping[str, Decimal], opened: int) -> dict[str, Decimal]:
        equity = self._worth(opened)
        wanted = {
            symbol: self._lots(
                symbol,
                row.get(symbol, Decimal(0)) * equity / self.bars[symbol][opened]["close"]
                - self.held.get(symbol, Decimal(0)),
            )
            for symbol in self.bars
        }
        sized = {s: q for s, q in wanted.items() if q and self._large_enough(s, q, opened)}
        factor = self._buying_factor(sized, equity, opened)
        if factor < 1:
            scaled = {s: q if q < 0 else self._lots(s, q * factor) for s, q in sized.items()}
            sized = {s: q for s, q in scaled.items() if q and self._large_enough(s, q, opened)}
        return sized

    def _buying_factor(self, sized: Mapping[str, Decimal], equity: Decimal, opened: int) -> Decimal:
        """Largest f ≤ 1 with gross ≤ L·(equity − all costs), long-only."""
        limit = self.rules.leverage
        gross_kept = cost_kept = bought = cost_bought = Decimal(0)
        for symbol in self.bars:
            close, quantity = self.bars[symbol][opened]["close"], sized.get(symbol, Decimal(0))
            notional = abs(quantity) * close
            cost = notional * (self._adverse(symbol, notional, opened) + self.rules.fee_rate)
            gross_kept += (self.held.get(symbol, Decimal(0)) + min(quantity, Decimal(0))) * close
            if quantity > 0:
                bought, cost_bought = bought + notional, cost_bought + cost
            else:
                cost_kept += cost
        if bought == 0:
            return Decimal(1)
        room = limit * (equity - cost_kept) - gross_kept
        return max(Decimal(0), min(Decimal(1), room / (bought + limit * cost_bought)))

    def _large_enough(self, symbol: str, quantity: Decimal, opened: int) -> bool:
        reduces = quantity < 0 and -quantity <= self.held.get(symbol, Decimal(0))
        notional = abs(quantity) * self.bars[symbol][opened]["close"]
        return reduces or notional >= self.rules.min_notional[symbol]

    def _lots(self, symbol: str, quantity: Decimal) -> Decimal:
        step = self.rules.lot_step[symbol]
        lots = quantity / step
        return int(lots + (LOT_NOISE if lots > 0 else -LOT_NOISE)) * step

    def _adverse(self, symbol: str, notional: Decimal, opened: int) -> Decimal:
        """Half spread + Y·σ_daily·sqrt(notional/ADV) from the 168 bars up to ``opened``."""
        times = [opened - lag * HOUR for lag in range(WINDOW)]
        known = [self.bars[symbol][time] for time in times if time in self.bars[symbol]]
        volume = sum((bar["volume"] * bar["close"] for bar in known), Decimal(0)) / len(known)
        changes = [
            (self.bars[symbol][time]["close"] / self.bars[symbol][time - HOUR]["close"]).ln()
            for time in times
            if time in self.bars[symbol] and time - HOUR in self.bars[symbol]
        ]
        mean = sum(changes, Decimal(0)) / len(changes)
        variance = sum(((c - mean) ** 2 for c in changes), Decimal(0)) / (len(changes) - 1)
        sigma = variance.sqrt() * Decimal(BARS_PER_DAY).sqrt()
        share = min(Decimal(1), notional / (volume * BARS_PER_DAY))
        return self.rules.half_spread + self.rules.impact * sigma * share.sqrt()
