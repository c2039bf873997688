"""Walking a recorded order book: what a market order would have got of it, level by level.

Pure and exact. A price or quantity of the book is the decimal that the venue wrote (the shortest
that reads back as the float64), and sums of products are never rounded. It knows no account and no
clock: whether a book is too old is for its caller to say.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from broker.money import to_price
from broker.orders import RejectReason
from market.quote import Level, OrderBook

# No sum of products of float64 needs as many digits: what would be rounded raises instead.
_EXACT = Context(prec=10_000, traps=[Inexact, InvalidOperation])
_HALF = Decimal("0.5")


class BookFlaw(enum.StrEnum):
    """Why a book cannot be walked."""

    EMPTY = "a_side_is_empty"
    CROSSED = "best_bid_not_below_best_ask"
    UNSORTED = "levels_out_of_order"
    NOT_POSITIVE = "price_or_quantity_not_positive_and_finite"

    @property
    def reason(self) -> RejectReason:
        """What an order is told; everything but an empty side is a book that contradicts itself."""
        return RejectReason.EMPTY_BOOK if self is BookFlaw.EMPTY else RejectReason.CROSSED_BOOK


class BookKey(NamedTuple):
    """Which row of the warehouse's ``books`` a snapshot is.

    The store keeps one row for each symbol and decision, the one of the latest ``available_at``; so
    the first two find the row, and the third says whether it is still the one that was walked.
    """

    symbol: str
    decision_time: int
    available_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What our own fills took out of one snapshot, base units by price.

    It belongs to the snapshot ``book_id`` and ends with it: the next one shows what came back.
    """

    book_id: str
    bids: Mapping[Decimal, Decimal] = field(default_factory=dict)
    asks: Mapping[Decimal, Decimal] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BookFill:
    """What a walk got.

    Attributes:
        filled: signed base units, a multiple of the lot step, at most what was ordered.
        notional: Σ price·quantity of the levels used, quote currency, exact, never negative.
        reference_price: the snapshot's mid; ``None`` where the book has a flaw.
        worst_price: of the last level used; ``None`` where nothing was filled.
        levels: how many levels gave something.
        shortfall: why ``filled`` is less than what was ordered; ``None`` where it is all of it.
        taken: the memory to hand to the next walk of this snapshot.
    """

    filled: Decimal
    notional: Decimal
    reference_price: Decimal | None
    worst_price: Decimal | None
    levels: int
    shortfall: RejectReason | None
    taken: Taken

    @property
    def average_price(self) -> float | None:
        """The float64 nearest to notional over quantity; ``None`` where nothing was filled."""
        if self.filled == 0:
            return None
        average = Fraction(self.notional) / Fraction(self.filled.copy_abs())
        # Division of whole numbers rounds once; through a Decimal quotient it would be twice.
        return average.numerator / average.denominator

    @property
    def fill_price(self) -> Decimal | None:
        """The average price as the ledger carries prices; ``None`` where nothing was filled."""
        average = self.average_price
        return None if average is None else to_price(average)

    @property
    def slippage(self) -> Decimal:
        """``|notional − |filled|·mid|``, quote currency, exact, never negative."""
        if self.reference_price is None:
            return Decimal(0)
        with localcontext(_EXACT):
            return abs(self.notional - abs(self.filled) * self.reference_price)


def book_flaw(book: OrderBook) -> BookFlaw | None:
    """Return the first rule that ``book`` breaks, or ``None`` for one that can be walked."""
    if not (book.bids and book.asks):
        return BookFlaw.EMPTY
    numbers = (number for level in (*book.bids, *book.asks) for number in level)
    if not all(0 < number < math.inf for number in numbers):
        return BookFlaw.NOT_POSITIVE
    if book.bids[0][0] >= book.asks[0][0]:
        return BookFlaw.CROSSED
    falls = all(better > worse for (better, _), (worse, _) in pairwise(book.bids))
    rises = all(better < worse for (better, _), (worse, _) in pairwise(book.asks))
    return None if falls and rises else BookFlaw.UNSORTED


def mid_price(book: OrderBook) -> Decimal:
    """Middle of best bid and best ask, exact; the book must have both."""
    with localcontext(_EXACT):
        return (to_price(book.bids[0][0]) + to_price(book.asks[0][0])) * _HALF


def walk(
    book: OrderBook,
    quantity: Decimal,
    *,
    taken: Taken | None = None,
    slippage_cap: float,
    lot_step: Decimal,
) -> BookFill:
    """Fill a market order from the recorded levels, best first, and say what stopped it.

    Args:
        book: one snapshot.
        quantity: signed base units, not 0; a buy takes asks, a sell takes bids.
        taken: what earlier walks of this snapshot took; ``None`` where there were none.
        slippage_cap: no level beyond ``mid·(1 ± slippage_cap)`` is touched, a fraction. The mid is
            the snapshot's, whatever was taken of it.
        lot_step: base units; what is filled is rounded toward zero to a multiple of it.

    Raises:
        ValueError: the quantity is 0 or not finite, the lot step or the cap is not positive, or
            ``taken`` belongs to another snapshot.
    """
    name = book_id(book)
    memory = Taken(book_id=name) if taken is None else taken
    _check(name, quantity, memory, slippage_cap, lot_step)
    flaw = book_flaw(book)
    if flaw is not None:
        return _nothing(memory, None, flaw.reason)
    with localcontext(_EXACT):
        return _walk(book, quantity, memory, Decimal(repr(float(slippage_cap))), lot_step)


def book_id(book: OrderBook) -> str:
    """Id of the stored snapshot: ``SYMBOL@decision_time@available_at``; see ``BookKey``."""
    return f"{book.symbol}@{book.decision_time}@{book.available_at}"


def parse_book_id(text: str) -> BookKey:
    """Read what ``book_id`` wrote.

    Raises:
        ValueError: it is something else.
    """
    symbol, *times = text.rsplit("@", 2)
    if not symbol or len(times) != 2 or not all(time.isdecimal() for time in times):
        raise ValueError(f"book id {text!r} is not SYMBOL@decision_time@available_at")
    return BookKey(symbol, int(times[0]), int(times[1]))


class _Piece(NamedTuple):
    """A level less what was taken of it."""

    price: Decimal
    quantity: Decimal


def _walk(
    book: OrderBook, quantity: Decimal, memory: Taken, cap: Decimal, lot_step: Decimal
) -> BookFill:
    is_buy = quantity > 0
    side, own = (book.asks, memory.asks) if is_buy else (book.bids, memory.bids)
    mid = mid_price(book)
    limit = mid * (1 + cap if is_buy else 1 - cap)
    pieces = list(_left(side, own))
    allowed = [one for one in pieces if (one.price <= limit if is_buy else one.price >= limit)]
    depth = sum((one.quantity for one in allowed), Decimal(0))
    wanted = abs(quantity)
    size = min(wanted, depth) // lot_step * lot_step
    if wanted <= depth:
        shortfall = None if size == wanted else RejectReason.BELOW_LOT_STEP
    elif len(allowed) < len(pieces):
        shortfall = RejectReason.SLIPPAGE_CAP
    else:
        shortfall = RejectReason.BOOK_EXHAUSTED
    used = list(_consume(allowed, size))
    if not used:
        return _nothing(memory, mid, shortfall)
    return BookFill(
        filled=size if is_buy else -size,
        notional=sum((one.price * one.quantity for one in used), Decimal(0)),
        reference_price=mid,
        worst_price=used[-1].price,
        levels=len(used),
        shortfall=shortfall,
        taken=_remember(memory, used, is_buy=is_buy),
    )


def _left(side: Iterable[Level], own: Mapping[Decimal, Decimal]) -> Iterator[_Piece]:
    for price, quantity in side:
        exact = to_price(price)
        left = to_price(quantity) - own.get(exact, Decimal(0))
        if left > 0:
            yield _Piece(exact, left)


def _consume(pieces: Iterable[_Piece], size: Decimal) -> Iterator[_Piece]:
    for piece in pieces:
        if size <= 0:
            return
        part = min(piece.quantity, size)
        size -= part
        yield _Piece(piece.price, part)


def _remember(memory: Taken, used: Iterable[_Piece], *, is_buy: bool) -> Taken:
    after = dict(memory.asks if is_buy else memory.bids)
    for piece in used:
        after[piece.price] = after.get(piece.price, Decimal(0)) + piece.quantity
    return replace(memory, asks=after) if is_buy else replace(memory, bids=after)


def _nothing(memory: Taken, mid: Decimal | None, reason: RejectReason | None) -> BookFill:
    return BookFill(
        filled=Decimal(0),
        notional=Decimal(0),
        reference_price=mid,
        worst_price=None,
        levels=0,
        shortfall=reason,
        taken=memory,
    )


def _check(
    name: str, quantity: Decimal, memory: Taken, slippage_cap: float, lot_step: Decimal
) -> None:
    if not quantity.is_finite() or quantity == 0:
        raise ValueError(f"quantity {quantity}: an order needs a finite quantity other than 0")
    if not lot_step > 0:
        raise ValueError(f"lot_step {lot_step}: must be positive")
    if not 0 < slippage_cap < math.inf:
        raise ValueError(f"slippage_cap {slippage_cap}: must be a positive, finite fraction")
    if memory.book_id != name:
        raise ValueError(f"taken belongs to {memory.book_id}, not to {name}: start with None")
