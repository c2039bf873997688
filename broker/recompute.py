"""Computing a fill again from what was stored: the bars, or the order book that it walked.

Pure. Quantities are taken as they were filled; price, fee and slippage come from the same functions
that made the fill, and the ledger's figures must be equal to the last digit. It says what differs,
or what is missing, and never which of the two is right.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from broker import kernel
from broker.book_walk import BookFill, Taken, book_flaw, book_id, walk
from broker.costs import CostModel
from broker.execution import has_price
from broker.money import money, to_float, to_money, to_price
from broker.orders import Fill
from market.quote import OrderBook

COST_FACTS = frozenset(
    {"fee_rate", "half_spread_bps", "impact_coefficient", "adv_quote", "sigma_daily"}
)
"""Facts of a fill's entry by which the model's price is computed again."""
# What was filled lay within the cap of its time, so any cap that reaches every level will do.
_NO_CAP = 1e12


class FillKind(enum.StrEnum):
    """What made a fill: the model at a bar's open, or a walk of a recorded book."""

    MODELLED = "modelled"
    BOOK = "book"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A figure that the ledger states otherwise than it comes out, both as decimals."""

    figure: str
    stored: str
    recomputed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """What became of one fill.

    Attributes:
        differences: empty where everything is equal.
        missing: what is not stored, so that nothing could be computed; empty where all was there.
    """

    fill: Fill
    kind: FillKind
    differences: tuple[Difference, ...] = ()
    missing: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether the fill came out as the ledger has it."""
        return not (self.differences or self.missing)


def kind_of(fill: Fill) -> FillKind:
    """Return what made ``fill``."""
    return FillKind.MODELLED if fill.book_id is None else FillKind.BOOK


def recompute_modelled(
    fill: Fill, facts: Mapping[str, str], *, open_price: float, liquidity: tuple[float, float]
) -> Recomputed:
    """Compute a modelled fill again.

    Args:
        fill: as the ledger has it.
        facts: of its entry: the parameters that were in force.
        open_price: of the bar in which it was filled; NaN where it is not stored.
        liquidity: (ADV in quote currency, daily σ) at the close of the bar before.
    """
    if lacking := sorted(COST_FACTS - facts.keys()):
        return _missing(fill, f"its entry states no {', '.join(lacking)}")
    if not has_price(open_price):
        return _missing(fill, f"no bar of {fill.symbol} is stored for it")
    costs, depth = _costs(facts), kernel.Liquidity(*(np.array([one]) for one in liquidity))
    traded, opened = np.array([to_float(fill.quantity)]), np.array([open_price])
    price = kernel.modelled_fill_price(traded, opened, depth, costs)
    slippage = np.abs(traded) * np.abs(price - opened)
    figures = _figures(fill, traded, price, costs) | {
        "reference_price": _pair(fill.reference_price, to_price(open_price)),
        "slippage": _pair(fill.slippage, to_money(float(slippage[0]))),
    }
    # repr, not a decimal: the facts hold float64 as Python writes them.
    figures |= {
        name: (facts[name], repr(float(value)))
        for name, value in zip(("adv_quote", "sigma_daily"), liquidity, strict=True)
    }
    return Recomputed(fill=fill, kind=FillKind.MODELLED, differences=_differences(figures))


def recompute_walk(
    fill: Fill, facts: Mapping[str, str], *, book: OrderBook | None, taken: Taken | None
) -> tuple[Recomputed, Taken | None]:
    """Compute a fill that walked a book again.

    Args:
        fill: as the ledger has it, with a ``book_id``.
        facts: of its entry: the fee rate that was in force.
        book: what is stored of that symbol and decision; ``None`` where nothing is.
        taken: what earlier fills of this account took of the snapshot; ``None`` for the first.

    Returns:
        The result, and the memory for the next fill of the snapshot.
    """
    if "fee_rate" not in facts:
        return _missing(fill, "its entry states no fee_rate"), taken
    if book is None:
        return _missing(fill, f"no order book {fill.book_id} is stored"), taken
    if book.symbol != fill.symbol:
        return _missing(fill, f"order book {fill.book_id} is not of {fill.symbol}"), taken
    if book_id(book) != fill.book_id:
        return _missing(fill, f"order book {fill.book_id} was replaced by {book_id(book)}"), taken
    if (flaw := book_flaw(book)) is not None:
        return _missing(fill, f"order book {fill.book_id} cannot be walked: {flaw.value}"), taken
    walked = walk(
        book, fill.quantity, taken=taken, slippage_cap=_NO_CAP, lot_step=_step_of(fill.quantity)
    )
    figures = _walked_figures(fill, walked, float(facts["fee_rate"]))
    result = Recomputed(fill=fill, kind=FillKind.BOOK, differences=_differences(figures))
    return result, walked.taken


Figures = dict[str, tuple[str, str]]
"""Stored and recomputed text by the figure's name."""


def _walked_figures(fill: Fill, walked: BookFill, fee_rate: float) -> Figures:
    quantity = {"quantity": (_text(fill.quantity), _text(walked.filled))}
    if walked.average_price is None or walked.reference_price is None:
        return quantity
    traded, price = np.array([to_float(walked.filled)]), np.array([walked.average_price])
    costs = CostModel(fee_rate=fee_rate, half_spread_bps=0.0, impact_coefficient=0.0)
    return (
        quantity
        | _figures(fill, traded, price, costs)
        | {
            "reference_price": _pair(fill.reference_price, walked.reference_price),
            "slippage": _pair(fill.slippage, money(walked.slippage)),
        }
    )


def _figures(
    fill: Fill,
    traded: kernel.Float64Array,
    price: kernel.Float64Array,
    costs: CostModel,
) -> Figures:
    """Price and fee of one fill, each array (1,), as the kernel charges them."""
    fee = kernel.trade_fee(traded, price, costs)
    return {
        "fill_price": _pair(fill.fill_price, to_price(float(price[0]))),
        "fee": _pair(fill.fee, to_money(float(fee[0]))),
    }


def _differences(figures: Figures) -> tuple[Difference, ...]:
    return tuple(
        Difference(figure=name, stored=stored, recomputed=again)
        for name, (stored, again) in figures.items()
        if stored != again
    )


def _pair(stored: Decimal, again: Decimal) -> tuple[str, str]:
    """Both as text; 1.0 and 1.00 are one price."""
    return _text(stored), _text(again)


def _text(value: Decimal) -> str:
    return format(value.normalize(), "f")


def _step_of(quantity: Decimal) -> Decimal:
    """The last decimal place of ``quantity``: of it every filled quantity is a multiple."""
    exponent = quantity.as_tuple().exponent
    assert isinstance(exponent, int)  # a fill's quantity is finite
    return Decimal(1).scaleb(exponent)


def _costs(facts: Mapping[str, str]) -> CostModel:
    return CostModel(
        fee_rate=float(facts["fee_rate"]),
        half_spread_bps=float(facts["half_spread_bps"]),
        impact_coefficient=float(facts["impact_coefficient"]),
    )


def _missing(fill: Fill, what: str) -> Recomputed:
    return Recomputed(fill=fill, kind=kind_of(fill), missing=what)
