from __future__ import annotations

import math
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from daemon.alerts import AlertName
from daemon.monitor.metrics import build_registry, render_metrics
from tests.daemon import scenes

Labels = frozenset[tuple[str, str]]


def _samples(view: scenes.FakeView) -> dict[tuple[str, Labels], float]:
    body, _ = render_metrics(build_registry(view), "text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def _value(view: scenes.FakeView, name: str, **labels: str) -> float | None:
    return _samples(view).get((name, frozenset(labels.items())))


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("ballast_fees_quote_total", {}, 412.07),
        ("ballast_funding_quote", {}, -38.92),
        ("ballast_fills_total", {}, 3_107),
        ("ballast_decisions_total", {"status": "decided"}, 2_014),
        ("ballast_decisions_missed_total", {}, 2),
        ("ballast_feed_events_total", {"kind": "repaired"}, 14),
        ("ballast_retrain_runs_total", {"outcome": "refused"}, 3),
        ("ballast_weight_ratio", {"symbol": "BTC/USDT:USDT"}, 0.312),
        ("ballast_shadow_equity_quote", {"account": "yardstick"}, 11_204.5),
        ("ballast_shadow_halted", {"account": "older"}, 1),
        ("ballast_bar_age_seconds", {}, 12),
        ("ballast_clock_seconds", {}, 1_714_748_412),
        ("ballast_champion", {}, 1),
        ("ballast_champion_age_seconds", {}, 54 * 3_600 + 12),
        ("ballast_healthy", {}, 1),
        ("ballast_phase", {"phase": "running"}, 1),
        ("ballast_phase", {"phase": "starting"}, 0),
        ("ballast_alerts_active", {"alert": "missed_decisions"}, 1),
        ("ballast_alerts_active", {"alert": "halted"}, 0),
    ],
)
def test_figures_are_the_views(name: str, labels: dict[str, str], value: float) -> None:
    """Each metric has the view's figure under a name with its unit."""
    assert _value(scenes.trading(), name, **labels) == value


def test_every_alert_has_a_series() -> None:
    """An alert that does not hold is 0 and not absent, so that a rule can see it end."""
    names = {
        dict(labels)["alert"]
        for name, labels in _samples(scenes.training())
        if name == "ballast_alerts_active"
    }
    assert names == {name.value for name in AlertName}


def test_what_has_not_happened_has_no_sample() -> None:
    """An age that does not exist yet is absent: zero would mean that all is fresh."""
    view = scenes.starting()
    for name in ("bar_age_seconds", "champion_age_seconds", "retrain_next_run_time_seconds"):
        assert _value(view, f"ballast_{name}") is None
    assert _value(view, "ballast_champion") == 0


def test_progress_of_a_run() -> None:
    """11 of 24 steps done is a ratio of 11/24, and 0 without a run."""
    assert _value(scenes.training(), "ballast_retrain_progress_ratio") == 11 / 24
    assert _value(scenes.trading(), "ballast_retrain_progress_ratio") == 0


def test_two_daemons_in_one_process_do_not_mix() -> None:
    """Each registry is its own."""
    first, second = scenes.trading(), scenes.training()
    assert _value(first, "ballast_champion") == 1
    assert _value(second, "ballast_champion") == 0


def test_strange_label_text_survives() -> None:
    """A quote or a newline in a label is escaped and does not break the page."""
    base = scenes.trading()
    view = replace(base, state=replace(base.state, feed_counters={'a "b"\n\\c': 3}))
    assert _value(view, "ballast_feed_events_total", kind='a "b"\n\\c') == 3


def test_scraper_may_ask_for_openmetrics() -> None:
    """The format follows the Accept header; process metrics are there too."""
    registry = build_registry(scenes.trading())
    body, content_type = render_metrics(registry, "application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
    assert b"process_resident_memory_bytes" in body


def test_nothing_measured_is_nan() -> None:
    """No scene gives a sample that is not a number."""
    for scene in (scenes.starting(), scenes.training(), scenes.trading(), scenes.refused()):
        assert not [key for key, value in _samples(scene).items() if math.isnan(value)]
