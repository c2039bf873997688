"""A life told to an account in exact fractions, which is asked nothing and told only what happened.

Fills come at the price and fee that were posted (their own formulas are proved elsewhere); what is
held, paid, funded and liquidated is worked out again.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

from hypothesis import assume

from broker.account import AccountState
from market.bar import DAY_MS
from tests.broker.independent import Margined
from tests.broker.lives import (
    DEPOSIT,
    LIQUIDATION_FEE,
    MARGIN_RATE,
    SYMBOLS,
    Event,
    Life,
    live,
)

EIGHT_DAYS = 8 * DAY_MS
TOO_CLOSE = Fraction(1, 10**4)  # quote currency: float64 may see it on the other side


def retold(life: Life) -> Iterator[tuple[Event, Margined]]:
    """Every event with an account in fractions that was told the same, and was asked nothing."""
    theirs = Margined(
        DEPOSIT,
        margin_rate=Fraction(MARGIN_RATE),
        liquidation_fee=Fraction(LIQUIDATION_FEE),
    )
    for event in live(life):
        match event.kind:
            case "fill":
                for one in event.fills:
                    theirs.wallet -= Fraction(one.fee)
                    theirs.trade(
                        one.event_time, one.symbol, Fraction(one.quantity), Fraction(one.fill_price)
                    )
            case "funding" | "refused":
                _settle(theirs, event)
            case "margin":
                _test_margin(theirs, event)
        yield event, theirs


def _settle(theirs: Margined, event: Event) -> None:
    due = event.settlement
    assert due is not None
    assert due.mark_price is not None
    nominal = due.funding_time - due.funding_time % 60_000
    forgotten = theirs.trades and nominal < theirs.trades[-1][0] - EIGHT_DAYS
    known = (due.symbol, nominal) in theirs.settled
    assert (event.kind == "refused") <= bool(forgotten)
    if not forgotten or known:
        theirs.settle(due.symbol, nominal, Fraction(due.mark_price) * Fraction(due.rate))


def _test_margin(theirs: Margined, event: Event) -> None:
    marks = event.marks
    start = {symbol: Fraction(price) for symbol, price in marks.opened.items()}
    worst = {
        symbol: Fraction(
            marks.high[symbol] if held(event.before, symbol) < 0 else marks.low[symbol]
        )
        for symbol in SYMBOLS
    }
    if not any(theirs.held.values()):
        assume(abs(theirs.wallet) > TOO_CLOSE or theirs.wallet == 0)
        assert bool(event.entries) == (theirs.wallet < 0)
        theirs.insured += max(-theirs.wallet, Fraction(0))
        theirs.wallet = max(theirs.wallet, Fraction(0))
        return
    spare = theirs.spare_margin(worst)
    assume(abs(spare) > TOO_CLOSE)
    assert bool(event.entries) == (spare < 0)
    if event.entries:
        theirs.liquidate(event.time, start, worst)


def quantity(state: AccountState, symbol: str) -> Decimal:
    """Base units held."""
    return state.positions[symbol].quantity if symbol in state.positions else Decimal(0)


def held(state: AccountState, symbol: str) -> Fraction:
    """Signed quantity, exactly."""
    return Fraction(quantity(state, symbol))
