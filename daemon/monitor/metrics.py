"""The Prometheus metrics: one collector that reads the view when it is scraped.

Owns metric names and units. Nothing is counted here, so a figure can never differ from the one
on the page; amounts are in the account's quote currency, ages on the daemon's clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from daemon.alerts import AlertName
from daemon.monitor.view import Phase, RetrainState, Status, View


def build_registry(view: View) -> CollectorRegistry:
    """Return a registry of its own, so that two daemons in one process do not mix."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ViewCollector(view))
    ProcessCollector(registry=registry)
    return registry


def render_metrics(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the body and its content type in the format that the scraper asks for."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class ViewCollector(Collector):
    """Turns a status into metric families."""

    def __init__(self, view: View) -> None:
        """Read ``view`` at every scrape."""
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Yield every family of ``ballast_*``."""
        status = self._view.status()
        yield from _life(status, healthy=self._view.healthy()[0], ready=self._view.ready()[0])
        yield from _account(status)
        yield from _progress(status)
        yield from _learning(status)
        active = {alert.name for alert in status.alerts}
        yield _labelled_gauge(
            "ballast_alerts_active",
            "1 while the alert holds",
            "alert",
            {name.value: float(name in active) for name in AlertName},
        )


def _life(status: Status, *, healthy: bool, ready: bool) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "ballast_info",
        "Always 1; the labels say what runs",
        labels=["version", "venue", "account", "sandbox", "model"],
    )
    model = status.champion.model_id if status.champion else ""
    sandbox = "true" if status.sandbox else "false"
    info.add_metric([status.version, status.venue, status.account_id, sandbox, model], 1.0)
    yield info
    yield _gauge("ballast_healthy", "1 while the daemon makes progress", float(healthy))
    yield _gauge("ballast_ready", "1 once start-up is over", float(ready))
    yield _gauge("ballast_clock_seconds", "The daemon's clock, Unix time", status.now / 1000)
    yield _gauge(
        "ballast_start_time_seconds", "Start of the daemon on its clock", status.started_at / 1000
    )
    yield _labelled_gauge(
        "ballast_phase",
        "1 for the present phase",
        "phase",
        {phase.value: float(phase is status.phase) for phase in Phase},
    )


def _account(status: Status) -> Iterator[Metric]:
    yield _gauge("ballast_equity_quote", "Equity", status.equity)
    yield _gauge("ballast_wallet_quote", "Wallet without unrealised profit", status.wallet)
    yield _gauge("ballast_peak_equity_quote", "Highest equity at a decision", status.peak_equity)
    yield _gauge(
        "ballast_initial_deposit_quote", "What the account began with", status.initial_deposit
    )
    yield _gauge("ballast_drawdown_ratio", "Fraction below the peak", status.drawdown)
    yield _gauge("ballast_cash_weight_ratio", "Cash as a fraction of equity", status.cash_weight)
    yield _labelled_gauge(
        "ballast_weight_ratio", "Notional as a fraction of equity, signed", "symbol", status.weights
    )
    yield _counter("ballast_fills", "Fills of the account", status.fills)
    yield _counter("ballast_fees_quote", "Fees paid", status.fees)
    yield _counter("ballast_slippage_quote", "Slippage paid", status.slippage)
    yield _labelled_gauge(
        "ballast_shadow_equity_quote",
        "Equity of another account on the same feed",
        "account",
        {one.account_id: one.equity for one in status.shadows},
    )
    yield _labelled_gauge(
        "ballast_shadow_halted",
        "1 while that account does not trade",
        "account",
        {one.account_id: float(one.halted) for one in status.shadows},
    )
    # Funding is received as well as paid, so it is no counter.
    yield _gauge("ballast_funding_quote", "Net funding, received is positive", status.funding)


def _progress(status: Status) -> Iterator[Metric]:
    yield _optional_gauge(
        "ballast_bar_age_seconds", "Since the close of the newest bar", status.bar_age_seconds
    )
    yield _optional_gauge(
        "ballast_decision_age_seconds", "Since the newest decision", status.decision_age_seconds
    )
    yield _optional_gauge(
        "ballast_commit_age_seconds", "Since the newest commit", status.commit_age_seconds
    )
    ages = {
        symbol: feed.age_seconds
        for symbol, feed in status.feed.items()
        if feed.age_seconds is not None
    }
    yield _labelled_gauge(
        "ballast_symbol_bar_age_seconds", "Since the symbol's newest close", "symbol", ages
    )
    yield _labelled_counter("ballast_decisions", "Decisions", "status", status.decisions)
    yield _counter("ballast_decisions_missed", "Intervals without a decision", status.missed)
    yield _labelled_counter("ballast_feed_events", "Feed events", "kind", status.feed_counters)
    yield _labelled_gauge("ballast_gaps_open", "Bars that are missing now", "kind", status.gaps)
    yield _gauge(
        "ballast_request_budget_used_ratio",
        "Request weight in the present window against the venue's limit",
        status.request_budget_used,
    )
    yield _labelled_counter(
        "ballast_signal_events", "Events of signal producers", "kind", status.signal_counters
    )


def _learning(status: Status) -> Iterator[Metric]:
    retraining = status.retraining
    yield _labelled_counter(
        "ballast_retrain_runs", "Finished retraining runs", "outcome", retraining.outcomes
    )
    running = retraining.state is RetrainState.RUNNING
    yield _gauge("ballast_retrain_running", "1 while a run is under way", float(running))
    share = retraining.done / retraining.total if running and retraining.total > 0 else 0.0
    yield _gauge("ballast_retrain_progress_ratio", "Done part of the present run", share)
    yield _optional_gauge(
        "ballast_retrain_next_run_time_seconds",
        "When the next run is due, Unix time",
        None if retraining.next_run_at is None else retraining.next_run_at / 1000,
    )
    yield _gauge(
        "ballast_champion", "1 while a promoted model decides", float(bool(status.champion))
    )
    yield _optional_gauge(
        "ballast_champion_age_seconds",
        "Since the promotion of the champion",
        (status.now - status.champion.promoted_at) / 1000 if status.champion else None,
    )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=value)


def _optional_gauge(name: str, documentation: str, value: float | None) -> Metric:
    """A gauge without a sample where there is no value: absent is not zero."""
    return GaugeMetricFamily(name, documentation, value=value)


def _labelled_gauge(
    name: str, documentation: str, label: str, values: Mapping[str, float]
) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(name, documentation, value=value)


def _labelled_counter(
    name: str, documentation: str, label: str, values: Mapping[str, int]
) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
