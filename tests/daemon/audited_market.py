"""Eight days of one symbol with recorded books, and an account with three fills in it."""

from __future__ import annotations

import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from broker.account import AccountState, open_account, place_orders
from broker.book_walk import book_id, walk
from broker.costs import CostModel, TradingRules
from broker.execution import liquidity
from broker.filling import FillBar, execute_pending, post_fill
from broker.ledger import Entry
from broker.money import money, to_money
from broker.orders import Fill, Order, fill_id, order_id
from broker.store import Store
from daemon.stores import MARKET_KEY
from market.bar import HOUR_MS, Bar
from market.warehouse import Origin, Warehouse
from tests.broker.factories import INSTRUMENTS, record
from tests.broker.planted_books import ADV, BTC, SIGMA, planted

FIRST = 475_000  # hours since 1970: in 2024
WARM, HOURS = 200, 200
VENUE = "binanceusdm"
COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=0.1)
MODELLED_AT = (FIRST + 10, FIRST + 20)
WALKED_AT = FIRST + 30
# √24 times the sample deviation of 168 returns of this size and alternating sign is SIGMA.
STEP = SIGMA / (24 * 168 / 167) ** 0.5


def bar(hour: int) -> Bar:
    """A bar that closes 100 or a step higher, with a twenty-fourth of the daily volume."""
    close = 100.0 * 2.718281828459045 ** (STEP * (hour % 2))
    return Bar(
        symbol=BTC,
        open_time=hour * HOUR_MS,
        open=100.25,
        high=110.0,
        low=90.0,
        close=close,
        volume=1.0,
        quote_volume=ADV / 24,
    )


def build(folder: Path) -> None:
    """Make the warehouse and the ledger in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    warehouse = Warehouse.open(f"chdb://{folder / 'warehouse'}")
    hours = range(FIRST - WARM, FIRST + HOURS)
    _store(warehouse, [bar(hour) for hour in hours])
    warehouse.insert_books([planted(FIRST + hour) for hour in range(HOURS)], venue=VENUE)
    store = Store.open(f"sqlite:///{folder / 'ledger.sqlite'}")
    store.set_meta(MARKET_KEY, VENUE)
    opening = FIRST * HOUR_MS
    state, entry = open_account("main", deposit=Decimal(6_400), quote="USDT", time=opening)
    store.create_account(entry)
    for hour in MODELLED_AT:
        state = _modelled(store, warehouse, state, hour)
    _walked(store, state)
    store.close()
    warehouse.close()


def revise(folder: Path) -> None:
    """Let the venue give the bar of the second modelled fill another open."""
    warehouse = Warehouse.open(f"chdb://{folder / 'warehouse'}")
    _store(warehouse, [replace(bar(MODELLED_AT[1]), open=100.5)], later=1)
    warehouse.close()


def _store(warehouse: Warehouse, bars: list[Bar], later: int = 0) -> None:
    warehouse.insert_bars(
        bars,
        venue=VENUE,
        interval_ms=HOUR_MS,
        origin=Origin.REST,
        ingested_at=(FIRST + HOURS) * HOUR_MS + later,
    )


def _order(hour: int, quantity: str) -> Order:
    time = hour * HOUR_MS
    return Order(
        order_id=order_id("main", time, BTC),
        symbol=BTC,
        decision_time=time,
        quantity=Decimal(quantity),
        decision_price=Decimal(100),
    )


def _modelled(store: Store, warehouse: Warehouse, state: AccountState, hour: int) -> AccountState:
    time = hour * HOUR_MS
    panel = warehouse.load_panel(
        [BTC], venue=VENUE, interval_ms=HOUR_MS, since=time - 180 * HOUR_MS, until=time
    )
    known = liquidity(panel)
    order = _order(hour, "0.123")
    done = execute_pending(
        place_orders(state, (order,)),
        FillBar(
            open_time=time,
            open_price={BTC: 100.25},
            volume={BTC: 1e9},
            liquidity={BTC: (float(known.adv_quote[-1, 0]), float(known.sigma_daily[-1, 0]))},
        ),
        instruments=INSTRUMENTS,
        costs=COSTS,
        rules=TradingRules(),
    )
    _commit(store, order, done.fills[0], done.entries)
    return done.state


def _walked(store: Store, state: AccountState) -> None:
    book, order = planted(WALKED_AT), _order(WALKED_AT, "4.000")
    got = walk(book, order.quantity, slippage_cap=0.1, lot_step=Decimal("0.001"))
    assert got.average_price is not None
    assert got.fill_price is not None
    assert got.reference_price is not None
    size = float(got.filled)
    fill = Fill(
        fill_id=fill_id(order),
        order_id=order.order_id,
        symbol=BTC,
        event_time=book.available_at,
        quantity=got.filled,
        reference_price=got.reference_price,
        fill_price=got.fill_price,
        fee=to_money(size * got.average_price * COSTS.fee_rate),
        slippage=money(got.slippage),
        book_id=book_id(book),
    )
    facts = {"fee_rate": repr(COSTS.fee_rate)}
    _, entry = post_fill(state, fill, realised=0.0, entry_price=Decimal(100), facts=facts)
    _commit(store, order, fill, (entry,))


def _commit(store: Store, order: Order, fill: Fill, entries: tuple[Entry, ...]) -> None:
    store.commit_decision(record(order.decision_time, equity=6_400.0), entries, [order], [fill])


if __name__ == "__main__":
    {"build": build, "revise": revise}[sys.argv[1]](Path(sys.argv[2]))
