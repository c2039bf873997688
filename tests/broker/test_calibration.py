"""Spread and impact estimated from books whose spread and impact are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from broker.book_walk import walk
from broker.calibrated_costs import (
    CalibrationRefused,
    calibrated,
    read_calibration,
    symbol_costs,
    write_calibration,
)
from broker.calibration import (
    Calibration,
    Estimate,
    NotCalibrated,
    Origin,
    Refusal,
    SymbolCosts,
    bootstrap_interval,
    estimate_half_spread,
    estimate_impact,
    half_tick_bps,
    snapshot_impact,
    walk_excess,
    winsorised_mean,
)
from broker.costs import AssetCosts, CostModel
from broker.orders import Fill
from broker.realised_costs import realised_costs
from market.bar import DAY_MS, HOUR_MS
from market.panel import Float64Array
from market.quote import OrderBook, Quote
from tests.broker.planted_books import ADV, BTC, KAPPA, SIGMA, SIZES, SPREAD_BPS, planted

ETH = "ETH/USDT:USDT"
LIVE = Origin(venue="binanceusdm", is_sandbox=False)
SANDBOX = replace(LIVE, is_sandbox=True)
COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=0.1)
HOURS = 200


def random_books(rng: np.random.Generator, *, hours: int = HOURS) -> list[OrderBook]:
    """Books around the truth: the half spread varies by 30 %, κ by half, the price by a half."""
    noise = rng.uniform(-1.0, 1.0, (hours, 3))
    return [
        planted(
            hour,
            half_spread_bps=SPREAD_BPS * (1.0 + 0.3 * noise[hour, 0]),
            kappa=KAPPA * (1.0 + 0.5 * noise[hour, 1]),
            mid=100.0 * (1.0 + 0.5 * noise[hour, 2]),
        )
        for hour in range(hours)
    ]


def depth(hours: int = HOURS) -> dict[int, tuple[float, float]]:
    """The liquidity that ``planted`` assumes, at every decision."""
    return {hour * HOUR_MS: (ADV, SIGMA) for hour in range(hours)}


def impact_of(books: Sequence[OrderBook], seed: int = 0) -> Estimate:
    """An estimate that must be there."""
    found = estimate_impact(
        books, depth(), sizes_quote=SIZES, origin=LIVE, rng=np.random.default_rng(seed)
    )
    assert isinstance(found, Estimate), found
    return found


def spread_of(
    books: Sequence[OrderBook], quotes: Sequence[Quote] = (), seed: int = 0
) -> Estimate | NotCalibrated:
    return estimate_half_spread(books, quotes, origin=LIVE, rng=np.random.default_rng(seed))


def refused(found: Estimate | NotCalibrated) -> NotCalibrated:
    assert isinstance(found, NotCalibrated), found
    return found


def test_a_planted_book_gives_back_its_coefficient() -> None:
    """One snapshot without noise: κ to the last digits, whatever the price."""
    for mid in (0.5, 100.0, 60_000.0):
        found = snapshot_impact(planted(0, mid=mid), (ADV, SIGMA), np.array(SIZES))
        assert found == pytest.approx(KAPPA, rel=1e-9)


def test_a_hypothetical_walk_is_the_walk_of_a_fill() -> None:
    """Average prices of many sizes at once are those of ``book_walk.walk``."""
    book = planted(0)
    quantity = np.array([0.3, 1.0, 17.0, 63.9, 128.5])
    excess = walk_excess(book.asks, quantity)
    for size, beyond in zip(quantity[:-1], excess[:-1], strict=True):
        fill = walk(book, Decimal(str(size)), slippage_cap=1.0, lot_step=Decimal("0.1"))
        assert book.asks[0][0] + beyond == pytest.approx(fill.average_price, rel=1e-12)
    assert math.isnan(excess[-1])
    small = np.array([book.asks[0][1] * share for share in (0.1, 0.3, 1.0)])
    assert np.all(walk_excess(book.asks, small) == 0.0)


def test_the_interval_covers_the_truth_at_about_its_level() -> None:
    """In 60 seeded samples the 95 % intervals of both numbers miss it three times, or a few more.

    And they are as wide as they must be: 1.96 standard errors of the mean on each side.
    """
    trials, hits, widths = 60, np.zeros(2), np.zeros(2)
    truth = np.array([SPREAD_BPS, KAPPA])
    for seed in range(trials):
        books = random_books(np.random.default_rng(seed))
        found = [spread_of(books, seed=seed), impact_of(books, seed=seed)]
        for index, one in enumerate(found):
            assert isinstance(one, Estimate)
            hits[index] += one.low <= truth[index] <= one.high
            widths[index] += (one.high - one.low) / trials
    assert np.all((hits >= 50) & (hits <= 59)), hits
    deviation = truth * np.array([0.3, 0.5]) / math.sqrt(3.0)
    np.testing.assert_allclose(widths, 2 * 1.96 * deviation / math.sqrt(HOURS), rtol=0.1)


def test_the_same_books_and_seed_give_the_same_numbers() -> None:
    """In any order of the books, too: time is on them."""
    books = random_books(np.random.default_rng(3))
    assert impact_of(books) == impact_of(books[::-1])
    assert spread_of(books) == spread_of(books[::-1])


def test_neighbours_that_resemble_each_other_widen_the_interval() -> None:
    """A week of slow swings says less than the same numbers in random order would."""
    rng = np.random.default_rng(1)
    swings = np.sin(np.arange(400) / 20.0) + rng.normal(0.0, 0.1, 400)

    def width(values: Float64Array) -> float:
        low, high = bootstrap_interval(values, np.random.default_rng(2))
        return high - low

    assert width(swings) > 1.5 * width(rng.permutation(swings))


def test_one_hollow_book_does_not_decide() -> None:
    """A snapshot whose spread is a thousand times the usual moves the estimate by a few percent."""
    books = random_books(np.random.default_rng(4))
    usual = spread_of(books)
    odd = spread_of([*books[:-1], planted(HOURS - 1, half_spread_bps=1_000 * SPREAD_BPS)])
    assert isinstance(usual, Estimate)
    assert isinstance(odd, Estimate)
    assert odd.value == pytest.approx(usual.value, rel=0.03)
    assert float(np.mean(winsorised_mean(np.arange(101.0)))) == pytest.approx(50.0)


def test_the_source_of_a_number_stands_on_it() -> None:
    """Venue, sandbox or not, first and last snapshot, how many, and how."""
    source = impact_of(random_books(np.random.default_rng(5))).source
    assert source.origin == LIVE
    assert (source.since, source.until) == (150, (HOURS - 1) * HOUR_MS + 150)
    assert source.snapshots == HOURS
    for words in ("100, 400, 1600, 6400", "least squares", "bootstrap of 1000"):
        assert words in source.method


def test_too_few_snapshots_give_no_number() -> None:
    """A week of hours is needed, and said."""
    books = random_books(np.random.default_rng(6))[:167]
    assert refused(spread_of(books)).reason is Refusal.TOO_FEW
    assert "167 usable snapshots, of 168" in refused(spread_of(books)).detail
    assert refused(spread_of([])).reason is Refusal.TOO_FEW
    assert isinstance(spread_of(random_books(np.random.default_rng(6))[:168]), Estimate)


def test_many_snapshots_of_one_night_give_no_number() -> None:
    """Two hundred minutes are not a week."""
    minutes = [
        replace(book, available_at=book.available_at // 60)
        for book in random_books(np.random.default_rng(7))
    ]
    assert refused(spread_of(minutes)).reason is Refusal.TOO_SHORT


def test_a_sample_that_lost_its_bad_hours_is_refused() -> None:
    """Books that cannot be walked are missing where trading was dearest: at most a twentieth."""
    books = random_books(np.random.default_rng(8))
    crossed = [replace(book, bids=book.asks) for book in books[:11]]
    flawed = refused(spread_of([*crossed, *books[11:]]))
    assert flawed.reason is Refusal.BIASED
    assert "11 of 200 snapshots empty or crossed" in flawed.detail
    assert isinstance(spread_of([*crossed[:10], *books[10:]]), Estimate)
    thin = [replace(book, asks=book.asks[:4]) for book in books[:11]]
    found = estimate_impact(
        [*thin, *books[11:]],
        depth(),
        sizes_quote=SIZES,
        origin=LIVE,
        rng=np.random.default_rng(0),
    )
    assert refused(found).reason is Refusal.BIASED
    assert "too thin for 6400" in refused(found).detail
    unknown = estimate_impact(
        books, {}, sizes_quote=SIZES, origin=LIVE, rng=np.random.default_rng(0)
    )
    assert refused(unknown).reason is Refusal.BIASED


def test_a_quote_counts_where_no_book_is() -> None:
    """Never twice for one moment; one without a side is no snapshot of the spread."""
    books = random_books(np.random.default_rng(9))
    quotes = [
        Quote(
            symbol=BTC,
            event_time=time,
            available_at=time,
            bid=99.9,
            bid_quantity=1.0,
            ask=100.1,
            ask_quantity=1.0,
        )
        for time in (book.available_at + 100 for book in books)
    ]
    assert spread_of(books, quotes) == spread_of(books)
    alone = spread_of([], quotes)
    assert isinstance(alone, Estimate)
    assert alone.value == pytest.approx(10.0)
    one_sided = [replace(quote, bid=None) for quote in quotes]
    assert refused(spread_of([], one_sided)).reason is Refusal.BIASED


def calibration(
    *, spread_bps: float = 2.0, kappa: float = 0.7, half_tick: float = 0.5, origin: Origin = LIVE
) -> Calibration:
    """Numbers of BTC alone."""
    books = random_books(np.random.default_rng(10))
    spread, impact = spread_of(books), impact_of(books)
    assert isinstance(spread, Estimate)
    costs = SymbolCosts(
        half_spread_bps=replace(spread, value=spread_bps),
        impact_coefficient=replace(impact, value=kappa),
        half_tick_bps=half_tick,
    )
    return Calibration(origin=origin, fee_rate=0.0005, symbols={BTC: costs})


def test_calibrated_costs_replace_spread_and_impact_and_keep_the_fee() -> None:
    """Each symbol its own, in the sequence asked for; one without a number the configured one."""
    assert calibrated(COSTS, calibration(), [ETH, BTC], account=LIVE) == AssetCosts(
        fee_rate=0.0005, half_spread_bps=(1.0, 2.0), impact_coefficient=(0.1, 0.7)
    )


def test_trading_is_never_cheaper_than_the_fee_and_half_a_tick() -> None:
    """Whatever was measured, and however low the fee has been set since."""
    free = calibration(spread_bps=0.01, kappa=0.0, half_tick=0.5)
    assert symbol_costs(COSTS, free, BTC, account=LIVE).half_spread_bps == 0.5
    cheaper = replace(COSTS, fee_rate=0.0002)
    floored = symbol_costs(cheaper, free, BTC, account=LIVE)
    assert floored.fee_rate + floored.half_spread_bps * 1e-4 == pytest.approx(0.00055)
    dearer = replace(COSTS, fee_rate=0.001)
    assert symbol_costs(dearer, free, BTC, account=LIVE).half_spread_bps == 0.5


def test_the_tick_is_the_step_that_all_best_prices_share() -> None:
    """0.3, 0.7 and 1.2 have 0.1 in common, half of which is 5 % of a mid of 1; no book, no tick."""
    prices = [(0.9, 1.1), (0.7, 1.2), (0.3, 1.7)]
    books = [replace(planted(0), bids=((bid, 1.0),), asks=((ask, 1.0),)) for bid, ask in prices]
    assert half_tick_bps(books) == pytest.approx(500.0)
    assert half_tick_bps(books[1:2]) == pytest.approx(0.05 / 0.95 * 1e4)
    assert half_tick_bps([]) == 0.0


def test_books_of_a_sandbox_never_calibrate_a_live_account() -> None:
    """Nor one venue's another; a live venue's books may serve a rehearsal."""
    with pytest.raises(CalibrationRefused, match="sandbox never count on the live binanceusdm"):
        calibrated(COSTS, calibration(origin=SANDBOX), [BTC], account=LIVE)
    with pytest.raises(CalibrationRefused, match="binanceusdm are not those of bybit"):
        calibrated(COSTS, calibration(), [BTC], account=replace(LIVE, venue="bybit"))
    rehearsed = calibrated(COSTS, calibration(), [BTC], account=SANDBOX)
    assert rehearsed.half_spread_bps == (2.0,)


def test_a_saved_calibration_reads_back_with_its_sources() -> None:
    """Refusals included; anything else in its place is named."""
    few = NotCalibrated(reason=Refusal.TOO_FEW, detail="3 of 168")
    kept = calibration(origin=SANDBOX)
    kept = replace(
        kept, symbols={**kept.symbols, ETH: replace(kept.symbols[BTC], half_spread_bps=few)}
    )
    assert read_calibration(write_calibration(kept)) == kept
    for text in ("", "{}", '{"origin": {"venue": "bybit"}}'):
        with pytest.raises(CalibrationRefused, match="calibrated_costs: not a calibration"):
            read_calibration(text)


def book_fill(number: int, *, slippage: str, is_walked: bool = True) -> Fill:
    """One unit at 100."""
    return Fill(
        fill_id=f"fill{number}",
        order_id=f"order{number}",
        symbol=BTC,
        event_time=number,
        quantity=Decimal(-1),
        reference_price=Decimal(100),
        fill_price=Decimal(100) - Decimal(slippage),
        fee=Decimal("0.05"),
        slippage=Decimal(slippage),
        book_id=f"{BTC}@{number}@{number}" if is_walked else None,
    )


def test_realised_costs_stand_beside_what_the_model_says_of_the_same_fills() -> None:
    """A half spread of 1 bp and κ = 0.1 of 0.03·√(100/1e8) is 1.03 bps; 0.02 of 100 is 2 bps."""
    fills = [book_fill(n, slippage=("0.01", "0.02", "0.03")[n % 3]) for n in range(30)]
    modelled = book_fill(99, slippage="1", is_walked=False)
    known = dict.fromkeys(range(100), (ADV, SIGMA))
    rng = np.random.default_rng(0)
    found = realised_costs([*fills, modelled], known, costs=COSTS, rng=rng)
    assert found is not None
    assert found.fills == 30
    assert found.realised_bps == pytest.approx(2.0)
    assert found.modelled_bps == pytest.approx(1.03)
    assert found.error_interval_bps is not None
    low, high = found.error_interval_bps
    assert low < 0.97 < high
    few = realised_costs(fills[:29], known, costs=COSTS, rng=rng)
    assert few is not None
    assert few.error_interval_bps is None
    assert realised_costs([modelled], known, costs=COSTS, rng=rng) is None
    assert realised_costs(fills, {}, costs=COSTS, rng=rng) is None


def test_a_week_of_hourly_closes_is_a_week() -> None:
    """168 closes span 167 hours from first to last."""
    week = random_books(np.random.default_rng(11))[:168]
    assert week[-1].available_at - week[0].available_at < 7 * DAY_MS
    assert isinstance(spread_of(week), Estimate)
