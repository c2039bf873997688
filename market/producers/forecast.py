"""A supervised forecast of each asset's next return, as a signal named ``return_H``.

**Target.** For horizon H bars, at the close of bar t::

    y_t = ln(c_{t+H} / c_t) / (σ_t · sqrt(H)),   σ_t = sqrt(mean of r² over 168 bars up to t)

clipped to ±5. **Model.** One ``HistGradientBoostingRegressor`` for all assets, on the features of
``market.features`` (unknown ones are left missing, which the trees handle).

**History is out of fold, walk-forward.** The value published for bar t comes from a model that was
fitted on bars long past only: blocks of ``block_bars`` follow each other from the start of the
history, and the model of a block is fitted on every bar whose target had been realised
``purge + embargo`` bars before the block, purge = H + the features' warm-up. So the values can be
trained on: no model has seen the targets that it forecasts, and changing a bar changes no value
before it. Purged k-fold would give values from the first bar on, but each would know its future;
it is not used. The live value comes from the model fitted on everything realised so far, which is
the same rule with a block of one bar and no purge beyond the targets' own H bars.

Blocks are counted from the first bar of the history, not from its end, so that a longer history
keeps the values of a shorter one. Of them the history has those that live would have had: the bar
that was the newest at each fire of the cadence, usable as late as that.

This module must never import scikit-learn when it is imported:
it is an extra (``pip install 'ballast[forecast]'``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from market.bar import MINUTE_MS
from market.crontab import crontab
from market.features import WARMUP_BARS, compute_features
from market.panel import BoolArray, Float64Array, Int64Array, Panel
from market.producers.producer import (
    ProducerContext,
    ProducerFailed,
    ProducerFault,
    Row,
)
from market.signals import Signal

FORECAST_FEATURES = (
    "return_1", "return_6", "return_24", "return_72", "volatility_ratio", "range_ratio",
    "volume_surprise", "volume_relative", "volume_shock", "funding_last", "funding_mean",
    "basis", "return_rank",
)  # fmt: skip
"""The model's inputs; part of the recipe, whatever the policy looks at."""

RECIPE = "hgb2"
"""Changes with anything that changes the values, or which bars have one."""

VOLATILITY_BARS = 168
LARGEST_TARGET = 5.0
FEWEST_SHARE = 0.8
EMBARGO_BARS = 24
LAG_MS = 300_000
# A run comes a minute after the close it is about, unless the cadence says otherwise.
RUN_MS = LAG_MS - MINUTE_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Bars that one model forecasts, and the bars that it was fitted on (stops exclusive)."""

    train_stop: int
    start: int
    stop: int


class Regressor(Protocol):
    """What is used of a scikit-learn regressor."""

    def fit(self, x: Float64Array, y: Float64Array) -> object:
        """Fit on (R, F) inputs and (R,) targets."""
        ...

    def predict(self, x: Float64Array) -> Float64Array:
        """Return (R,) forecasts."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """A fitted model, and which inputs (F,) it was fitted on: those that were ever known."""

    regressor: Regressor
    used: BoolArray

    def predict(self, inputs: Float64Array, observed: BoolArray) -> Float64Array:
        """(B, N) forecasts from (B, N, F) inputs; NaN where the bar itself is missing."""
        flat = self.regressor.predict(inputs[..., self.used].reshape(-1, int(self.used.sum())))
        return np.where(observed, flat.reshape(observed.shape), np.nan)


class Forecast:
    """The forecast as per-asset signals."""

    name = "forecast"
    lag_ms = LAG_MS
    needs_history = True

    def __init__(
        self,
        *,
        horizon_bars: int = 24,
        block_bars: int = 720,
        minimum_train_bars: int = 2_000,
        history_bars: int = 0,
        cadence: str = "1 * * * *",
        seed: int = 1,
    ) -> None:
        """Keep the recipe: what decides a value is named in the version.

        ``history_bars`` limits the first run's answer to so many of the newest bars; 0 is all.

        Raises:
            ValueError: a number is not a positive integer, or the cadence is not a crontab.
        """
        for name, value in (
            ("horizon_bars", horizon_bars),
            ("block_bars", block_bars),
            ("minimum_train_bars", minimum_train_bars),
            ("seed", seed),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if not isinstance(history_bars, int) or isinstance(history_bars, bool) or history_bars < 0:
            raise ValueError(f"history_bars must be a whole number, got {history_bars!r}")
        crontab(cadence)
        self.history_bars = history_bars
        self.horizon_bars = horizon_bars
        self.block_bars = block_bars
        self.minimum_train_bars = minimum_train_bars
        self.seed = seed
        self.cadence = cadence
        self.version = f"{RECIPE}-h{horizon_bars}-b{block_bars}-m{minimum_train_bars}-s{seed}"

    def produce(self, now: int, context: ProducerContext) -> Sequence[Row]:
        """Return the out-of-fold history at the first run, and the newest bar's forecast.

        Raises:
            ProducerFailed: scikit-learn is missing, or the history is too short.
        """
        panel = context.history
        if panel is None or len(panel) == 0:
            raise ProducerFailed(ProducerFault.TOO_LITTLE_HISTORY, "no bars were given")
        new_regressor(self.seed)  # refused early where the library is missing
        closed = int(np.searchsorted(panel.close_time, now, side="right"))
        panel = panel.window(0, closed)
        live = self._rows(panel, self.latest(panel), {})
        if context.last_event_time is not None:
            return live
        first = max(0, len(panel) - self.history_bars) if self.history_bars else 0
        # The newest bar is the live value's.
        lags = live_lags(panel.close_time[first:-1], panel.interval_ms, self.cadence)
        history = self._rows(panel, self.out_of_fold(panel), lags) if lags else []
        return [*history, *live]

    def out_of_fold(self, panel: Panel) -> Float64Array:
        """(T, N) walk-forward forecasts; NaN before the first block and where a bar is missing."""
        inputs, target = design(panel, self.horizon_bars)
        forecast = np.full(target.shape, np.nan)
        for block in self.blocks(len(panel)):
            model = self._fitted(inputs[: block.train_stop], target[: block.train_stop])
            part = slice(block.start, block.stop)
            forecast[part] = model.predict(inputs[part], panel.observed[part])
        return forecast

    def latest(self, panel: Panel) -> Float64Array:
        """(T, N) all NaN but the newest bar: the forecast of the model fitted on everything.

        Raises:
            ProducerFailed: fewer than ``minimum_train_bars`` bars have a realised target.
        """
        inputs, target = design(panel, self.horizon_bars)
        usable = len(panel) - self.horizon_bars - WARMUP_BARS
        if usable < self.minimum_train_bars:
            raise ProducerFailed(
                ProducerFault.TOO_LITTLE_HISTORY,
                f"{max(0, usable)} bars have features and a realised target, the forecast needs "
                f"{self.minimum_train_bars}",
            )
        forecast = np.full(target.shape, np.nan)
        model = self._fitted(inputs, target)
        forecast[-1:] = model.predict(inputs[-1:], panel.observed[-1:])
        return forecast

    def blocks(self, bars: int) -> Iterator[Block]:
        """Yield the blocks of a history, oldest first; the last one may be short."""
        gap = self.horizon_bars + WARMUP_BARS + EMBARGO_BARS
        start = WARMUP_BARS + self.minimum_train_bars + gap
        while start < bars:
            yield Block(
                train_stop=start - gap, start=start, stop=min(bars, start + self.block_bars)
            )
            start += self.block_bars

    def _fitted(self, inputs: Float64Array, target: Float64Array) -> Fitted:
        """Fit on the rows whose target is known; (T, N, F) and (T, N)."""
        rows = np.isfinite(target)
        given = inputs[rows]
        # A feature that this venue never has (funding on spot) is no input: trees cannot bin it.
        used: BoolArray = np.asarray(np.isfinite(given).any(axis=0))
        if not used.any():
            raise ProducerFailed(ProducerFault.TOO_LITTLE_HISTORY, "no bar has a realised target")
        regressor = new_regressor(self.seed)
        regressor.fit(given[:, used], target[rows])
        return Fitted(regressor=regressor, used=used)

    def _rows(self, panel: Panel, forecast: Float64Array, lags: Mapping[int, int]) -> list[Signal]:
        """Rows back-filled with the lag of their close in ``lags``; without any, live ones."""
        known = np.isfinite(forecast)
        if lags:
            known &= np.isin(panel.close_time, list(lags))[:, None]
        bars, assets = np.nonzero(known)
        return [
            Signal(
                source=self.name,
                version=self.version,
                symbol=panel.symbols[asset],
                event_time=int(panel.close_time[bar]),
                published_at=int(panel.close_time[bar]),
                ingested_at=0,
                name=f"return_{self.horizon_bars}",
                value=float(forecast[bar, asset]),
                is_backfilled=bool(lags),
                lag_ms=lags.get(int(panel.close_time[bar]), self.lag_ms),
            )
            for bar, asset in zip(bars.tolist(), assets.tolist(), strict=True)
        ]


def live_lags(close_time: Int64Array, interval_ms: int, cadence: str) -> dict[int, int]:
    """Return the closes (T,) that live would have published, each with its lag in milliseconds.

    A run publishes the newest closed bar: with bars shorter than the cadence most have no value,
    and a run long after the close makes its value usable that much later.
    """
    trigger = crontab(cadence)
    lags: dict[int, int] = {}
    bar = 0
    while bar < len(close_time):
        close = int(close_time[bar])
        fire = trigger.get_next_fire_time(None, datetime.fromtimestamp(close / 1000, UTC))
        if fire is None:
            break
        waited_ms = round(fire.timestamp() * 1000) - close
        if waited_ms < interval_ms:
            lags[close] = max(LAG_MS, waited_ms + RUN_MS)
        bar += max(1, waited_ms // interval_ms)
    return lags


def design(panel: Panel, horizon_bars: int) -> tuple[Float64Array, Float64Array]:
    """Return (T, N, F) inputs, NaN where unknown, and (T, N) targets, NaN where not realised.

    A target needs no feature to be known and no bar between t and t + H to be there; it is NaN
    where either close is missing, and where fewer than 80 % of the returns behind σ are known.
    """
    features = compute_features(panel, FORECAST_FEATURES)
    inputs = np.where(features.known, features.values, np.nan).astype(np.float64)
    log_close = np.log(np.where(panel.close > 0, panel.close, np.nan))
    returns = np.full_like(log_close, np.nan)
    returns[1:] = np.diff(log_close, axis=0)
    volatility = rolling_volatility(returns)
    target = np.full_like(log_close, np.nan)
    target[:-horizon_bars] = log_close[horizon_bars:] - log_close[:-horizon_bars]
    target /= volatility * np.sqrt(horizon_bars)
    return inputs, np.clip(target, -LARGEST_TARGET, LARGEST_TARGET)


def rolling_volatility(returns: Float64Array) -> Float64Array:
    """(T, N) sqrt of the mean square over the last 168 bars; NaN where too few are known."""
    known: BoolArray = np.isfinite(returns)
    lead = np.zeros((VOLATILITY_BARS, returns.shape[1]))
    squares = np.concatenate((lead, np.where(known, returns, 0.0) ** 2))
    counts = np.concatenate((lead, known.astype(np.float64)))
    windows = np.lib.stride_tricks.sliding_window_view
    # Each window is summed afresh: a running total would carry the past's rounding.
    total = windows(squares, VOLATILITY_BARS, axis=0)[1:].sum(axis=-1)
    count = windows(counts, VOLATILITY_BARS, axis=0)[1:].sum(axis=-1)
    enough = (count >= FEWEST_SHARE * VOLATILITY_BARS) & (total > 0)
    return np.sqrt(np.where(enough, total, np.nan) / np.where(enough, count, 1.0))


def new_regressor(seed: int) -> Regressor:
    """Return an unfitted model.

    Raises:
        ProducerFailed: scikit-learn is not installed; the message says what to install.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
    except ImportError as error:
        raise ProducerFailed(
            ProducerFault.MISSING_LIBRARY,
            "the forecast needs scikit-learn: pip install 'ballast[forecast]'",
        ) from error
    model: Regressor = HistGradientBoostingRegressor(
        max_iter=100,
        learning_rate=0.05,
        max_leaf_nodes=15,
        min_samples_leaf=200,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    return model
