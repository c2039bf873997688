"""Spread and impact of one venue's symbols, estimated from recorded books and quotes.

What it owns is the estimate: a value, an interval, and where it comes from; too few or biased
snapshots give a reason instead of a number. Pure: randomness is an argument, nothing is stored.
What may be done with an estimate is in ``calibrated_costs``.

Each snapshot gives one half spread and one κ of ``κ·σ_daily·sqrt(notional/ADV)``: that of a least
squares fit through the origin to hypothetical walks of several sizes on both sides, what they cost
beyond the half spread. Across snapshots the location is a mean, since what is paid in a year is
one, winsorised so that one hollow book does not decide (Tukey 1962, "The future of data analysis").
The interval is a percentile bootstrap (Efron 1979, "Bootstrap methods") of whole snapshots, since
the sizes of one are not independent, drawn in circular blocks of neighbours, since one hour is like
the next (Politis & Romano 1992, "A circular block-resampling procedure for stationary data").
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from broker.book import Float64Array
from broker.book_walk import book_flaw
from broker.money import to_price
from market.bar import DAY_MS, MINUTE_MS
from market.quote import Level, OrderBook, Quote

MIN_SNAPSHOTS = 168
"""Fewest snapshots behind a number; a week of hours."""
MIN_SPAN_MS = 7 * DAY_MS
"""Least time they span, so that a night or a Sunday does not speak for the week."""
MAX_UNUSABLE = 0.05
"""Largest share of snapshots left out: the ones that cannot be walked are not a random part."""
CONFIDENCE = 0.95
RESAMPLES = 1_000
WINSORISED = 0.025
"""Share of the snapshots on each side that count as the quantile there."""
_BPS = 1e4
_RESAMPLED_AT_ONCE = 2_000_000


class Refusal(enum.StrEnum):
    """Why there is no number."""

    TOO_FEW = "too_few_snapshots"
    TOO_SHORT = "span_too_short"
    BIASED = "biased_sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Whose books these are; a sandbox plays a venue and is not it."""

    venue: str
    is_sandbox: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a number comes from: ``since`` and ``until`` are the first and last snapshot's time."""

    origin: Origin
    since: int
    until: int
    snapshots: int
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number, the bounds of its interval at ``confidence``, and where it comes from."""

    value: float
    low: float
    high: float
    confidence: float
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCalibrated:
    """No number, and why; ``detail`` holds the figures."""

    reason: Refusal
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolCosts:
    """What the recorded books say about one symbol.

    Attributes:
        half_spread_bps: half of best ask less best bid, basis points of the mid.
        impact_coefficient: κ, no unit.
        half_tick_bps: the floor: half the price step, basis points of the median mid.
    """

    half_spread_bps: Estimate | NotCalibrated
    impact_coefficient: Estimate | NotCalibrated
    half_tick_bps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The costs of one venue's symbols; ``fee_rate`` is the taker fee that they were judged at."""

    origin: Origin
    fee_rate: float
    symbols: Mapping[str, SymbolCosts]


def estimate_half_spread(
    books: Sequence[OrderBook],
    quotes: Sequence[Quote],
    *,
    origin: Origin,
    rng: np.random.Generator,
) -> Estimate | NotCalibrated:
    """Half spread of one symbol, basis points of the mid, winsorised mean over snapshots.

    A quote counts where no book was recorded within the same minute.

    Args:
        books: of one symbol.
        quotes: of the same symbol.
        origin: whose they are.
        rng: for the bootstrap.
    """
    seen = {book.available_at: _half_spread_bps(_best(book)) for book in books}
    minutes = {time // MINUTE_MS for time in seen}
    for quote in quotes:
        if quote.available_at // MINUTE_MS not in minutes:
            seen[quote.available_at] = _half_spread_bps((quote.bid, quote.ask))
    sample = _Sample.of(seen)
    refused = sample.refusal("empty or crossed")
    return refused or sample.estimate(origin, rng, method="books and quotes")


def estimate_impact(
    books: Sequence[OrderBook],
    liquidity: Mapping[int, tuple[float, float]],
    *,
    sizes_quote: Sequence[float],
    origin: Origin,
    rng: np.random.Generator,
) -> Estimate | NotCalibrated:
    """κ of one symbol, winsorised mean over snapshots of each snapshot's own fit.

    Args:
        books: of one symbol.
        liquidity: (ADV in quote currency, daily σ) by decision time, as it was known then; a book
            without, or with a zero, is left out.
        sizes_quote: notionals of the walks, quote currency, positive; a snapshot that does not
            hold the largest on both sides is left out, and counts as unusable.
        origin: whose books they are.
        rng: for the bootstrap.
    """
    sizes = np.array(sizes_quote, dtype=np.float64)
    if sizes.ndim != 1 or not len(sizes) or not np.all((sizes > 0) & np.isfinite(sizes)):
        raise ValueError(f"sizes_quote {list(sizes_quote)}: needs positive notionals")
    seen = {
        book.available_at: snapshot_impact(
            book, liquidity.get(book.decision_time, (0.0, 0.0)), sizes
        )
        for book in books
    }
    sample = _Sample.of(seen)
    largest = f"flawed, without liquidity, or too thin for {sizes.max():g} on both sides"
    refused = sample.refusal(largest)
    method = f"walks of {', '.join(f'{size:g}' for size in sizes)} on both sides, least squares"
    return refused or sample.estimate(origin, rng, method=method)


def snapshot_impact(
    book: OrderBook, liquidity: tuple[float, float], sizes_quote: Float64Array
) -> float:
    """κ of one snapshot: ``Σ x·y / Σ x²`` with ``x = σ·sqrt(notional/ADV)``, NaN if unusable.

    ``y`` is what a walk costs beyond the half spread, a fraction of the mid.

    Args:
        book: the snapshot.
        liquidity: (ADV in quote currency, daily σ) as known then.
        sizes_quote: (S,) notionals at the mid, quote currency.
    """
    adv_quote, sigma_daily = liquidity
    if book_flaw(book) is not None or not (adv_quote > 0 and sigma_daily > 0):
        return math.nan
    best_bid, best_ask = book.bids[0][0], book.asks[0][0]
    mid = (best_bid + best_ask) / 2.0
    quantity = sizes_quote / mid
    # Participation as in kernel.adverse_fraction: no more than a day's volume.
    x = sigma_daily * np.sqrt(np.minimum(sizes_quote / adv_quote, 1.0))
    y = (walk_excess(book.asks, quantity) + walk_excess(book.bids, quantity)) / (2.0 * mid)
    return float(x @ y) / float(x @ x)


def walk_excess(side: Sequence[Level], quantity: Float64Array) -> Float64Array:
    """(S,) how far the average price of a walk lies from the best price, never negative.

    The same rule as ``book_walk.walk`` for a fresh book, in float64 for many sizes at once.

    Args:
        side: levels, best first.
        quantity: (S,) base units, positive.

    Returns:
        Quote currency per unit; NaN where the side does not hold as much.
    """
    levels = np.array(side, dtype=np.float64)
    distance = np.abs(levels[:, 0] - levels[0, 0])
    held = np.concatenate(([0.0], np.cumsum(levels[:, 1])))
    paid = np.concatenate(([0.0], np.cumsum(distance * levels[:, 1])))
    excess: Float64Array = np.interp(quantity, held, paid, right=math.nan) / quantity
    return excess


def half_tick_bps(books: Iterable[OrderBook]) -> float:
    """Half a price step in basis points of the median mid of sound books; 0 without any.

    The step is the largest of which every best price is a multiple: the venue's own, or a larger
    one where few prices were seen.
    """
    best = [(book.bids[0][0], book.asks[0][0]) for book in books if book_flaw(book) is None]
    if not best:
        return 0.0
    steps = [Fraction(to_price(price)) for pair in best for price in pair]
    scale = math.lcm(*(step.denominator for step in steps))
    tick = math.gcd(*(int(step * scale) for step in steps)) / scale
    return tick / 2.0 / float(np.median(np.mean(best, axis=1))) * _BPS


def winsorised_mean(values: Float64Array) -> Float64Array:
    """Mean over the last axis with its outer ``WINSORISED`` shares moved to their quantiles."""
    low, high = np.quantile(values, (WINSORISED, 1.0 - WINSORISED), axis=-1, keepdims=True)
    mean: Float64Array = np.mean(np.clip(values, low, high), axis=-1)
    return mean


def bootstrap_interval(values: Float64Array, rng: np.random.Generator) -> tuple[float, float]:
    """Percentile interval of ``winsorised_mean`` at ``CONFIDENCE``.

    Args:
        values: (T,) one of each snapshot, in the order of time.
        rng: draws ``RESAMPLES`` times blocks of ``T^(1/3)`` neighbours, in a circle.
    """
    count = len(values)
    length = math.ceil(count ** (1.0 / 3.0))
    blocks = -(-count // length)
    rows = max(1, _RESAMPLED_AT_ONCE // (blocks * length))
    found = []
    for start in range(0, RESAMPLES, rows):
        draws = min(rows, RESAMPLES - start)
        first = rng.integers(count, size=(draws, blocks, 1))
        chosen = (first + np.arange(length)) % count
        found.append(winsorised_mean(values[chosen.reshape(draws, -1)[:, :count]]))
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(np.concatenate(found), (tail, 1.0 - tail))
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sample:
    """One number of each usable snapshot, by time, and how many there were before that."""

    time: Float64Array
    values: Float64Array
    total: int

    @classmethod
    def of(cls, seen: Mapping[int, float]) -> _Sample:
        usable = sorted((time, value) for time, value in seen.items() if math.isfinite(value))
        times, values = zip(*usable, strict=True) if usable else ((), ())
        return cls(
            time=np.array(times, dtype=np.float64),
            values=np.array(values, dtype=np.float64),
            total=len(seen),
        )

    def refusal(self, unusable: str) -> NotCalibrated | None:
        """Why these snapshots give no number; ``unusable`` says what was left out."""
        left_out = self.total - len(self.values)
        if self.total and left_out > MAX_UNUSABLE * self.total:
            return NotCalibrated(
                reason=Refusal.BIASED,
                detail=f"{left_out} of {self.total} snapshots {unusable}; at most "
                f"{MAX_UNUSABLE:.0%} may be, since what is left is not what is met",
            )
        if len(self.values) < MIN_SNAPSHOTS:
            return NotCalibrated(
                reason=Refusal.TOO_FEW,
                detail=f"{len(self.values)} usable snapshots, of {MIN_SNAPSHOTS} needed",
            )
        span_ms = float(self.time[-1] - self.time[0])
        # The first and the last of a week of closes lie one interval less apart.
        if span_ms * (1 + 1 / (len(self.values) - 1)) < MIN_SPAN_MS:
            return NotCalibrated(
                reason=Refusal.TOO_SHORT,
                detail=f"{span_ms / DAY_MS:.2f} days from the first snapshot to the last, of "
                f"{MIN_SPAN_MS / DAY_MS:g} needed",
            )
        return None

    def estimate(self, origin: Origin, rng: np.random.Generator, *, method: str) -> Estimate:
        low, high = bootstrap_interval(self.values, rng)
        return Estimate(
            value=float(winsorised_mean(self.values)),
            low=low,
            high=high,
            confidence=CONFIDENCE,
            source=Source(
                origin=origin,
                since=int(self.time[0]),
                until=int(self.time[-1]),
                snapshots=len(self.values),
                method=f"{method}; mean winsorised at {WINSORISED:.1%}, percentile bootstrap of "
                f"{RESAMPLES} circular block resamples",
            ),
        )


def _best(book: OrderBook) -> tuple[float | None, float | None]:
    return (None, None) if book_flaw(book) is not None else (book.bids[0][0], book.asks[0][0])


def _half_spread_bps(best: tuple[float | None, float | None]) -> float:
    """Half spread over mid, basis points; NaN where a side is missing or the quote is crossed."""
    bid, ask = best
    if bid is None or ask is None or not 0 < bid < ask < math.inf:
        return math.nan
    return (ask - bid) / (ask + bid) * _BPS
