"""An account kept by hand in exact fractions, and random lives of it; no arithmetic of the broker.

Its entries are of the broker's form, and its decisions are valued in float64 as the daemon's are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from random import Random

from broker.ledger import Entry, EntryKind, Posting
from broker.records import DecisionRecord
from market.bar import HOUR_MS
from tests.broker.factories import BTC, ETH, SOL, record

QUANTUM = Decimal("1e-8")
LATENCY_MS = 1_000


@dataclass
class Diary:
    """An account kept by hand with exact fractions; it imports no arithmetic of the broker."""

    is_spot: bool = False
    entries: list[Entry] = field(default_factory=list)
    wallet: Decimal = Decimal(0)
    held: dict[str, Decimal] = field(default_factory=dict)
    average: dict[str, Fraction] = field(default_factory=dict)

    def post(
        self,
        kind: EntryKind,
        time: int,
        *legs: tuple[str, str, Decimal],
        symbol: str | None = None,
        posted_at: int | None = None,
        facts: dict[str, str] | None = None,
    ) -> None:
        """Write an entry and keep the wallet."""
        postings = tuple(
            Posting(ledger_account=name, currency=currency, amount=amount)
            for name, currency, amount in legs
            if amount
        )
        self.wallet += sum(p.amount for p in postings if p.ledger_account == "assets:wallet")
        self.entries.append(
            Entry(
                entry_id=f"main:{len(self.entries)}", account_id="main", kind=kind, symbol=symbol,
                event_time=time, posted_at=time if posted_at is None else posted_at,
                postings=postings, facts=facts or {},
            )
        )  # fmt: skip

    def deposit(self, amount: str, *, time: int = 0) -> None:
        """Pay in."""
        facts = {"amount": amount, "market": "spot" if self.is_spot else "perp"}
        legs = (
            ("assets:wallet", "USDT", Decimal(amount)),
            ("equity:deposits", "USDT", -Decimal(amount)),
        )
        self.post(EntryKind.DEPOSIT, time, *legs, facts=facts)

    def quote(
        self, kind: EntryKind, name: str, amount: Decimal, *, time: int,
        symbol: str | None = None, posted_at: int | None = None,
    ) -> None:  # fmt: skip
        """Move ``amount`` from a ledger account into the wallet."""
        legs = ("assets:wallet", "USDT", amount), (name, "USDT", -amount)
        self.post(kind, time, *legs, symbol=symbol, posted_at=posted_at)

    def trade(
        self, symbol: str, quantity: str, reference: str, fill: str, fee: str, *, time: int,
        kind: EntryKind = EntryKind.FILL,
    ) -> None:  # fmt: skip
        """Buy (with a minus: sell) at ``fill`` where the price before costs was ``reference``."""
        traded, price = Decimal(quantity), Decimal(fill)
        before, average = self.held.get(symbol, Decimal(0)), self.average.get(symbol, Fraction(0))
        closed = min(abs(traded), abs(before)) if before * traded < 0 else Decimal(0)
        realised = rounded(Fraction(closed.copy_sign(before)) * (Fraction(price) - average))
        after = before + traded
        if abs(after) > abs(before) and before * after >= 0:
            paid = Fraction(before) * average + Fraction(traded) * Fraction(price)
            average = as_written(paid / Fraction(after))
        elif before * after < 0:
            average = Fraction(price)
        self.held[symbol], self.average[symbol] = after, average
        slippage = rounded(abs(Fraction(traded)) * abs(Fraction(price) - Fraction(reference)))
        value = rounded(Fraction(traded) * Fraction(price))
        fee_account = "fees" if kind is EntryKind.FILL else "liquidation"
        cash = -value if self.is_spot else realised
        cost = ((f"assets:cost:{symbol}", "USDT", value + realised),) if self.is_spot else ()
        self.post(
            kind, time,
            (f"assets:position:{symbol}", symbol, traded),
            (f"equity:counterparty:{symbol}", symbol, -traded),
            ("assets:wallet", "USDT", cash - Decimal(fee)),
            *cost,
            (f"income:realised:{symbol}", "USDT", -realised),
            (f"expenses:{fee_account}:{symbol}", "USDT", Decimal(fee)),
            symbol=symbol,
            facts={
                "quantity": quantity, "reference_price": reference, "fill_price": fill, "fee": fee,
                "slippage": str(slippage), "realised": str(realised), "position": str(after),
                "entry_price": repr(float(average)),
            },
        )  # fmt: skip

    def decide(self, time: int, marks: dict[str, str]) -> DecisionRecord:
        """Value the account at ``marks`` as the daemon does, in float64."""
        values = {symbol: float(mark) for symbol, mark in marks.items()}
        worth = Fraction(self.wallet)
        for symbol, quantity in self.held.items():
            paid = Fraction(0) if self.is_spot else self.average[symbol]
            if quantity:
                worth += Fraction(quantity) * (Fraction(marks[symbol]) - paid)
        return replace(record(time, equity=float(worth)), marks=values)


def rounded(value: Fraction) -> Decimal:
    """Round to 1e-8, half to even."""
    return round(value / Fraction(QUANTUM)) * QUANTUM


def as_written(value: Fraction) -> Fraction:
    """The decimal that an average price is written as."""
    return Fraction(repr(float(value)))


@dataclass(frozen=True)
class Life:
    """A random history with a decision at every hour."""

    entries: list[Entry]
    decisions: list[DecisionRecord]


def life(random: Random, *, is_spot: bool) -> Life:
    """Trades of three symbols with flips, partial closes, late funding, and liquidations."""
    diary = Diary(is_spot=is_spot)
    diary.deposit("100000")
    levels = {BTC: 30_000.0, ETH: 1.7, SOL: 2.3e-5}
    decisions, late = [], []
    for hour in range(1, 13):
        now, close = (hour - 1) * HOUR_MS, hour * HOUR_MS
        for symbol in levels:
            levels[symbol] *= random.lognormvariate(0, 0.03)
            moved(diary, random, symbol, levels[symbol], time=now + LATENCY_MS)
            payment = rounded(Fraction(random.uniform(-5, 5)))
            due = (f"income:funding:{symbol}", payment, now + 1800_000, symbol)
            if not is_spot and random.random() < 0.3:
                late.append(due)
        for name, amount, time, symbol in late if hour % 3 else ():
            diary.quote(
                EntryKind.FUNDING, name, amount, time=time, symbol=symbol, posted_at=close + 5
            )
        late = late if hour % 3 == 0 else []
        if not is_spot and random.random() < 0.2:
            liquidate(diary, random, levels, time=close - 1)
        decisions.append(diary.decide(close, {s: repr(level) for s, level in levels.items()}))
    return Life(diary.entries, decisions)


def moved(diary: Diary, random: Random, symbol: str, level: float, *, time: int) -> None:
    """Sometimes trade: a lot of any size, or exactly flat."""
    if random.random() < 0.4:
        return
    held = diary.held.get(symbol, Decimal(0))
    size = Decimal(random.randint(1, 10**6)) / 1000
    quantity = -held if random.random() < 0.2 else random.choice((size, -size))
    if diary.is_spot:
        quantity = max(quantity, -held)
    if quantity:
        fill = repr(level * random.uniform(0.99, 1.01))
        fee = str(rounded(Fraction(random.uniform(0, 9))))
        diary.trade(symbol, str(quantity), repr(level), fill, fee, time=time)


def liquidate(diary: Diary, random: Random, levels: dict[str, float], *, time: int) -> None:
    """Close everything at a mark, and fill up a wallet that is below zero."""
    for symbol, held in list(diary.held.items()):
        if held:
            trigger = levels[symbol] * random.uniform(0.5, 2)
            diary.trade(
                symbol, str(-held), repr(trigger), repr(trigger * random.uniform(0.9, 1.1)),
                "1.25", time=time, kind=EntryKind.LIQUIDATION,
            )  # fmt: skip
    if diary.wallet < 0:
        diary.quote(EntryKind.INSURANCE, "income:insurance", -diary.wallet, time=time)
