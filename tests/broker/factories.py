"""Values that broker tests share: instruments, costs, accounts with a position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from broker.account import AccountState, open_account, place_orders
from broker.costs import CostModel, TradingRules
from broker.filling import Execution, FillBar, execute_pending
from broker.orders import Order, order_id
from broker.store import DecisionRecord
from market.bar import HOUR_MS, MarkSource, Settlement
from market.instrument import Instrument

BTC = "BTC/USDT:USDT"
ETH = "ETH/USDT:USDT"
SOL = "SOL/USDT:USDT"
FREE = CostModel(fee_rate=0.0, half_spread_bps=0.0, impact_coefficient=0.0)
USUAL = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=1.0)
RULES = TradingRules()
DEEP = (1e12, 0.03)


def instrument(
    symbol: str = BTC, *, lot_step: str = "0.001", min_notional: str = "5"
) -> Instrument:
    """A perpetual with a tick of 0.1."""
    return Instrument(
        symbol=symbol,
        venue_symbol=symbol.split(":")[0].replace("/", ""),
        base=symbol.split("/")[0],
        quote="USDT",
        tick_size=Decimal("0.1"),
        lot_step=Decimal(lot_step),
        min_quantity=Decimal(lot_step),
        max_quantity=None,
        min_notional=Decimal(min_notional),
        funding_interval_minutes=480,
    )


INSTRUMENTS: Mapping[str, Instrument] = {name: instrument(name) for name in (BTC, ETH, SOL)}


def account(deposit: str = "10000") -> AccountState:
    """A fresh account opened at time 0."""
    return open_account("main", deposit=Decimal(deposit), quote="USDT", time=0)[0]


def order(quantity: str, *, symbol: str = BTC, decision_time: int = HOUR_MS) -> Order:
    """A market order of the account ``main``."""
    return Order(
        order_id=order_id("main", decision_time, symbol),
        symbol=symbol,
        decision_time=decision_time,
        quantity=Decimal(quantity),
        decision_price=Decimal(100),
    )


def filled(
    state: AccountState,
    quantity: str,
    price: float,
    *,
    symbol: str = BTC,
    open_time: int = HOUR_MS,
    costs: CostModel = FREE,
) -> AccountState:
    """The account after one order filled at the open of a bar."""
    state = place_orders(state, (order(quantity, symbol=symbol, decision_time=open_time),))
    return fill(
        state, {symbol: price}, open_time=open_time, liquidity={symbol: DEEP}, costs=costs
    ).state


def fill(
    state: AccountState,
    open_price: Mapping[str, float],
    *,
    open_time: int = HOUR_MS,
    liquidity: Mapping[str, tuple[float, float]] | None = None,
    volume: Mapping[str, float] | None = None,
    instruments: Mapping[str, Instrument] | None = None,
    costs: CostModel = FREE,
    rules: TradingRules = RULES,
) -> Execution:
    """What becomes of the pending orders in one bar."""
    bar = FillBar(
        open_time=open_time,
        open_price=open_price,
        volume=volume or {},
        liquidity=liquidity or {},
    )
    return execute_pending(
        state, bar, instruments=instruments or INSTRUMENTS, costs=costs, rules=rules
    )


def settlement(
    nominal_time: int, *, rate: float = 0.0001, mark: float | None = 100.0, symbol: str = BTC
) -> Settlement:
    """A funding settlement with the few milliseconds of jitter that venues have."""
    return Settlement(
        symbol=symbol,
        funding_time=nominal_time + 7,
        rate=rate,
        mark_price=mark,
        mark_source=MarkSource.UNKNOWN if mark is None else MarkSource.VENUE,
    )


def record(
    decision_time: int, *, account_id: str = "main", equity: float = 10_000.0
) -> DecisionRecord:
    """A decision with round figures."""
    return replace(
        _RECORD,
        account_id=account_id,
        decision_time=decision_time,
        decided_at=decision_time + 5,
        equity=equity,
    )


_RECORD = DecisionRecord(
    account_id="main",
    decision_time=0,
    status="decided",
    source="policy",
    model_id="m1",
    reason="",
    target_weights={BTC: 0.5},
    weights={BTC: 0.25},
    equity=10_000.0,
    wallet=9_000.0,
    peak_equity=11_000.0,
    net_return=0.01,
    turnover=0.5,
    fees=1.0,
    slippage=0.5,
    funding=-0.1,
    missing=(ETH,),
    decided_at=0,
)
