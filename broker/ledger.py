"""Immutable double entries: what happened to an account, in postings that sum to zero.

The ledger is the truth about an account; every other figure is derived from it. Entries are made
by pure functions in ``account`` and kept by ``store``; nothing ever changes one.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

WALLET = "assets:wallet"
Leg = tuple[str, str, Decimal]
"""Ledger account, currency, amount."""


class EntryKind(enum.StrEnum):
    """What an entry records."""

    DEPOSIT = "deposit"
    FILL = "fill"
    FUNDING = "funding"
    LIQUIDATION = "liquidation"
    INSURANCE = "insurance"


@dataclass(frozen=True, slots=True, kw_only=True)
class Posting:
    """One leg of an entry: ``amount`` of ``currency`` added to ``ledger_account``.

    Ledger accounts: ``assets:wallet``, ``equity:deposits``, ``income:realised:SYMBOL``,
    ``expenses:fees:SYMBOL``, ``income:funding:SYMBOL``, ``expenses:liquidation:SYMBOL``,
    ``income:insurance`` in the quote currency; ``assets:position:SYMBOL`` against
    ``equity:counterparty:SYMBOL`` in units of the symbol. On a spot market the wallet is cash, and
    ``assets:cost:SYMBOL`` holds what was paid for what is held. Income grows by negative amounts,
    as in ordinary book-keeping.
    """

    ledger_account: str
    currency: str
    amount: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A dated, balanced set of postings.

    Attributes:
        entry_id: a function of content (such as ``main:funding:BTC/USDT:USDT:1700000000000``),
            so that posting a thing twice is posting it once.
        event_time: when it happened.
        posted_at: when the account learned of it; of fills, liquidations and insurance, which a bar
            tells only at its close, the moment at which they happened.
        facts: what is needed to recompute the entry (rate, mark_price, mark_source, quantity,
            fill_price, ...), as decimal strings or names.
    """

    entry_id: str
    account_id: str
    kind: EntryKind
    symbol: str | None
    event_time: int
    posted_at: int
    postings: tuple[Posting, ...]
    facts: Mapping[str, str]

    def __post_init__(self) -> None:
        sums: dict[str, Decimal] = {}
        for posting in self.postings:
            sums[posting.currency] = sums.get(posting.currency, Decimal(0)) + posting.amount
        unbalanced = {currency: total for currency, total in sums.items() if total != 0}
        if unbalanced:
            raise ValueError(f"entry {self.entry_id} does not balance: {unbalanced}")

    def paid_to(self, ledger_account: str) -> Decimal:
        """Sum of this entry's legs of one ledger account."""
        amounts = (one.amount for one in self.postings if one.ledger_account == ledger_account)
        return sum(amounts, start=Decimal(0))


def postings(*legs: Leg) -> tuple[Posting, ...]:
    """Make postings, leaving out the legs that move nothing."""
    return tuple(
        Posting(ledger_account=name, currency=currency, amount=amount)
        for name, currency, amount in legs
        if amount != 0
    )
