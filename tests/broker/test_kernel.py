"""Rules of the one arithmetic, on random books."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker import kernel
from broker.book import FillLimits, Interval
from broker.carry import step
from broker.costs import AssetCosts, CostModel, TradingRules
from broker.kernel import Book, Float64Array, Liquidity, LotRules, PlannedTrade
from broker.margin import no_margin

N = 3
LOTS = LotRules(
    np.array([0.001, 0.1, 1.0]), np.array([0.001, 0.1, 1.0]), np.full(N, 5.0), np.full(N, np.inf)
)
UNBOUNDED = FillLimits(np.full(N, np.inf), LOTS.lot_step, cash_only=False)
PRICES = np.array([60_000.0, 150.0, 0.4])
DEPTH = Liquidity(np.full(N, 1e7), np.full(N, 0.04))
COSTS = CostModel(fee_rate=0.0005, half_spread_bps=2.0, impact_coefficient=1.0)
EVERY = np.ones(N, dtype=np.bool_)

weights = st.lists(st.floats(0, 1), min_size=N, max_size=N).map(
    lambda raw: np.array(raw) / max(1.0, sum(raw))
)
moves = st.lists(st.floats(0.7, 1.4), min_size=N, max_size=N).map(np.array)
lot_counts = st.lists(st.integers(-300, 300), min_size=N, max_size=N).map(np.array)
signed_books = st.tuples(st.floats(1e3, 1e6), lot_counts, moves).map(
    lambda raw: Book(np.array(raw[0]), raw[1] * LOTS.lot_step, PRICES * raw[2] * (raw[1] != 0))
)
long_books = signed_books.map(lambda book: book._replace(quantity=np.abs(book.quantity)))


def plan(
    target: Float64Array,
    book: Book,
    *,
    price: Float64Array = PRICES,
    leverage: float = 1.0,
    band: float = 0.0,
    costs: CostModel = COSTS,
) -> PlannedTrade:
    """Plan one account at marks equal to prices."""
    return kernel.plan_rebalance(
        target, book, price, price, tradable=EVERY, liquidity=DEPTH, lots=LOTS, costs=costs,
        rules=TradingRules(leverage_limit=leverage, no_trade_band=band),
    )  # fmt: skip


@given(book=signed_books, target=weights)
def test_orders_are_whole_lots_toward_zero(book: Book, target: Float64Array) -> None:
    """An order is a multiple of the lot step, never beyond the wanted change."""
    planned = plan(target, book)
    lots = planned.traded / LOTS.lot_step
    np.testing.assert_allclose(lots, np.round(lots), atol=1e-5)
    assert np.all(np.abs(planned.traded) <= np.abs(planned.wanted) + 2e-6 * LOTS.lot_step)
    assert np.all(planned.traded * planned.wanted >= 0)


@given(book=long_books)
def test_hold_trades_nothing(book: Book) -> None:
    """A target equal to the drifted weights at the decision's price orders nothing."""
    value = kernel.equity(book, PRICES)
    held = kernel.weights(book.quantity, PRICES, value)
    if held.sum() <= 50 and value > 0:
        assert not plan(held, book, leverage=100.0).traded.any()


@given(book=signed_books, target=weights, leverage=st.floats(0.2, 5))
@example(
    book=Book(np.array(486_817.0), np.array([0.208, 0, 0]), np.array([60_000.0, 0, 0])),
    target=np.array([0.02148438, 0.0, 0.96679688]),
    leverage=1.1875,
)
def test_additions_keep_the_leverage_limit(
    book: Book, target: Float64Array, leverage: float
) -> None:
    """If anything is added, gross ≤ limit · equity after the fills' fee and slippage."""
    planned = plan(target * leverage, book, leverage=leverage)
    grown = np.abs(book.quantity + planned.traded) > np.abs(book.quantity) + 1e-9
    if not grown.any():
        return
    done = kernel.execute(
        book, planned.traded, PRICES,
        fillable=EVERY, liquidity=DEPTH, costs=COSTS, limits=UNBOUNDED,
    )  # fmt: skip
    gross = float(np.sum(np.abs(done.book.quantity) * PRICES))
    # The estimate has the fee of what is traded at the price, not that of the slippage on top.
    fee_of_slippage = COSTS.fee_rate * float(np.sum(done.slippage))
    hair = 2 * kernel.LOT_TOLERANCE * float(np.sum(LOTS.lot_step * PRICES))
    room = leverage * (float(kernel.equity(done.book, PRICES)) + fee_of_slippage)
    assert gross <= room + hair * (1 + leverage)


@given(book=signed_books, target=weights)
def test_one_factor_scales_every_addition(book: Book, target: Float64Array) -> None:
    """Reductions are taken whole; additions are the unscaled ones times ``buy_scale``."""
    tight = plan(target, book, leverage=1.0)
    free = plan(target, book, leverage=1e9)
    assert free.buy_scale == 1.0
    reduced = kernel.closing_part(free.traded, book.quantity)
    expected = reduced + (free.traded - reduced) * tight.buy_scale
    dropped = tight.traded == 0
    assert np.all(dropped | (np.abs(expected - tight.traded) <= LOTS.lot_step * 1.00001))


@given(book=signed_books, traded=lot_counts, open_move=moves, funding=moves)
def test_equity_changes_by_what_is_booked(
    book: Book, traded: Float64Array, open_move: Float64Array, funding: Float64Array
) -> None:
    """Δequity = realised + Δunrealised − fees + funding over one interval."""
    before = kernel.equity(book, PRICES)
    opened = PRICES * open_move
    done = kernel.execute(
        book, traded * LOTS.lot_step, opened,
        fillable=EVERY, liquidity=DEPTH, costs=COSTS, limits=UNBOUNDED,
    )  # fmt: skip
    paid = kernel.funding_payment(done.book.quantity, funding).sum()
    after = kernel.equity(done.book._replace(wallet=done.book.wallet + paid), opened)
    unrealised = np.sum(done.book.quantity * (opened - done.book.entry_price)) - np.sum(
        book.quantity * (PRICES - book.entry_price)
    )
    booked = done.realised.sum() + unrealised - done.fee.sum() + paid
    np.testing.assert_allclose(after - before, booked, rtol=1e-9, atol=1e-6)


@given(book=signed_books, traded=lot_counts, price=moves)
def test_fills_conserve_value(book: Book, traded: Float64Array, price: Float64Array) -> None:
    """Free of charge, a fill at the valuation price changes no equity, flips included."""
    at = PRICES * price
    wallet, quantity, entry, _ = kernel.apply_fills(*book, traded * LOTS.lot_step, at, np.zeros(N))
    after = kernel.equity(Book(wallet, quantity, entry), at)
    np.testing.assert_allclose(after, kernel.equity(book, at), rtol=1e-10, atol=1e-6)
    assert np.all((entry == 0) == (quantity == 0))


def test_flip_realises_the_closed_part() -> None:
    """Long 2 at 100, sell 5 at 110: 20 realised, short 3 at 110."""
    wallet, quantity, entry, realised = kernel.apply_fills(
        np.array(1000.0), np.array([2.0]), np.array([100.0]),
        np.array([-5.0]), np.array([110.0]), np.array([0.5]),
    )  # fmt: skip
    assert [float(wallet), quantity[0], entry[0], realised[0]] == [1019.5, -3.0, 110.0, 20.0]


def test_average_price_of_two_buys() -> None:
    """1 at 100 and 3 at 120 are 4 at 115; selling 1 at 130 realises 15 and keeps 115."""
    book = np.array(0.0), np.array([1.0]), np.array([100.0])
    free = np.zeros(1)
    wallet, quantity, entry, _ = kernel.apply_fills(*book, np.array([3.0]), np.array([120.0]), free)
    assert (quantity[0], entry[0]) == (4.0, 115.0)
    wallet, quantity, entry, realised = kernel.apply_fills(
        wallet, quantity, entry, np.array([-1.0]), np.array([130.0]), free
    )
    assert [float(wallet), quantity[0], entry[0], realised[0]] == [15.0, 3.0, 115.0, 15.0]


def test_fill_price_by_hand() -> None:
    """Open 100, 2 bp, Y 1, σ 4 %, 10 000 of 1e8 a day: 0.02 % + 4 % · 1 % = 0.06 % against us."""
    depth = Liquidity(np.array([1e8]), np.array([0.04]))
    for traded, expected in ((100.0, 100.06), (-100.0, 99.94)):
        price = kernel.modelled_fill_price(np.array([traded]), np.array([100.0]), depth, COSTS)
        assert price[0] == pytest.approx(expected, abs=1e-12)


@given(
    notional=st.floats(0, 1e9), more=st.floats(1, 10), adv=st.floats(0, 1e9),
    factor=st.floats(1, 10),
)  # fmt: skip
def test_cost_is_monotone(notional: float, more: float, adv: float, factor: float) -> None:
    """A larger order, and a dearer cost model, never cost less; impact is capped, also at 0 ADV."""
    depth = Liquidity(np.array([adv]), np.array([0.04]))
    small = kernel.adverse_fraction(np.array([notional]), depth, COSTS)[0]
    large = kernel.adverse_fraction(np.array([notional * more]), depth, COSTS)[0]
    dear = kernel.adverse_fraction(np.array([notional]), depth, COSTS.scaled(factor))[0]
    assert 0 <= small <= large <= 0.0002 + 0.04 + 1e-12
    assert small <= dear <= kernel.MAX_ADVERSE_FRACTION


def test_costs_of_each_asset_are_charged_to_it() -> None:
    """A batch at three models in one is each asset's own column at its own model."""
    each = [
        CostModel(fee_rate=0.0005, half_spread_bps=b, impact_coefficient=y)
        for b, y in ((1.0, 0.0), (4.0, 0.5), (0.0, 2.0))
    ]
    costs = AssetCosts(
        fee_rate=0.0005, half_spread_bps=(1.0, 4.0, 0.0), impact_coefficient=(0.0, 0.5, 2.0)
    )
    notional = np.array([[1e3, 1e5, 1e6], [5e6, 0.0, 1.0]])
    together = kernel.adverse_fraction(notional, DEPTH, costs.scaled(2.0))
    for asset, own in enumerate(each):
        alone = kernel.adverse_fraction(notional, DEPTH, own.scaled(2.0))
        np.testing.assert_array_equal(together[:, asset], alone[:, asset])


def test_band_leaves_small_changes_alone() -> None:
    """A change of weight of 4.9 % is left alone by a band of 5 %; one of exactly 5 % trades."""
    book = Book(np.array(10_000.0), np.zeros(N), np.zeros(N))
    planned = plan(np.array([0.0, 0.049, 0.05]), book, band=0.05)
    np.testing.assert_array_equal(planned.traded, [0.0, 0.0, 1250.0])


def test_exit_below_minimum_notional_is_allowed() -> None:
    """0.001 BTC at 4000 is worth 4, below the minimum of 5: no entry, but an exit."""
    price = np.array([4000.0, 150.0, 0.4])
    flat = Book(np.array(4.5), np.zeros(N), np.zeros(N))
    assert not plan(np.array([1.0, 0, 0]), flat, price=price).traded.any()
    held = Book(np.array(100.0), np.array([0.001, 0, 0]), np.array([4000.0, 0, 0]))
    assert plan(np.zeros(N), held, price=price).traded[0] == -0.001


def test_no_equity_means_no_exposure() -> None:
    """A book under water closes what it holds and opens nothing."""
    book = Book(np.array(-1e6), np.array([0.5, 0, 0]), np.array([60_000.0, 0, 0]))
    planned = plan(np.array([0.0, 0.5, 0.5]), book)
    np.testing.assert_array_equal(planned.traded, [-0.5, 0.0, 0.0])


def test_untradable_position_counts_against_the_limit() -> None:
    """Half the equity is stuck in one asset: a target of all in another gets the other half."""
    book = Book(np.array(0.0), np.array([0, 100.0, 0]), np.array([0, 50.0, 0]))
    tradable = np.array([True, False, True])
    planned = kernel.plan_rebalance(
        np.array([0.0, 0.0, 1.0]), book, PRICES, PRICES, tradable=tradable, liquidity=DEPTH,
        lots=LOTS, costs=COSTS.scaled(0), rules=TradingRules(leverage_limit=2.0),
    )  # fmt: skip
    # Equity 10 000, limit 20 000, stuck 15 000: room for 5 000 of the 10 000 wanted.
    assert planned.traded[1] == 0
    assert planned.buy_scale == pytest.approx(0.5)
    assert planned.traded[2] == 12_500


def test_closing_a_sum_of_lots_is_exactly_flat() -> None:
    """0.1 bought six times is not 6 · 0.1 in float64; selling it leaves exactly nothing."""
    held = 0.1 + 0.1 + 0.1 + 0.1 + 0.1 + 0.1  # not sum(), which compensates from Python 3.12 on
    assert held != 6 * 0.1
    book = Book(np.array(1000.0), np.array([0, held, 0]), np.array([0, 150.0, 0]))
    planned = plan(np.zeros(N), book)
    assert held + planned.traded[1] == 0.0


def test_a_closed_position_has_no_price() -> None:
    """Selling all that is held leaves neither quantity nor entry price."""
    _, quantity, entry, _ = kernel.apply_fills(
        np.array(0.0), np.array([2.0, -2.0]), np.array([100.0, 100.0]),
        np.array([-2.0, 2.0]), np.array([110.0, 110.0]), np.zeros(2),
    )  # fmt: skip
    assert [*quantity, *entry] == [0.0, 0.0, 0.0, 0.0]


def test_step_charges_funding_before_and_after_the_fill() -> None:
    """Hold 1, buy 2: 10 per unit at the open on 1, 100 per unit in the bar on 3, all doubled."""
    book = Book(np.array(1000.0), np.array([1.0]), np.array([50.0]))
    price = np.array([60.0])
    interval = Interval(
        open_price=price, fillable=np.array([True]), volume=price,
        funding_at_open=np.array([10.0]), funding_in_bar=np.array([100.0]),
        mark_open=price, mark_low=price, mark_high=price, mark=np.array([70.0]),
        ladder=np.array(0),
    )  # fmt: skip
    costs = CostModel(
        fee_rate=0.01, half_spread_bps=0.0, impact_coefficient=0.0, funding_multiplier=2.0
    )
    depth = Liquidity(np.array([1e9]), np.array([0.0]))
    done = step(
        book, np.array([2.0]), interval, liquidity=depth, costs=costs, schedule=no_margin(1),
        limits=FillLimits(np.array([np.inf]), np.array([1.0]), cash_only=False),
    )  # fmt: skip
    assert done.funding == -2 * (10 * 1 + 100 * 3)
    assert done.cost == pytest.approx(1.2)
    assert done.traded_notional == 120.0
    assert done.equity == pytest.approx(1000 - 620 - 1.2 + (70 - 50) + 2 * (70 - 60))


@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_batch_equals_one_by_one(seed: int) -> None:
    """A batch gives each account what it would get alone."""
    rng = np.random.default_rng(seed)
    quantity = rng.integers(0, 300, (8, N)) * LOTS.lot_step
    books = Book(rng.uniform(1e3, 1e5, 8), quantity, PRICES * rng.uniform(0.7, 1.4, (8, N)))
    books = books._replace(entry_price=books.entry_price * (quantity != 0))
    targets = rng.dirichlet(np.ones(N + 1), 8)[:, :N]
    together = plan(targets, books)
    for index in range(8):
        alone = plan(targets[index], Book(*(part[index] for part in books)))
        np.testing.assert_allclose(together.traded[index], alone.traded, rtol=1e-12)
        np.testing.assert_allclose(together.buy_scale[index], alone.buy_scale, rtol=1e-12)
