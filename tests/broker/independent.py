"""The accounting rules written down a second time, in decimals, importing nothing of ours.

From the text of the design. ``Ledger``, one long-only account: target quantity, band, rounding
toward zero, minimum notional unless it reduces, one factor for buys, fills at the next open,
funding. ``Margined``, one account long or short: flips, late funding, liquidation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_DOWN, Decimal, getcontext
from fractions import Fraction
from typing import Any

getcontext().prec = 40
ALMOST_A_LOT = Decimal("1e-6")


class Ledger:
    """Wallet and average-price positions of one account."""

    def __init__(self, cash: float, **how: float) -> None:
        self.wallet = Decimal(cash)
        self.fee_rate = Decimal(str(how["fee_rate"]))
        self.half_spread = Decimal(str(how["half_spread_bps"])) / 10_000
        self.impact = Decimal(str(how["impact"]))
        self.band = Decimal(str(how["band"]))
        self.leverage = Decimal(str(how["leverage"]))
        self.held: dict[int, Decimal] = {}
        self.cost: dict[int, Decimal] = {}  # signed quote paid for what is held

    def quantity(self, asset: int) -> Decimal:
        """Base units held."""
        return self.held.get(asset, Decimal(0))

    def equity(self, mark: Sequence[float]) -> Decimal:
        """Wallet plus value less cost of everything held."""
        open_profit = (q * Decimal(mark[i]) - self.cost[i] for i, q in self.held.items() if q)
        return self.wallet + sum(open_profit, Decimal(0))

    def adverse(self, notional: Decimal, adv: float, sigma: float) -> Decimal:
        """Fraction of the price that a trade costs besides the fee."""
        share = min(notional / Decimal(adv), Decimal(1)) if adv > 0 else Decimal(1)
        return self.half_spread + self.impact * Decimal(sigma) * share.sqrt()

    def sell(self, asset: int, quantity: Decimal, price: Decimal) -> None:
        """Reduce a long position, realising the difference to the average cost."""
        held, cost = self.held[asset], self.cost[asset]
        part = cost * quantity / held
        self.wallet += quantity * price - part - self.fee_rate * quantity * price
        self.held[asset], self.cost[asset] = held - quantity, cost - part

    def buy(self, asset: int, quantity: Decimal, price: Decimal) -> None:
        """Add to a long position."""
        self.wallet -= self.fee_rate * quantity * price
        self.held[asset] = self.quantity(asset) + quantity
        self.cost[asset] = self.cost.get(asset, Decimal(0)) + quantity * price


def rounded(quantity: Decimal, step: Decimal) -> Decimal:
    """Toward zero to the step; within a millionth of a step of a multiple is the multiple."""
    lots = abs(quantity) / step + ALMOST_A_LOT
    return (lots.to_integral_value(ROUND_DOWN) * step).copy_sign(quantity)


def orders(book: Ledger, row: dict[str, Any], lots: Sequence[tuple[str, str]]) -> list[Decimal]:
    """Order quantities of one decision."""
    equity = book.equity(row["mark"])
    found, value = [], []
    for i, (step, minimum) in enumerate(lots):
        usable = not math.isnan(row["close"][i])
        price = Decimal(row["close"][i] if usable else row["mark"][i])
        value.append(price)
        held = book.quantity(i)
        change = Decimal(row["target"][i]) * equity / price - held if usable else Decimal(0)
        order = rounded(change, Decimal(step))
        if abs(change) * price / equity < book.band:
            order = Decimal(0)
        if order > 0 and order * price < Decimal(minimum):
            order = Decimal(0)
        found.append(order)
    costs = [
        book.fee_rate + book.adverse(abs(q) * p, row["adv"][i], row["sigma"][i])
        for i, (q, p) in enumerate(zip(found, value, strict=True))
    ]
    buys = sum(q * p for q, p in zip(found, value, strict=True) if q > 0)
    buy_cost = sum(q * p * c for q, p, c in zip(found, value, costs, strict=True) if q > 0)
    sell_cost = sum(-q * p * c for q, p, c in zip(found, value, costs, strict=True) if q < 0)
    kept = sum((book.quantity(i) + min(q, Decimal(0))) * value[i] for i, q in enumerate(found))
    if not buys:
        return found
    factor = (book.leverage * (equity - sell_cost) - kept) / (buys + book.leverage * buy_cost)
    factor = max(Decimal(0), min(Decimal(1), factor))
    for i, (step, minimum) in enumerate(lots):
        if found[i] > 0 and factor < 1:
            scaled = rounded(found[i] * factor, Decimal(step))
            found[i] = scaled if scaled * value[i] >= Decimal(minimum) else Decimal(0)
    return found


def equity_curve(book: Ledger, *, lots: Sequence[tuple[str, str]], **market: Any) -> list[float]:
    """Equity at every close; each array of ``market`` is (bars, assets)."""
    bars, assets = market["close"].shape
    curve = [float(book.wallet)]
    keys = {"target": "targets", "close": "close", "mark": "mark", "adv": "adv", "sigma": "sigma"}
    for bar in range(bars - 1):
        row = {key: [float(x) for x in market[name][bar]] for key, name in keys.items()}
        wanted = orders(book, row, lots)
        for i in range(assets):
            book.wallet -= book.quantity(i) * Decimal(float(market["funding_at_open"][bar + 1][i]))
        for i, quantity in enumerate(wanted):
            reference = float(market["open_"][bar + 1][i])
            if not quantity or math.isnan(reference):
                continue
            moved = book.adverse(abs(quantity) * Decimal(reference), row["adv"][i], row["sigma"][i])
            if quantity > 0:
                book.buy(i, quantity, Decimal(reference) * (1 + moved))
            else:
                book.sell(i, -quantity, Decimal(reference) * (1 - moved))
        for i in range(assets):
            book.wallet -= book.quantity(i) * Decimal(float(market["funding_in_bar"][bar + 1][i]))
        curve.append(float(book.equity([float(x) for x in market["mark"][bar + 1]])))
    return curve


class Margined:
    """A cross-margin account of linear perpetuals, long or short, in exact fractions.

    One ladder with one tier for every symbol. Trades and settlements are given in any order of
    knowing; what was held is looked up in a log of all trades.
    """

    def __init__(self, deposit: Decimal, *, margin_rate: Fraction, liquidation_fee: Fraction):
        self.wallet = Fraction(deposit)
        self.margin_rate, self.liquidation_fee = margin_rate, liquidation_fee
        self.held: dict[str, Fraction] = {}
        self.paid: dict[str, Fraction] = {}  # signed quote currency for what is held
        self.trades: list[tuple[int, str, Fraction]] = []
        self.settled: set[tuple[str, int]] = set()
        self.insured = Fraction(0)

    def equity(self, mark: Mapping[str, Fraction]) -> Fraction:
        """Wallet plus value less cost of everything held."""
        profit = (q * mark[s] - self.paid[s] for s, q in self.held.items() if q)
        return self.wallet + sum(profit, Fraction(0))

    def trade(self, time: int, symbol: str, quantity: Fraction, price: Fraction) -> None:
        """Close what is held the other way at the average cost, open the rest at ``price``."""
        held, paid = self.held.get(symbol, Fraction(0)), self.paid.get(symbol, Fraction(0))
        closed = Fraction(0)
        if held * quantity < 0:
            closed = max(-held, quantity) if held > 0 else min(-held, quantity)
            share = closed / held  # negative: the part of the cost that goes
            self.wallet += paid * share - closed * price
            paid += paid * share
        self.held[symbol] = held + quantity
        self.paid[symbol] = paid + (quantity - closed) * price
        self.trades.append((time, symbol, quantity))

    def held_before(self, symbol: str, time: int) -> Fraction:
        """What was held just before ``time``: a trade at it does not count."""
        return sum((q for at, s, q in self.trades if s == symbol and at < time), Fraction(0))

    def settle(self, symbol: str, time: int, per_unit: Fraction) -> Fraction:
        """Pay ``per_unit`` (mark·rate) on what was held, once; what was held by nobody is free."""
        quantity = self.held_before(symbol, time)
        if (symbol, time) in self.settled or not quantity:
            return Fraction(0)
        self.settled.add((symbol, time))
        self.wallet -= quantity * per_unit
        return -quantity * per_unit

    def spare_margin(self, mark: Mapping[str, Fraction]) -> Fraction:
        """Equity less the maintenance margin of everything held."""
        need = sum((abs(q) * mark[s] for s, q in self.held.items()), Fraction(0))
        return self.equity(mark) - need * self.margin_rate

    def liquidate(
        self, time: int, start: Mapping[str, Fraction], worst: Mapping[str, Fraction]
    ) -> None:
        """Close everything where the spare margin is gone on the straight path of the marks."""
        before, after = self.spare_margin(start), self.spare_margin(worst)
        share = Fraction(0) if before <= 0 else before / (before - after)  # it is linear
        for symbol, quantity in list(self.held.items()):
            price = start[symbol] + share * (worst[symbol] - start[symbol])
            self.trade(time, symbol, -quantity, price)
            self.wallet -= abs(quantity) * price * self.liquidation_fee
        self.insured += max(-self.wallet, Fraction(0))
        self.wallet = max(self.wallet, Fraction(0))
