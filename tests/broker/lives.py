"""Random lives of one perpetual account: orders, flips, funding known late or twice, delistings.

A life is drawn as plain values; ``live`` carries an account through it and yields every event with
the account before and after, so that each invariant is one loop over events.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from hypothesis import strategies as st

from broker.account import (
    AccountState,
    SettlementRefused,
    open_account,
    place_orders,
    post_settlement,
)
from broker.costs import CostModel, TradingRules
from broker.ledger import Entry
from broker.liquidation import MarkRange, check_margin
from broker.orders import Fill, Order, Rejection, order_id
from broker.records import Commit
from broker.tiers import Ladder, MarginTable
from market.bar import HOUR_MS, MINUTE_MS, MarkSource, Settlement
from tests.broker.factories import BTC, ETH, SOL, fill, record

SYMBOLS = (BTC, ETH, SOL)
LEVELS = {BTC: 20_000.0, ETH: 1_000.0, SOL: 0.5}
UNITS = {BTC: Decimal("0.005"), ETH: Decimal("0.1"), SOL: Decimal(200)}
"""About 100 USDT of each: an order of 300 units is three times the deposit."""
DEPOSIT = Decimal(10_000)
COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.5, impact_coefficient=1.0)
RULES = TradingRules(participation_cap=0.1, latency_ms=0)
"""A fill falls on the very minute of a settlement at the open, and must not count for it."""
MARGIN_RATE, LIQUIDATION_FEE = 0.05, 0.0125
MARGIN = MarginTable(
    (Ladder(symbol="*", since=0, tiers=((0.0, MARGIN_RATE),), liquidation_fee=LIQUIDATION_FEE),)
)
OPENED_AT = 1_000 * 24 * HOUR_MS


@dataclass(frozen=True, kw_only=True)
class Due:
    """A settlement inside or at the open of a bar, known so many bars late, so many times."""

    symbol: str
    minute: int
    rate: float
    late_bars: int
    copies: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One hour, so many hours after the one before; moves in thousandths of the price.

    ``turnover`` is what all traded of each symbol, quote currency.
    """

    hours: int
    units: Mapping[str, int]
    jumps: Mapping[str, int]
    swings: Mapping[str, tuple[int, int, int]]
    turnover: int
    dues: Sequence[Due]


@dataclass(frozen=True, kw_only=True)
class Life:
    """Bars, and from which bar on a symbol has no price any more."""

    bars: Sequence[Bar]
    gone_at: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Where the mark of every symbol was within a bar; a symbol that is gone keeps its last."""

    opened: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]
    close: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened: ``open``, ``fill``, ``funding``, ``refused``, ``margin``, ``order``.

    Attributes:
        mark: valuation prices at that moment.
        settlement: of ``funding`` and ``refused``; the entries are empty where nothing was held
            or it was posted already.
    """

    kind: str
    time: int
    before: AccountState
    after: AccountState
    mark: Mapping[str, float]
    marks: Marks
    entries: tuple[Entry, ...] = ()
    fills: tuple[Fill, ...] = ()
    rejections: tuple[Rejection, ...] = ()
    volume: Mapping[str, float] = field(default_factory=dict)
    settlement: Settlement | None = None
    commit: Commit | None = None


def _each(values: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries(dict.fromkeys(SYMBOLS, values))


_UNITS = st.dictionaries(
    st.sampled_from(SYMBOLS), st.integers(-300, 300).filter(bool), max_size=len(SYMBOLS)
)
_JUMPS = _each(st.one_of(st.integers(-30, 30), st.integers(-600, 900)))
_SWINGS = st.fixed_dictionaries(
    {
        symbol: st.tuples(st.integers(0, 300), st.integers(0, 300), st.integers(0, 1_000))
        for symbol in SYMBOLS
    }
)
_DUES = st.lists(
    st.builds(
        Due,
        symbol=st.sampled_from(SYMBOLS),
        minute=st.sampled_from([0, 0, 0, 1, 59]),
        rate=st.floats(-0.02, 0.02).map(lambda rate: round(rate, 8)),
        late_bars=st.sampled_from([0, 1, 1, 3]),
        copies=st.sampled_from([1, 1, 2]),
    ),
    min_size=1,
    max_size=3,
)
_BARS = st.builds(
    Bar,
    hours=st.sampled_from([1, 1, 1, 7, 90, 230]),
    units=_UNITS,
    jumps=_JUMPS,
    swings=_SWINGS,
    turnover=st.sampled_from([0, 2_000, 200_000, 10_000_000]),
    dues=_DUES,
)
LIVES = st.builds(
    Life,
    bars=st.lists(_BARS, min_size=4, max_size=8),
    gone_at=st.dictionaries(st.sampled_from(SYMBOLS), st.integers(1, 8), max_size=2),
)


def live(life: Life, account_id: str = "main") -> Iterator[Event]:
    """Carry an account through ``life``: settlements, fills, margin test, orders, bar by bar."""
    state, opening = open_account(account_id, deposit=DEPOSIT, quote="USDT", time=OPENED_AT)
    marks = Marks(opened=LEVELS, low=LEVELS, high=LEVELS, close=LEVELS)
    yield Event(
        kind="open", time=OPENED_AT, before=state, after=state, mark=LEVELS, marks=marks,
        entries=(opening,),
    )  # fmt: skip
    late: list[tuple[int, Settlement]] = []
    time = OPENED_AT
    for index, bar in enumerate(life.bars):
        time += bar.hours * HOUR_MS
        gone = {symbol for symbol, at in life.gone_at.items() if index >= at}
        marks = _marks(bar, marks, gone)
        named = [_settlement(due, time, marks) for due in bar.dues if due.symbol not in gone]
        waits = [due.late_bars for due in bar.dues if due.symbol not in gone]
        copies = [due.copies for due in bar.dues if due.symbol not in gone]
        late += [
            (index + wait, one)
            for one, wait, many in zip(named, waits, copies, strict=True)
            for _ in range(many)
        ]
        known = [one for at, one in late if at == index]
        late = [(at, one) for at, one in late if at != index]
        for event in _interval(state, bar, time, marks, gone, known):
            state = event.after
            yield event


def _interval(
    state: AccountState,
    bar: Bar,
    time: int,
    marks: Marks,
    gone: set[str],
    known: list[Settlement],
) -> Iterator[Event]:
    events: list[Event] = []
    for one in sorted(known, key=lambda each: each.nominal_time):
        if one.nominal_time <= time:
            events.append(_settled(state, one, time, marks, marks.opened))
            state = events[-1].after
            yield events[-1]
    events.append(_filled(state, time, marks, gone, bar.turnover))
    state = events[-1].after
    yield events[-1]
    for one in sorted(known, key=lambda each: each.nominal_time):
        if one.nominal_time > time:
            events.append(_settled(state, one, time, marks, marks.opened))
            state = events[-1].after
            yield events[-1]
    events.append(_margin_tested(state, time, marks))
    state = events[-1].after
    yield events[-1]
    yield _ordered(state, bar, time + HOUR_MS, marks, events)


def _settled(
    state: AccountState, one: Settlement, time: int, marks: Marks, mark: Mapping[str, float]
) -> Event:
    try:
        after, entry = post_settlement(state, one, posted_at=time + HOUR_MS)
    except SettlementRefused:
        return Event(
            kind="refused", time=time, before=state, after=state, mark=mark, marks=marks,
            settlement=one,
        )  # fmt: skip
    return Event(
        kind="funding", time=time, before=state, after=after, mark=mark, marks=marks,
        settlement=one, entries=(entry,) if entry else (),
    )  # fmt: skip


def _filled(state: AccountState, time: int, marks: Marks, gone: set[str], turnover: int) -> Event:
    opens = {s: math.nan if s in gone else price * 1.0005 for s, price in marks.opened.items()}
    volumes = {symbol: turnover / price for symbol, price in marks.opened.items()}
    done = fill(
        state,
        opens,
        open_time=time,
        volume=volumes,
        liquidity=dict.fromkeys(SYMBOLS, (24000000.0, 0.03)),
        costs=COSTS,
        rules=RULES,
    )
    return Event(
        kind="fill", time=time, before=state, after=done.state, mark=marks.opened, marks=marks,
        entries=done.entries, fills=done.fills, rejections=done.rejections, volume=volumes,
    )  # fmt: skip


def _margin_tested(state: AccountState, time: int, marks: Marks) -> Event:
    ranges = {
        symbol: MarkRange(
            opened=marks.opened[symbol], low=marks.low[symbol], high=marks.high[symbol]
        )
        for symbol in SYMBOLS
    }
    after, entries = check_margin(state, ranges, close_time=time + HOUR_MS, table=MARGIN)
    return Event(
        kind="margin", time=time + HOUR_MS - 1, before=state, after=after, mark=marks.close,
        marks=marks, entries=entries,
    )  # fmt: skip


def _ordered(
    state: AccountState, bar: Bar, time: int, marks: Marks, events: Sequence[Event]
) -> Event:
    orders = tuple(
        Order(
            order_id=order_id(state.account_id, time, symbol),
            symbol=symbol,
            decision_time=time,
            quantity=units * UNITS[symbol],
            decision_price=Decimal(repr(marks.close[symbol])),
        )
        for symbol, units in sorted(bar.units.items())
    )
    return Event(
        kind="order", time=time, before=state, after=place_orders(state, orders),
        mark=marks.close, marks=marks,
        commit=Commit(
            record=record(time, account_id=state.account_id),
            entries=tuple(entry for event in events for entry in event.entries),
            orders=orders,
            fills=tuple(one for event in events for one in event.fills),
            rejections=tuple(one for event in events for one in event.rejections),
        ),
    )  # fmt: skip


def _settlement(due: Due, time: int, marks: Marks) -> Settlement:
    return Settlement(
        symbol=due.symbol,
        funding_time=time + due.minute * MINUTE_MS + 7,
        rate=due.rate,
        mark_price=marks.opened[due.symbol],
        mark_source=MarkSource.VENUE,
    )


def _marks(bar: Bar, before: Marks, gone: set[str]) -> Marks:
    opened, low, high, close = {}, {}, {}, {}
    for symbol, last in before.close.items():
        if symbol in gone:
            opened[symbol] = low[symbol] = high[symbol] = close[symbol] = last
            continue
        down, up, place = bar.swings[symbol]
        opened[symbol] = _price(last * (1 + bar.jumps[symbol] / 1_000))
        low[symbol] = _price(opened[symbol] * (1 - down / 1_000))
        high[symbol] = max(opened[symbol], _price(opened[symbol] * (1 + up / 1_000)))
        ended = low[symbol] + (high[symbol] - low[symbol]) * place / 1_000
        close[symbol] = min(max(_price(ended), low[symbol]), high[symbol])
    return Marks(opened=opened, low=low, high=high, close=close)


def _price(value: float) -> float:
    """Eight decimals, as venues state them."""
    return max(round(value, 8), 1e-8)
