"""Maintenance margin and liquidation, by hand, against a second derivation, and in both shells."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker import kernel
from broker.account import AccountState, place_orders, post_settlement
from broker.book import Book, Interval, Liquidation, MarginSchedule
from broker.costs import TradingRules
from broker.ledger import EntryKind
from broker.liquidation import MarkRange, check_margin
from broker.margin import ladder_at, liquidate, maintenance_margin
from broker.tiers import Ladder, MarginTable, TiersRejected, read_tiers, shipped_tiers
from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from tests.broker.factories import BTC, ETH, account, fill, filled, order, settlement

TIERS = ((0.0, 0.01), (1_000.0, 0.05), (5_000.0, 0.2))
TABLE = MarginTable((Ladder(symbol="*", since=0, tiers=TIERS, liquidation_fee=0.02),))
FIXTURES = Path(
    os.environ.get("BALLAST_FIXTURES_DIR", Path(__file__).parents[3] / "shared" / "fixtures")
)


def bar(mark: list[float], low: list[float], high: list[float]) -> Interval:
    """A bar whose mark opens at ``mark`` and reaches ``low`` and ``high``."""
    nothing = np.zeros(len(mark))
    return Interval(
        open_price=nothing, fillable=nothing > 0, volume=nothing, funding_at_open=nothing,
        funding_in_bar=nothing, mark_open=np.array(mark), mark_low=np.array(low),
        mark_high=np.array(high), mark=np.array(mark), ladder=np.array(0),
    )  # fmt: skip


def position(wallet: float, quantity: list[float], entry: list[float]) -> Book:
    """One account."""
    return Book(np.array(wallet), np.array(quantity), np.array(entry))


def margin_test(book: Book, interval: Interval) -> Liquidation:
    """The margin test under ``TABLE``."""
    return liquidate(book, interval, TABLE.schedule([f"S{i}" for i in range(len(book.quantity))]))


@pytest.mark.parametrize(
    ("notional", "margin"),
    [(0, 0), (999, 9.99), (1_000, 10), (1_001, 10.05), (5_000, 210), (6_000, 410)],
)
def test_each_tier_charges_its_rate_on_what_lies_within_it(notional: float, margin: float) -> None:
    """1 % of the first 1 000, 5 % of the next 4 000, 20 % of the rest."""
    schedule = TABLE.schedule(["S0"])
    found = maintenance_margin(np.array([-notional / 10]), np.array([10.0]), schedule, np.array(0))
    assert found[0] == pytest.approx(margin)


def test_long_is_liquidated_where_equity_meets_the_margin() -> None:
    """Wallet 100, long 10 at 100: at P the equity 10·P − 900 equals 1 % of 10·P: P = 90.9."""
    done = margin_test(position(100.0, [10.0], [100.0]), bar([100.0], [80.0], [101.0]))
    price = 900 / 9.9
    assert bool(done.hit)
    assert done.price[0] == pytest.approx(price, rel=1e-12)
    assert done.fee[0] == pytest.approx(0.02 * 10 * price)
    assert float(done.book.wallet) == 0.0
    assert float(done.insurance) == pytest.approx(0.02 * 10 * price - (10 * price - 900))


def test_equity_that_is_the_margin_is_not_enough() -> None:
    """5 at 100 need 5: with 5 of equity it is over, with a quantum more it is not."""
    marks = bar([100.0], [100.0], [100.0])
    assert margin_test(position(5.0, [5.0], [100.0]), marks).hit
    assert not margin_test(position(5.0 + 1e-8, [5.0], [100.0]), marks).hit


def test_short_is_liquidated_at_the_high() -> None:
    """Wallet 100, short 10 at 100: 1 100 − 10·P meets 10 + 5 % of the notional above 1 000."""
    book, calm = position(100.0, [-10.0], [100.0]), bar([100.0], [1.0], [104.0])
    assert not margin_test(book, calm).hit
    done = margin_test(book, bar([100.0], [99.0], [120.0]))
    assert done.price[0] == pytest.approx((1_100 + 40) / 10.5, rel=1e-12)
    assert done.closed[0] == -10.0


def test_gap_beyond_the_margin_is_closed_at_the_first_mark() -> None:
    """Where the bar already opens too low there is nothing better than its first mark."""
    done = margin_test(position(100.0, [10.0], [100.0]), bar([70.0], [60.0], [75.0]))
    assert done.price[0] == 70.0
    assert float(done.insurance) == pytest.approx(200 + 0.02 * 700)


def test_positions_of_one_account_carry_each_other() -> None:
    """Cross margin: 100 of open profit in one position keeps the loss of the other alive."""
    marks = bar([100.0, 50.0], [90.0, 50.0], [101.0, 50.0])
    alone = margin_test(position(100.0, [10.0, 0.0], [100.0, 0.0]), marks)
    carried = margin_test(position(100.0, [10.0, 10.0], [100.0, 40.0]), marks)
    assert (bool(alone.hit), bool(carried.hit)) == (True, False)


@settings(max_examples=200)
@given(
    wallet=st.floats(1, 5_000),
    quantity=st.lists(st.integers(-50, 50), min_size=3, max_size=3),
    entry=st.lists(st.floats(20, 200), min_size=3, max_size=3),
    fall=st.lists(st.floats(0, 0.9), min_size=3, max_size=3),
    rise=st.lists(st.floats(0, 2), min_size=3, max_size=3),
)
def test_trigger_is_where_a_fine_walk_first_finds_it(
    wallet: float, quantity: list[int], entry: list[float], fall: list[float], rise: list[float]
) -> None:
    """Walking the same straight path in 20 000 steps, with the tiers written down again."""
    held = [q * (price > 0) for q, price in zip(quantity, entry, strict=True)]
    low = [100 * (1 - part) for part in fall]
    high = [100 * (1 + part) for part in rise]
    entry = [price if q else 0.0 for q, price in zip(held, entry, strict=True)]
    done = margin_test(position(wallet, list(map(float, held)), entry), bar([100.0] * 3, low, high))
    share = np.linspace(0, 1, 20_001)[:, None]
    worst = np.where(np.array(held) < 0, high, low)
    marks = 100 + share * (worst - 100)
    value = np.abs(held) * marks
    need = 0.01 * value + 0.04 * np.maximum(value - 1_000, 0) + 0.15 * np.maximum(value - 5_000, 0)
    left = wallet + (np.array(held) * (marks - entry)).sum(axis=1) - need.sum(axis=1)
    reached = np.flatnonzero((left <= 0) & any(held))
    assert bool(done.hit) == bool(len(reached)) or abs(left.min()) < 1e-6
    if done.hit and len(reached):
        step = np.abs(worst - 100) / 20_000
        traded = np.array(held) != 0
        assert np.all(np.abs(done.price - marks[reached[0]])[traded] <= step[traded] + 1e-9)


def test_batch_tests_every_account_alone() -> None:
    """Accounts of one batch do not know of each other, and those that survive are untouched."""
    books = Book(
        np.array([100.0, 5_000.0]), np.array([[10.0], [10.0]]), np.array([[100.0], [100.0]])
    )
    shared = bar([100.0], [80.0], [101.0])
    batch = shared._replace(ladder=np.zeros(2, dtype=np.int64))
    done = liquidate(books, batch, TABLE.schedule(["S0"]))
    alone = margin_test(position(100.0, [10.0], [100.0]), shared)
    assert done.hit.tolist() == [True, False]
    assert done.price[0] == alone.price
    assert done.book.quantity[1] == 10.0
    assert done.book.wallet[1] == 5_000.0


def short_account() -> AccountState:
    """Wallet 1 000, short 40 BTC at 100 and long 10 ETH at 50."""
    state = filled(account("1000"), "-40", 100.0)
    return filled(state, "10", 50.0, symbol=ETH, open_time=2 * HOUR_MS)


def test_account_posts_a_liquidation_and_never_ends_below_zero() -> None:
    """Every position is closed with its fee, the rest is insured, and the wallet is exactly 0."""
    marks = {
        BTC: MarkRange(opened=130.0, low=129.0, high=140.0),
        ETH: MarkRange(opened=50.0, low=50.0, high=50.0),
    }
    state, entries = check_margin(short_account(), marks, close_time=4 * HOUR_MS, table=TABLE)
    assert [one.kind for one in entries] == [
        EntryKind.LIQUIDATION,
        EntryKind.LIQUIDATION,
        EntryKind.INSURANCE,
    ]
    # At the first mark: 1 000 − 40·30 lost, 2 % of 5 200 and of 500 as fees.
    assert entries[0].facts["realised"] == "-1200.00000000"
    assert entries[0].facts["fee"] == "104.00000000"
    assert entries[2].facts["amount"] == "314.00000000"
    assert state.wallet == 0
    assert state.positions == {}


def test_a_fill_and_a_liquidation_of_one_moment_are_one_holding() -> None:
    """Filled a millisecond before the close of a minute, and gone at that millisecond."""
    rules = TradingRules(latency_ms=MINUTE_MS - 1)
    state = place_orders(account("1000"), (order("100", decision_time=MINUTE_MS),))
    state = fill(state, {BTC: 100.0}, open_time=MINUTE_MS, rules=rules).state
    marks = {BTC: MarkRange(opened=90.0, low=90.0, high=90.0)}
    state, _ = check_margin(state, marks, close_time=2 * MINUTE_MS, table=TABLE)
    assert [(one.since, one.quantities) for one in state.holdings] == [
        (0, {}),
        (2 * MINUTE_MS - 1, {}),
    ]


def test_settlement_at_the_close_finds_a_liquidated_account_flat() -> None:
    """The liquidation lies before the close of its bar: funding at that close is not owed."""
    marks = {symbol: MarkRange(opened=130.0, low=130.0, high=140.0) for symbol in (BTC, ETH)}
    state, entries = check_margin(short_account(), marks, close_time=8 * HOUR_MS, table=TABLE)
    assert entries
    assert post_settlement(state, settlement(8 * HOUR_MS), posted_at=9 * HOUR_MS)[1] is None


def test_solvent_account_is_left_alone() -> None:
    """No entry, the very same state."""
    marks = {symbol: MarkRange(opened=100.0, low=99.0, high=101.0) for symbol in (BTC, ETH)}
    state = short_account()
    assert check_margin(state, marks, close_time=4 * HOUR_MS, table=TABLE) == (state, ())


def test_ladders_count_from_their_day() -> None:
    """Before the first day the first counts; a bar that closes at a midnight lies before it."""
    strict = Ladder(symbol="S0", since=10 * DAY_MS, tiers=((0.0, 0.5),), liquidation_fee=0.03)
    loose = Ladder(symbol="S0", since=DAY_MS, tiers=TIERS, liquidation_fee=0.01)
    schedule = MarginTable((strict, loose)).schedule(["S0"])
    closes = np.array([0, 5 * DAY_MS, 10 * DAY_MS, 10 * DAY_MS + HOUR_MS])
    assert ladder_at(schedule, closes).tolist() == [0, 0, 0, 1]
    quantity, mark = np.full((4, 1), 1.0), np.full((4, 1), 100.0)
    margin = maintenance_margin(quantity, mark, schedule, ladder_at(schedule, closes))
    assert margin[:, 0].tolist() == [1.0, 1.0, 1.0, 50.0]


def test_account_is_tested_by_the_ladder_of_its_bar() -> None:
    """The last bar before a stricter day is not judged by it, the first one of the day is."""
    strict = Ladder(symbol="*", since=10 * DAY_MS, tiers=((0.0, 0.5),), liquidation_fee=0.02)
    table = MarginTable((*TABLE.ladders, strict))
    state = filled(account("1000"), "40", 100.0)
    marks = {BTC: MarkRange(opened=100.0, low=100.0, high=100.0)}
    midnight = 10 * DAY_MS
    assert check_margin(state, marks, close_time=midnight, table=table) == (state, ())
    assert check_margin(state, marks, close_time=midnight + HOUR_MS, table=table)[1]


def test_shipped_tiers_are_the_published_ones() -> None:
    """BTC on Binance USD-M, 2024-10: 700 000 of notional need 700 000·0.65 % − 950."""
    schedule = shipped_tiers().schedule([BTC])
    found = maintenance_margin(np.array([7.0]), np.array([1e5]), schedule, np.array(0))
    assert found[0] == pytest.approx(700_000 * 0.0065 - 950)


@pytest.mark.parametrize("base", ["BTC", "ETH", "SOL", "XRP", "ADA"])
def test_amounts_are_the_venues_own(base: str) -> None:
    """What makes the margin continuous is the ``cum`` that the venue publishes."""
    path = FIXTURES / "binance_usdm" / "leverage_tiers_ccxt_2024-10.json"
    if not path.exists():
        pytest.skip(f"no recorded tiers at {path}; set BALLAST_FIXTURES_DIR")
    symbol = f"{base}/USDT:USDT"
    published = json.loads(path.read_text())[symbol]
    schedule: MarginSchedule = shipped_tiers().schedule([symbol])
    assert schedule.floor[0, 0].tolist() == [tier["minNotional"] for tier in published]
    assert schedule.rate[0, 0].tolist() == [tier["maintenanceMarginRate"] for tier in published]
    cum = [float(tier["info"]["cum"]) for tier in published]
    np.testing.assert_allclose(schedule.amount[0, 0], cum, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tiers": []}, "S0: tiers must begin at 0"),
        ({"tiers": [[5, 0.1]]}, "S0: tiers must begin at 0"),
        ({"tiers": [[0, 0.1], [math.nan, 0.2]]}, "S0: tiers must begin at 0"),
        ({"tiers": [[0, 0.2], [9, 0.1]]}, "S0: rates must rise"),
        ({"tiers": [[0, 1.5]]}, "S0: rates must rise"),
        ({"tiers": 0.1}, "ladders.0.tiers: .* got 0.1"),
        ({"tiers": [0.1]}, "ladders.0.tiers.0: .* got 0.1"),
        ({"since": "yesterday"}, "ladders.0.since: .* got 'yesterday'"),
        ({"liquidation_fee": math.nan}, "S0: liquidation_fee must be in"),
        ({"liquidation_fee": "dear"}, "ladders.0.liquidation_fee: .* got 'dear'"),
    ],
)
def test_unusable_tiers_are_refused(tmp_path: Path, wrong: dict[str, object], words: str) -> None:
    """The file, the symbol and the rule are named."""
    row = {"symbol": "S0", "since": "2024-01-01", "liquidation_fee": 0.01, "tiers": [[0, 0.1]]}
    path = tmp_path / "tiers.json"
    path.write_text(json.dumps({"ladders": [row | wrong]}))
    with pytest.raises(TiersRejected, match=f"(?s){path}: {words}"):
        read_tiers(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Input should be .*, got \\[\\]"),
        ('{"tiers": []}', "ladders: Field required"),
        ('{"ladders": [{"symbol": "S0"}]}', "ladders.0.since: Field required"),
        ('{"ladders": [7]}', "ladders.0: .*got 7"),
    ],
)
def test_a_file_that_is_no_table_of_tiers_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """It says what is missing, not where our code stumbled."""
    path = tmp_path / "tiers.json"
    path.write_text(text)
    with pytest.raises(TiersRejected, match=f"(?s){path}: .*{words}"):
        read_tiers(path)


def test_a_symbol_without_tiers_is_named_with_the_remedy() -> None:
    """A table of some symbols says what to add for the others."""
    only = MarginTable((replace(TABLE.ladders[0], symbol="S0"),))
    with pytest.raises(TiersRejected, match=r"no ladder for S1.*add one.*or one for '\*'"):
        only.schedule(["S0", "S1"])


def test_liquidation_conserves_value() -> None:
    """What the account had, less the loss and the fees, plus the insurance, is what is left."""
    book = position(500.0, [-30.0, 20.0], [100.0, 40.0])
    before = float(kernel.equity(book, np.array([100.0, 40.0])))
    done = margin_test(book, bar([100.0, 40.0], [100.0, 30.0], [130.0, 40.0]))
    moved = float(np.sum(book.quantity * (done.price - np.array([100.0, 40.0]))))
    left = before + moved - float(done.fee.sum()) + float(done.insurance)
    assert float(done.book.wallet) == pytest.approx(left)


def test_a_gap_that_is_realised_at_the_open_owes_nothing() -> None:
    """300 bought at 100 with 10,000 and sold at an open of 50: 5,000 are owed by nobody."""
    state = filled(account(), "300", 100.0)
    state = place_orders(state, (order("-300", decision_time=2 * HOUR_MS),))
    state = fill(state, {BTC: 50.0}, open_time=2 * HOUR_MS).state
    marks = {BTC: MarkRange(opened=50.0, low=50.0, high=50.0)}
    state, _ = check_margin(state, marks, close_time=3 * HOUR_MS, table=TABLE)
    assert state.positions == {}
    assert state.wallet >= 0


def test_funding_known_after_a_liquidation_owes_nothing() -> None:
    """Liquidated to nothing at 50; then the funding of an hour before is told."""
    state = filled(account(), "300", 100.0)
    marks = {BTC: MarkRange(opened=50.0, low=50.0, high=50.0)}
    state, _ = check_margin(state, marks, close_time=2 * HOUR_MS, table=TABLE)
    assert not state.positions
    assert state.wallet == 0
    late = settlement(HOUR_MS + HOUR_MS // 2, rate=0.01)
    state, entry = post_settlement(state, late, posted_at=3 * HOUR_MS)
    assert entry is not None
    state, _ = check_margin(state, {}, close_time=3 * HOUR_MS, table=TABLE)
    assert state.wallet >= 0


def test_batch_insures_what_a_flat_account_owes() -> None:
    """The environment's account that owes with nothing held is insured like the ledger's."""
    done = margin_test(position(-5_000.0, [0.0], [0.0]), bar([50.0], [50.0], [50.0]))
    assert (float(done.book.wallet), float(done.insurance)) == (0.0, 5_000.0)
    assert not done.closed.any()
