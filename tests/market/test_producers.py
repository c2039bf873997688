"""Producers: how they are found, what the Fear & Greed site may say, what the forecast knows."""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market.bar import DAY_MS, HOUR_MS
from market.features import WARMUP_BARS
from market.panel import Float64Array, Panel
from market.producers import forecast as forecasting
from market.producers.fear_greed import FearGreed
from market.producers.forecast import EMBARGO_BARS, Forecast, design
from market.producers.producer import (
    ProducerContext,
    ProducerFailed,
    ProducerFault,
    Row,
    load_producer,
)
from market.signal_join import join_signals
from market.signals import RejectedSignal, Signal, SignalFault, stamped
from tests.market.fear_greed_site import NEWEST, Site, payload, row, serving
from tests.training.market_factory import panel_of, random_close

NOW = NEWEST * 1000 + HOUR_MS
CONTEXT = ProducerContext(venue="binanceusdm", symbols=("BTC/USDT:USDT",), interval_ms=HOUR_MS)
LATER = ProducerContext(
    venue="binanceusdm", symbols=("BTC/USDT:USDT",), interval_ms=HOUR_MS, last_event_time=NOW
)


def ask(site: Site, context: ProducerContext = CONTEXT, **options: float) -> Sequence[Row]:
    """Run the producer against the site."""
    return asyncio.run(FearGreed(base_url=site.url, **options).produce(NOW, context))


def test_the_first_run_takes_the_whole_history() -> None:
    """At first everything is asked for and marked as back-filled, with the declared lag."""
    with serving() as site:
        site.answer(payload([row("40"), row("55", days_ago=1)]))
        rows = [each for each in ask(site) if isinstance(each, Signal)]
    assert site.limits == ["0"]
    assert site.paths == ["/fng/"]
    assert [(each.value, each.event_time) for each in rows] == [
        (40.0, NEWEST * 1000),
        (55.0, NEWEST * 1000 - 86_400_000),
    ]
    assert all(each.is_backfilled and each.symbol == "" for each in rows)
    assert rows[0].available_at == rows[0].published_at + HOUR_MS


def test_later_runs_ask_for_recent_days_observed_live() -> None:
    """With rows stored, only recent days are asked for, and they count from their ingestion."""
    with serving() as site:
        (found,) = ask(site, LATER)
    assert site.limits == ["10"]
    assert isinstance(found, Signal)
    assert not found.is_backfilled


def test_a_long_pause_is_made_up_for() -> None:
    """After a month without the site, at least that month is asked for."""
    with serving() as site:
        ask(site, dataclasses.replace(LATER, last_event_time=NOW - 30 * DAY_MS))
    assert int(site.limits[0]) >= 31


def test_what_a_pause_or_a_file_left_open_is_history() -> None:
    """A row of three days ago was not observed when it came out; yesterday's was."""
    days = (NOW // DAY_MS - 3, NOW // DAY_MS - 1)
    stamps = [str(day * DAY_MS // 1000) for day in days]
    found = {"data": [{"value": "40", "timestamp": stamp} for stamp in stamps]}
    with serving() as site:
        site.body = json.dumps(found).encode()
        rows = ask(site, LATER)
    kept = [row for row in rows if isinstance(row, Signal)]
    assert [row.is_backfilled for row in kept] == [True, False]
    assert {row.lag_ms for row in kept} == {HOUR_MS}


def test_a_value_of_a_later_day_is_not_known_yet() -> None:
    """On a clock that is behind the site's, rows of its future are left for later."""
    with serving() as site:
        site.answer(payload([row("40", days_ago=-1), row("41")]))
        (found,) = ask(site, LATER)
    assert isinstance(found, Signal)
    assert found.value == 41.0


@pytest.mark.parametrize(
    ("bad", "fault"),
    [
        (row("nan"), SignalFault.NOT_A_NUMBER),
        (row("Infinity"), SignalFault.NOT_A_NUMBER),
        (row(""), SignalFault.NOT_A_NUMBER),
        (row("101"), SignalFault.OUT_OF_RANGE),
        (row("-1"), SignalFault.OUT_OF_RANGE),
        (row("40") | {"value": None}, SignalFault.NOT_A_NUMBER),
        (row("40") | {"value": True}, SignalFault.NOT_A_NUMBER),
        (row("40") | {"value": [40]}, SignalFault.NOT_A_NUMBER),
        (row("40") | {"timestamp": "soon"}, SignalFault.BAD_TIME),
        (row("40") | {"timestamp": "12.5"}, SignalFault.BAD_TIME),
        (row("40") | {"timestamp": str(NEWEST * 1000)}, SignalFault.BAD_TIME),
        ("40", SignalFault.NOT_A_NUMBER),
    ],
)
def test_an_odd_row_is_refused_and_the_others_are_kept(bad: Any, fault: SignalFault) -> None:
    """A row that is no number from 0 to 100 with a time costs itself only."""
    with serving() as site:
        site.answer(payload([bad, row("55", days_ago=1)]))
        refused, kept = ask(site)
    assert isinstance(refused, RejectedSignal)
    assert refused.fault is fault
    assert isinstance(kept, Signal)


@pytest.mark.parametrize(
    ("status", "body", "fault"),
    [
        (500, b"{}", ProducerFault.REFUSED),
        (429, b"slow down", ProducerFault.REFUSED),
        (200, b"<html>maintenance</html>", ProducerFault.PAYLOAD),
        (200, b'{"data": [{"value": "4', ProducerFault.PAYLOAD),
        (200, b"[]", ProducerFault.PAYLOAD),
        (200, b'{"data": []}', ProducerFault.PAYLOAD),
        (200, b'{"data": null}', ProducerFault.PAYLOAD),
        (200, b'{"data": [{"value": NaN, "timestamp": NaN}]}', ProducerFault.PAYLOAD),
        (200, b'{"data": [1], "metadata": {"error": "no"}}', ProducerFault.REFUSED),
    ],
)
def test_an_answer_that_is_none_is_a_typed_failure(
    status: int, body: bytes, fault: ProducerFault
) -> None:
    """HTTP errors, HTML, cut-off JSON and empty answers fail with their kind, and give no row."""
    with serving() as site:
        site.status, site.body = status, body
        with pytest.raises(ProducerFailed) as failed:
            ask(site)
    assert failed.value.fault is fault


def test_a_site_that_does_not_answer_times_out() -> None:
    """A silent site costs the time-out and no more."""
    with serving() as site:
        site.wait.clear()
        with pytest.raises(ProducerFailed) as failed:
            ask(site, timeout_seconds=0.2)
        site.wait.set()
    assert failed.value.fault is ProducerFault.TIMED_OUT


def test_a_site_that_is_gone_is_unreachable() -> None:
    """A refused connection is a failure of its own kind."""
    with serving() as site:
        pass
    with pytest.raises(ProducerFailed) as failed:
        ask(site)
    assert failed.value.fault is ProducerFault.UNREACHABLE


def test_the_forecast_without_scikit_learn_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the library is missing, the failure says what to install."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ProducerFailed, match=r"pip install 'ballast\[forecast\]'") as failed:
        forecasting.new_regressor(1)
    assert failed.value.fault is ProducerFault.MISSING_LIBRARY


def small_forecast() -> Forecast:
    """A recipe that a thousand bars can support."""
    return Forecast(horizon_bars=6, block_bars=200, minimum_train_bars=300)


class Recent:
    """A regressor that answers with the mean target that it was fitted on: quick and causal."""

    def __init__(self) -> None:
        self.mean = 0.0

    def fit(self, x: Float64Array, y: Float64Array) -> object:
        """Remember the mean."""
        self.mean = float(y.mean() + np.nanmean(x) * 1e-3)
        return self

    def predict(self, x: Float64Array) -> Float64Array:
        """Depend on the fit and on the inputs."""
        forecast: Float64Array = self.mean + np.nan_to_num(x).sum(axis=1) * 1e-3
        return forecast


def test_every_block_is_purged_of_its_own_targets() -> None:
    """Blocks tile the history; each is fitted purge + embargo before it begins."""
    producer = small_forecast()
    blocks = list(producer.blocks(1_500))
    gap = 6 + WARMUP_BARS + EMBARGO_BARS
    assert blocks[0].train_stop == WARMUP_BARS + 300
    assert blocks[-1].stop == 1_500
    assert all(block.start - block.train_stop == gap for block in blocks)
    assert [block.start for block in blocks[1:]] == [block.stop for block in blocks[:-1]]


def test_no_block_is_fitted_on_a_target_that_was_not_realised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every target in a fit ends before the block, by the purge and the embargo."""
    producer, panel = small_forecast(), panel_of(random_close(1, 1_300, 2))
    _, target = design(panel, 6)
    fitted: list[int] = []

    class Counting(Recent):
        def fit(self, x: Float64Array, y: Float64Array) -> object:
            fitted.append(len(y))
            return super().fit(x, y)

    monkeypatch.setattr(forecasting, "new_regressor", lambda seed: Counting())
    producer.out_of_fold(panel)
    expected = [
        int(np.isfinite(target[: block.train_stop]).sum()) for block in producer.blocks(len(panel))
    ]
    assert fitted == expected
    assert len(fitted) > 1


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(900, 1_199), seed=st.integers(0, 50))
def test_the_future_changes_no_past_forecast(
    cut: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other bars from ``cut`` on, or none at all, leave every earlier value bit-equal."""
    monkeypatch.setattr(forecasting, "new_regressor", lambda seed: Recent())
    close = random_close(seed, 1_200, 2)
    moved = close.copy()
    moved[cut:] = random_close(seed + 100, 1_200, 2)[cut:]
    producer = small_forecast()
    whole = producer.out_of_fold(panel_of(close))
    np.testing.assert_array_equal(producer.out_of_fold(panel_of(moved))[:cut], whole[:cut])
    np.testing.assert_array_equal(producer.out_of_fold(panel_of(close[:cut])), whole[:cut])
    assert np.isfinite(whole[cut - 1]).all()


def correlation(forecast: Float64Array, target: Float64Array) -> float:
    """Pearson's, over the rows that both know."""
    both = np.isfinite(forecast) & np.isfinite(target)
    return float(np.corrcoef(forecast[both], target[both])[0, 1])


def test_on_noise_the_out_of_fold_forecast_knows_nothing() -> None:
    """Five random walks: in-fold the fit correlates with its targets, out of fold it does not."""
    pytest.importorskip("sklearn", reason="the extra 'forecast' is not installed")
    panel = panel_of(random_close(3, 5_000, 5))
    producer = Forecast(horizon_bars=6, block_bars=800, minimum_train_bars=1_500)
    inputs, target = design(panel, 6)
    rows = np.isfinite(target)
    known = np.isfinite(inputs[rows]).any(axis=0)
    model = forecasting.new_regressor(1)
    model.fit(inputs[rows][:, known], target[rows])
    in_fold = np.full(target.shape, np.nan)
    in_fold[rows] = model.predict(inputs[rows][:, known])
    # 3100 bars × 5 assets of targets that overlap six times: about 2600 independent ones, so
    # that chance alone gives ±0.02; 0.08 is four of those.
    assert correlation(in_fold, target) > 0.2
    assert abs(correlation(producer.out_of_fold(panel), target)) < 0.08


def run_forecast(panel: Panel, context: ProducerContext, now: int) -> list[Signal]:
    """The signals of one run of a small forecast."""
    made = small_forecast().produce(now, context)
    return [each for each in made if isinstance(each, Signal)]


def context_of(panel: Panel, last_event_time: int | None) -> ProducerContext:
    """What the daemon would tell the forecast."""
    return ProducerContext(
        venue="binanceusdm",
        symbols=panel.symbols,
        interval_ms=panel.interval_ms,
        last_event_time=last_event_time,
        history=panel,
    )


def test_the_first_run_gives_history_and_the_newest_bar_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """History is back-filled at the closes with the lag; the newest bar alone is live."""
    monkeypatch.setattr(forecasting, "new_regressor", lambda seed: Recent())
    panel = panel_of(random_close(1, 1_000, 2))
    now = int(panel.close_time[-1]) + 60_000
    rows = run_forecast(panel, context_of(panel, None), now)
    live_rows = [one for one in rows if not one.is_backfilled]
    assert {one.event_time for one in live_rows} == {int(panel.close_time[-1])}
    assert {one.symbol for one in live_rows} == set(panel.symbols)
    assert len(rows) - len(live_rows) > 300
    later = run_forecast(panel, context_of(panel, now), now)
    assert [one.is_backfilled for one in later] == [False, False]


def test_a_forecast_reaches_the_decision_after_its_bar_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """History joins one bar late, exactly as a live value that takes a minute does."""
    monkeypatch.setattr(forecasting, "new_regressor", lambda seed: Recent())
    panel = panel_of(random_close(1, 1_000, 1))
    producer = small_forecast()
    now = int(panel.close_time[-1])
    rows = [stamped(one, now) for one in run_forecast(panel, context_of(panel, None), now)]
    column = forecasting_column(producer)
    joined = join_signals(rows, [column], panel.symbols, panel.close_time)
    expected = producer.out_of_fold(panel)
    np.testing.assert_array_equal(joined.values[900:999, 0, 0], expected[899:998, 0])


def forecasting_column(producer: Forecast) -> Any:
    """The column that reads a forecast."""
    from market.signals import SignalColumn

    return SignalColumn(
        source=producer.name, name="return_6", version=producer.version, max_age_seconds=7_200
    )


def test_a_short_history_is_a_typed_failure() -> None:
    """Without enough bars there is no forecast, and no guess."""
    panel = panel_of(random_close(1, 400, 2))
    with pytest.raises(ProducerFailed) as failed:
        run_forecast(panel, context_of(panel, None), int(panel.close_time[-1]))
    assert failed.value.fault is ProducerFault.TOO_LITTLE_HISTORY


def test_another_recipe_is_another_version() -> None:
    """Every option that changes values is named in the version."""
    versions = {
        load_producer("forecast", options).version
        for options in ({}, {"horizon_bars": 6}, {"block_bars": 100}, {"seed": 2})
    }
    assert len(versions) == 4


def test_a_built_in_is_made_with_its_options() -> None:
    """Options of the settings are the keyword arguments of the producer."""
    assert load_producer("forecast", {"cadence": "5 0 * * *"}).cadence == "5 0 * * *"


def test_history_has_the_bars_that_live_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quarter-hour bars under an hourly cadence: one value an hour, as late as live has it."""
    monkeypatch.setattr(forecasting, "new_regressor", lambda seed: Recent())
    hourly = panel_of(random_close(1, 1_200, 1))
    quarter = HOUR_MS // 4
    start = int(hourly.open_time[0])
    panel = dataclasses.replace(
        hourly, interval_ms=quarter, open_time=start + quarter * np.arange(len(hourly))
    )
    now = int(panel.close_time[-1])
    rows = [one for one in run_forecast(panel, context_of(panel, None), now) if one.is_backfilled]
    assert len(rows) > 50
    assert {one.event_time % HOUR_MS for one in rows} == {0}
    assert {one.lag_ms for one in rows} == {300_000}


def test_a_late_run_makes_a_late_value() -> None:
    """Bars close on the hour, runs are at half past every second hour: 34 minutes of lag."""
    closes = np.arange(12, dtype=np.int64) * HOUR_MS + NOW - NOW % DAY_MS
    lags = forecasting.live_lags(closes, HOUR_MS, "30 */2 * * *")
    assert [close % DAY_MS // HOUR_MS for close in lags] == [0, 2, 4, 6, 8, 10]
    assert set(lags.values()) == {34 * 60_000}


def test_a_first_answer_can_be_limited() -> None:
    """``history_bars`` is no part of the recipe, and must be a whole number."""
    limited = load_producer("forecast", {"history_bars": 500})
    assert limited.version == load_producer("forecast", {}).version
    with pytest.raises(ProducerFailed, match="history_bars"):
        load_producer("forecast", {"history_bars": -1})
