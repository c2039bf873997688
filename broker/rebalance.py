"""From target weights to the orders of one account, with a reason for every order not placed.

Sizing is the kernel's; this module validates weights, lines symbols up as arrays, and names what
happened to each. Pure: no clock, no storage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from broker import kernel
from broker.costs import CostModel, TradingRules
from broker.execution import UNKNOWN_SIGMA_DAILY, has_price
from broker.money import to_float, to_price, to_quantity
from broker.orders import Order, Rejection, RejectReason, order_id
from broker.state import AccountState
from broker.valuation import account_book, mark_array
from market.instrument import Instrument

WEIGHT_TOLERANCE = 1e-9


class WeightsRejected(ValueError):
    """Target weights that no account may follow: not finite, negative, too large, unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Orders of one decision, reductions first, and what was not ordered and why.

    ``buy_scale`` is the one factor applied to everything that adds exposure.
    """

    orders: tuple[Order, ...]
    rejections: tuple[Rejection, ...]
    buy_scale: float


def validate_weights(
    target_weights: Mapping[str, float],
    instruments: Mapping[str, Instrument],
    rules: TradingRules,
) -> None:
    """Check target weights (risky assets; cash is the rest): gross exposure within the limit.

    Raises:
        WeightsRejected: naming the symbols and values.
    """
    not_finite = {name: w for name, w in target_weights.items() if not math.isfinite(w)}
    if not_finite:
        raise WeightsRejected(f"weights must be finite: {not_finite}")
    negative = {name: weight for name, weight in target_weights.items() if weight < 0}
    if negative and not rules.allow_short:
        raise WeightsRejected(
            f"weights must not be negative: {negative} "
            "(account.allow_short permits it, on perpetuals)"
        )
    unknown = sorted(name for name in target_weights if name not in instruments)
    if unknown:
        raise WeightsRejected(f"weights for symbols that the venue does not list: {unknown}")
    gross, limit = math.fsum(map(abs, target_weights.values())), rules.leverage_limit
    if gross > limit + WEIGHT_TOLERANCE:
        raise WeightsRejected(
            f"weights sum to {gross}, above {limit} (account.leverage_limit): "
            f"{dict(target_weights)}"
        )


def plan_orders(
    state: AccountState,
    *,
    target_weights: Mapping[str, float],
    price: Mapping[str, float],
    mark: Mapping[str, float],
    instruments: Mapping[str, Instrument],
    costs: CostModel,
    rules: TradingRules,
    decision_time: int,
    tradable: Set[str],
    liquidity: Mapping[str, tuple[float, float]] | None = None,
) -> Plan:
    """Turn target weights into orders; a symbol without a target has target 0.

    Args:
        state: the account, nothing pending.
        target_weights: by symbol, finite, Σ|w| ≤ the leverage limit, ≥ 0 unless shorts are
            allowed.
        price: decision prices (the bar's close); missing, NaN or ≤ 0 keeps the position.
        mark: valuation prices of at least every held symbol.
        instruments: by symbol; a held symbol that is unknown keeps its position.
        costs: for the estimate that scales buys.
        rules: leverage limit and band.
        decision_time: close of the bar, UTC milliseconds.
        tradable: symbols that may be ordered.
        liquidity: (ADV in quote currency, daily σ) by symbol, for the estimate of impact; what is
            not given counts as a whole day's volume.

    Raises:
        WeightsRejected: the weights break a rule.
        MarkMissing: a held symbol has no mark.
        ValueError: orders are still pending.
    """
    if state.pending:
        raise ValueError(f"account {state.account_id} has pending orders")
    validate_weights(target_weights, instruments, rules)
    symbols = tuple(sorted({*target_weights, *state.positions}))
    marks = mark_array(state, symbols, mark)
    sheet = _Sheet(
        symbols=symbols,
        target=np.array([target_weights.get(symbol, 0.0) for symbol in symbols]),
        book=account_book(state, symbols),
        mark=marks,
        price=_decision_prices(symbols, price, marks),
        has_price=np.array([has_price(price.get(symbol)) for symbol in symbols], dtype=np.bool_),
        allowed=np.array([s in tradable and s in instruments for s in symbols], dtype=np.bool_),
        lots=lot_rules([instruments.get(symbol) for symbol in symbols]),
    )
    planned = kernel.plan_rebalance(
        sheet.target,
        sheet.book,
        sheet.price,
        sheet.mark,
        tradable=sheet.allowed & sheet.has_price,
        liquidity=_depth(symbols, liquidity),
        lots=sheet.lots,
        costs=costs,
        rules=rules,
    )
    return Plan(
        orders=_orders(sheet, planned, state.account_id, decision_time, instruments),
        rejections=_rejections(sheet, planned, rules, decision_time, instruments),
        buy_scale=float(planned.buy_scale),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sheet:
    """One decision lined up as arrays (asset,); ``has_price`` and ``allowed`` together trade."""

    symbols: tuple[str, ...]
    target: kernel.Float64Array
    book: kernel.Book
    mark: kernel.Float64Array
    price: kernel.Float64Array
    has_price: kernel.BoolArray
    allowed: kernel.BoolArray
    lots: kernel.LotRules


def _decision_prices(
    symbols: Sequence[str], price: Mapping[str, float], marks: kernel.Float64Array
) -> kernel.Float64Array:
    """The decision price, else the mark, else 1: the kernel divides by it even where masked."""
    chosen = [price[s] if has_price(price.get(s)) else marks[i] for i, s in enumerate(symbols)]
    values = np.array(chosen, dtype=np.float64)
    return np.where(values > 0, values, 1.0)


def lot_rules(instruments: Sequence[Instrument | None]) -> kernel.LotRules:
    """Line venue rules up, (asset,); without an instrument an asset is masked, not ruled."""
    return kernel.LotRules(
        np.array([to_float(item.lot_step) if item else 1.0 for item in instruments]),
        np.array([to_float(item.min_quantity) if item else 0.0 for item in instruments]),
        np.array([to_float(item.min_notional) if item else 0.0 for item in instruments]),
        np.array([_largest_order(item) for item in instruments]),
    )


def _largest_order(item: Instrument | None) -> float:
    return math.inf if item is None or item.max_quantity is None else to_float(item.max_quantity)


def _depth(
    symbols: Sequence[str], liquidity: Mapping[str, tuple[float, float]] | None
) -> kernel.Liquidity:
    known = liquidity or {}
    rows = np.array([known.get(symbol, (0.0, UNKNOWN_SIGMA_DAILY)) for symbol in symbols])
    rows = rows.reshape(-1, 2)
    return kernel.Liquidity(rows[:, 0], rows[:, 1])


def _orders(
    sheet: _Sheet,
    planned: kernel.PlannedTrade,
    account_id: str,
    decision_time: int,
    instruments: Mapping[str, Instrument],
) -> tuple[Order, ...]:
    """One order for each symbol that trades; reductions first, then by symbol."""
    reduces = planned.traded * sheet.book.quantity < 0
    chosen = sorted(np.flatnonzero(planned.traded), key=lambda i: (not reduces[i], i))
    return tuple(
        Order(
            order_id=order_id(account_id, decision_time, sheet.symbols[i]),
            symbol=sheet.symbols[i],
            decision_time=decision_time,
            quantity=to_quantity(planned.traded[i], instruments[sheet.symbols[i]].lot_step),
            decision_price=to_price(sheet.price[i]),
            limited_by=RejectReason.ABOVE_MAX_QUANTITY if planned.capped[i] else None,
        )
        for i in chosen
    )


def _rejections(
    sheet: _Sheet,
    planned: kernel.PlannedTrade,
    rules: TradingRules,
    decision_time: int,
    instruments: Mapping[str, Instrument],
) -> tuple[Rejection, ...]:
    """Name the rule that stopped each wanted change; holding is no wanted change."""
    found = []
    for i, symbol in enumerate(sheet.symbols):
        wanted, reason = _stopped(sheet, planned, rules, i)
        if reason is None:
            continue
        item = instruments.get(symbol)
        found.append(
            Rejection(
                symbol=symbol,
                decision_time=decision_time,
                reason=reason,
                wanted_quantity=to_quantity(wanted, item.lot_step / 10**6) if item else Decimal(0),
            )
        )
    return tuple(found)


def _stopped(
    sheet: _Sheet, planned: kernel.PlannedTrade, rules: TradingRules, i: int
) -> tuple[float, RejectReason | None]:
    """Return the wanted change of asset ``i`` and the first rule, in their order, against it."""
    one = slice(i, i + 1)
    held, price = sheet.book.quantity[one], sheet.price[one]
    if not (sheet.allowed[i] and sheet.has_price[i]):
        if sheet.target[i] == 0 and held[0] == 0:
            return 0.0, None
        blind = kernel.target_quantity(sheet.target[one], planned.equity, price) - held
        priced = sheet.has_price[i] or sheet.mark[i] > 0
        reason = RejectReason.NOT_TRADABLE if sheet.has_price[i] else RejectReason.NO_PRICE
        return (float(blind[0]) if priced else 0.0), reason
    wanted = planned.wanted[one]
    lots = kernel.LotRules(*(rule[one] for rule in sheet.lots))
    noise = kernel.LOT_TOLERANCE * float(lots.lot_step[0])
    if planned.traded[i] != 0 or abs(float(wanted[0])) <= noise:
        return 0.0, None
    rounded = kernel.round_to_lot(wanted, lots.lot_step)
    if bool(kernel.within_band(wanted, price, planned.equity, rules.no_trade_band)[0]):
        reason = RejectReason.WITHIN_BAND
    elif rounded[0] == 0:
        reason = RejectReason.BELOW_LOT_STEP
    elif bool(kernel.meets_minimum(rounded, held, price, lots)[0]):
        reason = RejectReason.LEVERAGE_LIMIT
    elif abs(float(rounded[0])) < float(lots.min_quantity[0]) * (1 - kernel.LIMIT_TOLERANCE):
        reason = RejectReason.BELOW_MIN_QUANTITY
    else:
        reason = RejectReason.BELOW_MIN_NOTIONAL
    return float(wanted[0]), reason
