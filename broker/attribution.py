"""Where every cent of an account's result came from, by symbol: pure, from entries and marks.

The change of equity between two decisions is divided by the ledger accounts that the entries were
posted to. Every entry balances, so no amount can be left over or counted twice, and a ledger
account that belongs to no part is an error. Price is what the market did, at the prices before our
own costs; it is defined so that the parts add up without a rest:

    price    = realised + change of unrealised − slippage
    slippage = −Σ quantity·(fill_price − reference_price), as the fills recorded it

For a symbol, price is Σ quantity held · change of mark (or reference price, where it was traded):
the paper portfolio of Perold (1988), "The implementation shortfall", whose benchmark is the
reference price. Amounts are ``Decimal`` in quanta of 1e-8 quote currency; what is unrealised is
rounded to them once for each symbol and decision.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext

from broker.ledger import Entry, EntryKind
from broker.money import money, to_float, to_price
from broker.records import DecisionRecord
from broker.valuation import MarkMissing

EQUITY_TOLERANCE = 1e-6
"""Quote currency, plus 1e-9 of the equity: a recorded equity is float64, ours is exact."""

# Sums and products of amounts, quantities and prices are exact in it, or raise.
_EXACT = Context(prec=120, traps=[Inexact, InvalidOperation])
_ZERO = Decimal(0)
_PART_OF = {
    "income:realised": "price",
    "expenses:fees": "fee",
    "income:funding": "funding",
    "expenses:liquidation": "liquidation",
    "income:insurance": "insurance",
}
_NO_SYMBOL = ""


class AttributionRefused(ValueError):
    """The ledger does not add up to what the decisions recorded, or has an unknown account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a result consists of, quote currency; negative is a loss or a cost.

    Attributes:
        price: what the market did to what was held, at prices before our own costs.
        slippage: fill against reference price, of orders.
        fee: trading fees.
        funding: received less paid.
        liquidation: fees of liquidations, and their fill price against the mark that set them
            off; the market's move up to that mark is price.
        insurance: put in for us where the wallet would have ended below zero.
    """

    price: Decimal = _ZERO
    slippage: Decimal = _ZERO
    fee: Decimal = _ZERO
    funding: Decimal = _ZERO
    liquidation: Decimal = _ZERO
    insurance: Decimal = _ZERO

    @property
    def total(self) -> Decimal:
        """Their sum, exactly."""
        return _sum(getattr(self, name) for name in PART_NAMES)


PART_NAMES = tuple(part.name for part in fields(Parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """The change of equity between two decisions, divided without a rest.

    Attributes:
        opening_time, closing_time: the decisions, UTC milliseconds; ``opening_time`` is ``None``
            where the span begins before the first deposit.
        opening_equity, closing_equity: at the marks of these decisions.
        deposits: paid in between them.
        by_symbol: parts of every symbol that was touched, by name.
        account: what belongs to no symbol: insurance.
    """

    opening_time: int | None
    closing_time: int
    opening_equity: Decimal
    closing_equity: Decimal
    deposits: Decimal
    by_symbol: Mapping[str, Parts]
    account: Parts

    def __post_init__(self) -> None:
        explained = _sum([self.opening_equity, self.deposits, self.total.total])
        if explained != self.closing_equity:
            raise AttributionRefused(
                f"the parts explain an equity of {explained}, but it is {self.closing_equity}"
            )

    @property
    def total(self) -> Parts:
        """Each part summed over the symbols and the account."""
        every = (*self.by_symbol.values(), self.account)
        return Parts(**{name: _sum(getattr(one, name) for one in every) for name in PART_NAMES})


def attribute(
    entries: Iterable[Entry], *, opening: DecisionRecord | None, closing: DecisionRecord
) -> Attribution:
    """Divide the change of equity from ``opening`` to ``closing``.

    An entry counts at a decision if it happened before it and was posted by then. A settlement
    that became known late counts where it was posted, as it did in the recorded equity.

    Args:
        entries: all entries of one account from its first on, in the order of posting; read once.
        opening: a decision of the account, or ``None`` for the time before the first deposit.
        closing: a later decision.

    Raises:
        MarkMissing: a decision has no mark of a symbol that was held.
        AttributionRefused: a decision recorded another equity than its entries add up to, or a
            posting belongs to no part.
    """
    if opening is not None and opening.decision_time >= closing.decision_time:
        raise ValueError(f"decision {opening.decision_time} is not before {closing.decision_time}")
    with localcontext(_EXACT):
        before, after = _Balances(), _Balances()
        for entry in entries:
            if opening is not None and _counts(entry, opening):
                before.add(entry)
            if _counts(entry, closing):
                after.add(entry)
        if opening is not None:
            before.mark_to_market(opening)
        after.mark_to_market(closing)
        parts = _differences(before, after)
        return Attribution(
            opening_time=None if opening is None else opening.decision_time,
            closing_time=closing.decision_time,
            opening_equity=before.equity,
            closing_equity=after.equity,
            deposits=after.deposits - before.deposits,
            account=parts.pop(_NO_SYMBOL, Parts()),
            by_symbol=parts,
        )


def _counts(entry: Entry, decision: DecisionRecord) -> bool:
    """Whether the entry is in the equity of the decision: its fills come from the bar before."""
    return entry.event_time < decision.decision_time and entry.posted_at <= decision.decided_at


@dataclass(slots=True)
class _Balances:
    """What entries add up to: equity and its parts by (symbol, name), since the first deposit."""

    equity: Decimal = _ZERO
    deposits: Decimal = _ZERO
    parts: defaultdict[tuple[str, str], Decimal] = field(
        default_factory=lambda: defaultdict(Decimal)
    )
    quantity: defaultdict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    entry_price: dict[str, Decimal] = field(default_factory=dict)
    cost: dict[str, Decimal] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        """Take one entry in; what is unrealised comes later, at the marks."""
        for posting in entry.postings:
            # Symbols contain colons themselves.
            kind, symbol = _split(posting.ledger_account)
            match kind:
                case "assets:wallet":
                    self.equity += posting.amount
                case "assets:cost":
                    self.equity += posting.amount
                    self.cost[symbol] = self.cost.get(symbol, _ZERO) + posting.amount
                case "assets:position":
                    self.quantity[symbol] += posting.amount
                case "equity:counterparty":
                    pass
                case "equity:deposits":
                    self.deposits -= posting.amount
                case _ if kind in _PART_OF:
                    self.parts[symbol, _PART_OF[kind]] -= posting.amount
                case _:
                    raise AttributionRefused(
                        f"entry {entry.entry_id}: {posting.ledger_account} belongs to no part"
                    )
        if entry.kind in (EntryKind.FILL, EntryKind.LIQUIDATION):
            self._add_fill(entry)

    def mark_to_market(self, decision: DecisionRecord) -> None:
        """Add what is unrealised at the marks of a decision, and compare with its equity.

        Raises:
            MarkMissing: a held symbol has no mark.
            AttributionRefused: the decision recorded another equity.
        """
        for symbol, quantity in self.quantity.items():
            value = self._unrealised(symbol, quantity, decision)
            self.parts[symbol, "price"] += value
            self.equity += value
        difference = abs(to_float(self.equity) - decision.equity)
        if not difference <= EQUITY_TOLERANCE + 1e-9 * abs(decision.equity):
            raise AttributionRefused(
                f"decision {decision.decision_time} recorded an equity of {decision.equity!r}, its "
                f"entries and marks make {self.equity}; ballast account check looks for the cause"
            )

    def _add_fill(self, entry: Entry) -> None:
        """Move what lies between reference and fill price from price to where it belongs."""
        symbol, facts = str(entry.symbol), entry.facts
        self.entry_price[symbol] = Decimal(facts["entry_price"])
        moved = Decimal(facts["fill_price"]) - Decimal(facts["reference_price"])
        against_us = moved * Decimal(facts["quantity"]) > 0
        amount = Decimal(facts["slippage"])
        result = -amount if against_us else amount
        part = "slippage" if entry.kind is EntryKind.FILL else "liquidation"
        self.parts[symbol, part] += result
        self.parts[symbol, "price"] -= result

    def _unrealised(self, symbol: str, quantity: Decimal, decision: DecisionRecord) -> Decimal:
        """Value at the mark less what was paid; a spot market books what was paid as an asset."""
        paid = self.cost.get(symbol)
        if quantity == 0:
            return -(paid or _ZERO)
        if symbol not in decision.marks:
            raise MarkMissing(f"decision {decision.decision_time} has no mark of {symbol}")
        mark = to_price(decision.marks[symbol])
        if paid is None:
            return money(quantity * (mark - self.entry_price[symbol]))
        return money(quantity * mark) - paid


def _differences(before: _Balances, after: _Balances) -> dict[str, Parts]:
    """Parts of every symbol from one decision to the other, by name."""
    found: dict[str, dict[str, Decimal]] = defaultdict(dict)
    for symbol, name in sorted({*before.parts, *after.parts}):
        key = symbol, name
        change = after.parts.get(key, _ZERO) - before.parts.get(key, _ZERO)
        if change != 0:
            found[symbol][name] = change
    return {symbol: Parts(**changes) for symbol, changes in found.items()}


def _split(ledger_account: str) -> tuple[str, str]:
    """Take ``income:funding:BTC/USDT:USDT`` apart: what it is, and the symbol or nothing."""
    root, _, rest = ledger_account.partition(":")
    name, _, symbol = rest.partition(":")
    return f"{root}:{name}", symbol


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    with localcontext(_EXACT):
        return sum(amounts, _ZERO)
