"""DESIGN's invariants of accounting as properties over random lives of an account.

Each is tried on a few dozen examples in ``make test`` and on a thousand in ``make sim``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import count
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from broker.account import (
    AccountState,
    account_equity,
    account_weights,
    open_account,
    place_orders,
    plan_orders,
)
from broker.costs import CostModel, TradingRules
from broker.ledger import Entry, EntryKind
from broker.store import Store
from market.bar import HOUR_MS
from market.instrument import Market
from tests.broker.factories import BTC, FREE, INSTRUMENTS, account, fill, order
from tests.broker.lives import (
    COSTS,
    DEPOSIT,
    LEVELS,
    LIVES,
    RULES,
    SYMBOLS,
    UNITS,
    Event,
    Life,
    live,
)
from tests.broker.retold import held, quantity, retold

SHORT, LONG = 50, 1_000
UNITS_OF = st.dictionaries(st.sampled_from(SYMBOLS), st.integers(-300, 300), max_size=3)
PRICES_OF = st.fixed_dictionaries(
    {symbol: st.floats(level / 5, level * 5) for symbol, level in LEVELS.items()}
)
FLOWS = ("income:funding:", "income:insurance", "expenses:fees:", "expenses:liquidation:")
QUANTA, RELATIVE = Fraction(1, 10**6), Fraction(1, 10**9)

_NUMBERS = count(1)
_LEDGERS: list[Store] = []


@pytest.fixture(scope="module", autouse=True)
def ledgers() -> Iterator[None]:
    """One database in memory for every life of this module: a schema takes longer than a life."""
    _LEDGERS.append(Store.open("sqlite://"))
    yield
    _LEDGERS.pop().close()


def a_ledger() -> tuple[Store, str]:
    """The database, and a name that no other account in it has."""
    return _LEDGERS[-1], f"life{next(_NUMBERS)}"


def invariant(*drawn: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """Try a rule on ``SHORT`` examples, and on ``LONG`` in the simulations."""

    def decorate(rule: Callable[..., None]) -> Any:
        @pytest.mark.parametrize(
            "examples",
            [
                SHORT,
                pytest.param(LONG, marks=[pytest.mark.simulation, pytest.mark.timeout(1_800)]),
            ],
        )
        def test(examples: int) -> None:
            settings(max_examples=examples)(given(*drawn)(rule))()

        test.__doc__ = rule.__doc__
        return test

    return decorate


@invariant(LIVES)
def test_every_entry_sums_to_zero(life: Life) -> None:
    """Per currency; and wallet and quantities are the sums of the postings, to the last digit."""
    sums: dict[str, Fraction] = {}
    for event in live(life):
        for entry in event.entries:
            balance: dict[str, Fraction] = {}
            for leg in entry.postings:
                amount = Fraction(leg.amount)
                balance[leg.currency] = balance.get(leg.currency, Fraction(0)) + amount
                sums[leg.ledger_account] = sums.get(leg.ledger_account, Fraction(0)) + amount
            assert set(balance.values()) <= {0}
        assert Fraction(event.after.wallet) == sums["assets:wallet"]
        for symbol in SYMBOLS:
            assert held(event.after, symbol) == sums.get(f"assets:position:{symbol}", 0)


@invariant(LIVES)
def test_equity_is_the_wallet_and_the_open_profit(life: Life) -> None:
    """At every event wallet + Σ quantity·(mark − entry), as an account in fractions has it."""
    for event, theirs in retold(life):
        mark = {symbol: Fraction(price) for symbol, price in event.mark.items()}
        ours = account_equity(event.after, event.mark)
        stated = Fraction(event.after.wallet) + open_profit(event.after, event.mark)
        assert close(ours, stated, event)
        assert close(ours, theirs.equity(mark), event)


@invariant(LIVES)
def test_a_change_of_equity_is_accounted_for(life: Life) -> None:
    """Δequity = realised + Δunrealised − fees + funding − liquidation fees + insurance.

    Realised and unrealised together are what the marks did to what was held, and what each trade
    was away from the mark, whatever the average price.
    """
    mark: Mapping[str, float] = LEVELS
    for event in live(life):
        change = account_equity(event.after, event.mark) - account_equity(event.before, mark)
        drifted = sum(
            held(event.before, symbol) * (Fraction(event.mark[symbol]) - Fraction(mark[symbol]))
            for symbol in SYMBOLS
        )
        traded = sum(
            Fraction(one.facts["quantity"])
            * (Fraction(event.mark[str(one.symbol)]) - Fraction(one.facts["fill_price"]))
            for one in event.entries
            if "fill_price" in one.facts
        )
        assert close(change, drifted + traded + flows(event.entries), event)
        mark = event.mark


@invariant(LIVES)
def test_funding_is_paid_once_on_what_was_held(life: Life) -> None:
    """−quantity·mark·rate just before the nominal time, however late or often it is told."""
    paid: dict[tuple[str | None, int], int] = {}
    for event, theirs in retold(life):
        for entry in event.entries:
            if entry.kind is EntryKind.FUNDING:
                key = (entry.symbol, entry.event_time)
                paid[key] = paid.get(key, 0) + 1
                assert entry.posted_at == event.time + HOUR_MS
        assert set(paid) == theirs.settled
        assert set(paid.values()) <= {1}


@invariant(LIVES)
def test_a_restart_at_any_decision_changes_nothing(life: Life) -> None:
    """State rebuilt from rows equals the one in memory; from there on all is a function of it."""
    store, name = a_ledger()
    for event in live(life, name):
        if event.kind == "open":
            store.create_account(event.entries[0])
        if event.commit is not None:
            store.commit_decisions([event.commit])
            assert store.load_account(name) == event.after
    assert store.check(name) == []


@invariant(LIVES)
def test_the_journal_told_twice_is_told_once(life: Life) -> None:
    """Commits in one go give the same state; given again, and entries posted again, add nothing."""
    store, name = a_ledger()
    events = list(live(life, name))
    commits = [event.commit for event in events if event.commit is not None]
    entries = [entry for event in events for entry in event.entries]
    for new in (len(commits), 0):
        store.create_account(entries[0])
        assert store.commit_decisions(commits) == new
    assert store.post_entries(entries) == 0
    assert store.entries(name) == entries
    assert store.load_account(name) == events[-1].after


@invariant(LIVES)
def test_a_liquidation_leaves_nothing_and_owes_nothing(life: Life) -> None:
    """All is closed where the spare margin is gone, and insurance lifts the wallet to zero."""
    insured = Fraction(0)
    for event, theirs in retold(life):
        if event.kind != "margin":
            continue
        if not event.entries:
            assert event.after == event.before
            continue
        assert event.after.positions == {}
        assert event.after.wallet >= 0
        insured += sum(
            Fraction(one.facts["amount"])
            for one in event.entries
            if one.kind is EntryKind.INSURANCE
        )
        assert close(insured, theirs.insured, event)


@invariant(LIVES)
def test_a_symbol_without_a_price_keeps_its_position(life: Life) -> None:
    """Its orders are refused, the last mark values it, and nothing of it is traded."""
    fills = [event for event in live(life) if event.kind == "fill"]
    for index, event in enumerate(fills):
        gone = {symbol for symbol, at in life.gone_at.items() if index >= at}
        ordered = {one.symbol for one in event.before.pending}
        refused = {one.symbol for one in event.rejections}
        traded = {one.symbol for one in event.fills}
        assert refused >= ordered & gone
        assert traded == ordered - refused
        for symbol in gone:
            assert held(event.after, symbol) == held(event.before, symbol)


@invariant(LIVES)
def test_a_fill_is_the_order_or_what_the_bar_could_take(life: Life) -> None:
    """Whole, or whole lots within the share of the bar's volume, and then it says why."""
    for index, event in enumerate(event for event in live(life) if event.kind == "fill"):
        gone = {symbol for symbol, at in life.gone_at.items() if index >= at}
        fills = {one.symbol: one for one in event.fills}
        for one in event.before.pending:
            lot = Fraction(INSTRUMENTS[one.symbol].lot_step)
            share = Fraction(RULES.participation_cap) * Fraction(event.volume[one.symbol])
            lots = math.floor(share / lot + Fraction(1, 10**6))
            most = min(abs(Fraction(one.quantity)), lots * lot)
            if one.symbol not in fills:
                assert one.symbol in gone or most == 0
                continue
            filled = fills[one.symbol]
            assert Fraction(filled.quantity) * (1 if one.quantity > 0 else -1) == most
            assert (filled.shortfall is not None) == (filled.quantity != one.quantity)


@invariant(st.lists(st.tuples(UNITS_OF, PRICES_OF), min_size=1, max_size=8))
def test_a_spot_account_never_owes(bars: list[tuple[dict[str, int], dict[str, float]]]) -> None:
    """Whatever is bought at whatever open, cash stays at least 0, and equity is cash and value."""
    state, _ = open_account("main", deposit=DEPOSIT, quote="USDT", time=0, market=Market.SPOT)
    for index, (units, prices) in enumerate(bars, start=1):
        wanted = {s: max(n * UNITS[s], -quantity(state, s)) for s, n in units.items()}
        orders = tuple(
            order(str(amount), symbol=symbol, decision_time=index * HOUR_MS)
            for symbol, amount in wanted.items()
            if amount
        )
        before = account_equity(state, prices)
        done = fill(
            place_orders(state, orders),
            prices,
            open_time=index * HOUR_MS,
            volume=dict.fromkeys(SYMBOLS, 1e12),
            liquidity=dict.fromkeys(SYMBOLS, (1e9, 0.03)),
            costs=COSTS,
        )
        state = done.state
        cost = sum(one.fee + one.slippage for one in done.fills)
        value = sum(quantity(state, s) * Decimal(repr(prices[s])) for s in SYMBOLS)
        assert state.wallet >= 0
        assert account_equity(state, prices) == pytest.approx(float(state.wallet + value))
        assert account_equity(state, prices) == pytest.approx(before - float(cost))


@invariant(LIVES)
def test_holding_trades_nothing(life: Life) -> None:
    """A target equal to the drifted weights orders nothing, whatever is held."""
    *_, last = live(life)
    state = replace(last.after, pending=())
    weights = account_weights(state, last.mark, last.mark)
    assume(account_equity(state, last.mark) > 1)
    plan = plan_orders(
        state,
        target_weights=weights,
        price=last.mark,
        mark=last.mark,
        instruments=INSTRUMENTS,
        costs=FREE,
        rules=TradingRules(leverage_limit=1e9, allow_short=True),
        decision_time=last.time,
        tradable=set(SYMBOLS),
    )
    assert plan.orders == ()


SIZES = st.tuples(*[st.integers(1, 10**6)] * 2).map(sorted)
RATES = st.tuples(*[st.floats(0, 1).map(lambda x: round(x, 6))] * 2).map(sorted)


@invariant(SIZES, st.sampled_from([-1, 1]), st.floats(0.01, 1e5), st.floats(0, 1e9))
def test_cost_never_falls_with_size(
    sizes: list[int], side: int, price: float, volume: float
) -> None:
    """Fee and slippage of the larger of two orders are at least those of the smaller."""
    costs = CostModel(fee_rate=0.0005, half_spread_bps=2.0, impact_coefficient=1.0)
    small, large = (cost(side * Decimal(n) / 1_000, price, volume, costs) for n in sizes)
    assert small <= large


@invariant(RATES, st.sampled_from([-1, 1]), st.integers(1, 10**6), st.floats(0.01, 1e5))
def test_cost_never_falls_with_the_cost_rate(
    rates: list[float], side: int, size: int, price: float
) -> None:
    """Nor does it fall when every rate of the cost model is scaled up."""
    costs = CostModel(fee_rate=0.01, half_spread_bps=500.0, impact_coefficient=3.0)
    low, high = (
        cost(side * Decimal(size) / 1_000, price, 1e6, costs.scaled(rate)) for rate in rates
    )
    assert low <= high


def cost(quantity: Decimal, price: float, volume: float, costs: CostModel) -> Decimal:
    """Fee and slippage of one order."""
    state = place_orders(account(), (order(str(quantity)),))
    (one,) = fill(state, {BTC: price}, liquidity={BTC: (volume, 0.05)}, costs=costs).fills
    return one.fee + one.slippage


def open_profit(state: AccountState, mark: Mapping[str, float]) -> Fraction:
    """Σ quantity·(mark − entry)."""
    return sum(
        (
            Fraction(one.quantity) * (Fraction(mark[symbol]) - Fraction(one.entry_price))
            for symbol, one in state.positions.items()
        ),
        Fraction(0),
    )


def close(ours: float | Fraction, theirs: float | Fraction, event: Event) -> bool:
    """Equal but for the quantum of each posting and float64's share of what is at stake."""
    at_stake = Fraction(abs(event.after.wallet)) + sum(
        abs(held(state, symbol)) * Fraction(event.mark[symbol])
        for state in (event.before, event.after)
        for symbol in SYMBOLS
    )
    return abs(Fraction(ours) - Fraction(theirs)) <= QUANTA + RELATIVE * at_stake


def flows(entries: Sequence[Entry]) -> Fraction:
    """Funding and insurance less fees and liquidation fees, as posted."""
    total = Fraction(0)
    for entry in entries:
        for leg in entry.postings:
            if leg.ledger_account.startswith(FLOWS):
                total -= Fraction(leg.amount)
    return total
