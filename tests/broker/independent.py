"""The accounting rules written down a second time, in decimals, importing nothing of ours.

From the text of the design, for one long-only account: target quantity, band, rounding toward
zero, minimum notional unless it reduces, one factor for buys, fills at the next open, funding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_DOWN, Decimal, getcontext
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
