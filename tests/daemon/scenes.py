"""A view over figures that are made up, for the monitor's tests and for looking at the page."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace

from daemon.alerts import AlertFacts, AlertLimits, active_alerts
from daemon.monitor.view import (
    Champion,
    CheckRow,
    DecisionRow,
    EntryRow,
    EquityPoint,
    FeedAge,
    FillRow,
    ModelRow,
    OrderRow,
    Phase,
    PositionRow,
    Progress,
    Retraining,
    RetrainState,
    ShadowRow,
    Status,
    VerdictRow,
)

HOUR = 3_600_000
NOW = 1_714_748_400_000  # 2024-05-03 15:00 UTC
SYMBOLS = tuple(f"{base}/USDT:USDT" for base in ("BTC", "ETH", "SOL", "BNB", "DOGE"))
PRICES = dict(zip(SYMBOLS, (61_234.5, 3_041.27, 141.083, 588.4, 0.13127), strict=True))
WEIGHTS = dict(zip(SYMBOLS, (0.312, 0.241, 0.118, 0.0, 0.067), strict=True))
TARGETS = dict(zip(SYMBOLS, (0.30, 0.25, 0.12, 0.0, 0.07), strict=True))
MODEL_ID = "20240501T0300-5f3a91c2d7e4"
REFUSED_ID = "20240503T0300-0b77e18a42cd"


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeView:
    """Answers with what it was given."""

    state: Status
    points: tuple[EquityPoint, ...] = ()
    fills: tuple[FillRow, ...] = ()
    decisions: tuple[DecisionRow, ...] = ()
    registry: tuple[ModelRow, ...] = ()
    ledger: tuple[EntryRow, ...] = ()
    health: tuple[bool, str] = (True, "the newest commit is 12 s old")
    readiness: tuple[bool, str] = (True, "running")
    failures: list[str] = field(default_factory=list)

    def status(self) -> Status:
        return self.state

    def healthy(self) -> tuple[bool, str]:
        return self.health

    def ready(self) -> tuple[bool, str]:
        return self.readiness

    async def equity_curve(self, limit: int) -> tuple[EquityPoint, ...]:
        return self.points[-limit:]

    async def recent_fills(self, limit: int) -> tuple[FillRow, ...]:
        if "fills" in self.failures:
            raise OSError("postgresql://ballast:hunter22@db/ledger does not answer")
        return self.fills[:limit]

    async def recent_decisions(self, limit: int) -> tuple[DecisionRow, ...]:
        return self.decisions[:limit]

    async def models(self) -> tuple[ModelRow, ...]:
        return self.registry

    async def model(self, model_id: str) -> ModelRow | None:
        return next((row for row in self.registry if row.model_id == model_id), None)

    async def entries(self, limit: int) -> tuple[EntryRow, ...]:
        return self.ledger[:limit]


def starting() -> FakeView:
    """History is being fetched; nothing else exists yet."""
    state = replace(
        _base(),
        phase=Phase.BACKFILLING,
        backfill=Progress(done=31_840, total=87_600),
        equity=0.0,
        initial_deposit=0.0,
        feed={},
        feed_counters={},
        bar_age_seconds=None,
        decision_age_seconds=None,
        commit_age_seconds=None,
    )
    waiting = "history is being fetched"
    return FakeView(state=state, readiness=(False, waiting), health=(True, waiting))


def training() -> FakeView:
    """Cash, because the first candidate is still being trained."""
    run = Retraining(
        state=RetrainState.RUNNING,
        run_id="20240503T1400",
        trigger="no_model",
        stage="walk-forward window 3, seed 2",
        done=11,
        total=24,
        started_at=NOW - 2 * HOUR,
        next_run_at=NOW + 57 * HOUR,
    )
    state = _with_alerts(replace(_in_cash(), retraining=run))
    return FakeView(state=state, points=_flat_curve(), decisions=_cash_decisions())


def refused() -> FakeView:
    """Cash, because the gates refused the only candidate."""
    run = Retraining(
        next_run_at=NOW + 57 * HOUR, last_verdict=refusal(), outcomes={"refused": 1, "failed": 1}
    )
    state = _with_alerts(replace(_in_cash(), retraining=run))
    return FakeView(
        state=state,
        points=_flat_curve(),
        decisions=_cash_decisions(),
        registry=(_model(REFUSED_ID, "refused", refusal()),),
    )


def trading() -> FakeView:
    """A champion trades; a later candidate was refused."""
    points = _curve()
    last = points[-1]
    fills = _fills()
    decisions = _decisions(points)
    summary = "It passed all 7 hard checks; out-of-sample net Sharpe 2.31 over 412 days"
    run = Retraining(
        next_run_at=NOW + 57 * HOUR, last_verdict=refusal(), outcomes={"promoted": 1, "refused": 3}
    )
    state = replace(
        _base(),
        equity=last.equity,
        wallet=last.equity - 182.4,
        peak_equity=last.equity / (1 - last.drawdown),
        drawdown=last.drawdown,
        weights=WEIGHTS,
        cash_weight=1 - sum(WEIGHTS.values()),
        positions=_positions(last.equity),
        pending_orders=(
            OrderRow(
                symbol=SYMBOLS[0], quantity=-0.004, decision_price=61_234.5, decision_time=NOW
            ),
        ),
        shadows=(
            ShadowRow(
                account_id="yardstick",
                target="equal_weight",
                equity=11_204.5,
                total_return=0.1204,
                decisions=2_023,
            ),
            ShadowRow(
                account_id="older",
                target=REFUSED_ID,
                equity=4_980.0,
                total_return=-0.502,
                decisions=1_400,
                halted=True,
            ),
        ),
        decision_time=NOW,
        last_decision=decisions[0],
        decisions={"decided": 2_014, "held": 9, "missed": 2},
        fills=3_107,
        missed=2,
        fees=412.07,
        slippage=96.31,
        funding=-38.92,
        champion=Champion(model_id=MODEL_ID, promoted_at=NOW - 54 * HOUR, summary=summary),
        retraining=run,
    )
    registry = (
        _model(REFUSED_ID, "refused", refusal()),
        _model(MODEL_ID, "champion", approval(), promoted_at=NOW - 54 * HOUR),
    )
    return FakeView(
        state=_with_alerts(state),
        points=points,
        fills=fills,
        decisions=decisions,
        registry=registry,
        ledger=(_entry(),),
    )


def approval() -> VerdictRow:
    """A verdict in which every hard check holds and one warning does not."""
    return VerdictRow(
        model_id=MODEL_ID, passed=True, reasons=(), checks=_checks(good=True), at=NOW - 54 * HOUR
    )


def refusal() -> VerdictRow:
    """A verdict with failed hard checks and one without evidence."""
    checks = _checks(good=False)
    return VerdictRow(
        model_id=REFUSED_ID,
        passed=False,
        reasons=tuple(
            check.explanation
            for check in checks
            if check.value is None or (check.hard and not check.passed)
        ),
        checks=checks,
        at=NOW - 3 * HOUR,
    )


def _base() -> Status:
    return Status(
        version="0.1.0",
        phase=Phase.RUNNING,
        now=NOW + 12_000,
        started_at=NOW - 75 * HOUR,
        venue="binanceusdm",
        venue_description="seed 7, planted edge 1.0, served at http://127.0.0.1:40123",
        sandbox=True,
        synthetic=True,
        symbols=SYMBOLS,
        interval="1h",
        account_id="main",
        speed=3_600.0,
        equity=10_000.0,
        wallet=10_000.0,
        peak_equity=10_000.0,
        initial_deposit=10_000.0,
        feed={symbol: FeedAge(last_close_time=NOW, age_seconds=12.0) for symbol in SYMBOLS},
        feed_counters={"bars": 10_125, "repaired": 14, "reconnects": 3, "duplicates": 0},
        bar_age_seconds=12.0,
        decision_age_seconds=11.0,
        commit_age_seconds=11.0,
    )


def _in_cash() -> Status:
    decisions = _cash_decisions()
    return replace(
        _base(),
        decision_time=NOW,
        last_decision=decisions[0],
        decisions={"decided": len(decisions)},
    )


def _with_alerts(status: Status) -> Status:
    facts = AlertFacts(
        now=status.now,
        running_since=status.started_at,
        last_close_times={symbol: age.last_close_time for symbol, age in status.feed.items()},
        last_decision_at=status.decision_time,
        last_commit_at=status.decision_time,
        champion_id=status.champion.model_id if status.champion else None,
        missed_times=(NOW - 5 * HOUR, NOW - 4 * HOUR) if status.missed else (),
    )
    return replace(status, alerts=active_alerts(facts, AlertLimits.for_interval(HOUR)))


def _curve(bars: int = 2_000) -> tuple[EquityPoint, ...]:
    rng = random.Random(7)
    equity, peak = 10_000.0, 10_000.0
    points = []
    for index in range(bars):
        equity *= math.exp(rng.gauss(0.00007, 0.0035))
        peak = max(peak, equity)
        time = NOW - (bars - 1 - index) * HOUR
        points.append(EquityPoint(time=time, equity=equity, drawdown=1 - equity / peak))
    return tuple(points)


def _flat_curve(bars: int = 40) -> tuple[EquityPoint, ...]:
    return tuple(
        EquityPoint(time=NOW - (bars - 1 - index) * HOUR, equity=10_000.0, drawdown=0.0)
        for index in range(bars)
    )


def _positions(equity: float) -> tuple[PositionRow, ...]:
    return tuple(
        PositionRow(
            symbol=symbol,
            quantity=weight * equity / PRICES[symbol],
            entry_price=PRICES[symbol] * 0.985,
            mark_price=PRICES[symbol],
            notional=weight * equity,
            unrealised=weight * equity * 0.015,
        )
        for symbol, weight in WEIGHTS.items()
        if weight
    )


def _fills(number: int = 40) -> tuple[FillRow, ...]:
    rng = random.Random(11)
    rows = []
    for index in range(number):
        symbol = rng.choice(SYMBOLS)
        price = PRICES[symbol] * math.exp(rng.gauss(0, 0.01))
        notional = rng.uniform(20, 900) * rng.choice((-1, 1))
        slip = rng.uniform(0.5, 3) * 1e-4
        rows.append(
            FillRow(
                event_time=NOW - index * HOUR + 1_000,
                symbol=symbol,
                quantity=notional / price,
                reference_price=price,
                fill_price=price * (1 + math.copysign(slip, notional)),
                fee=abs(notional) * 5e-4,
                slippage=abs(notional) * slip,
            )
        )
    return tuple(rows)


def _decisions(points: tuple[EquityPoint, ...], number: int = 40) -> tuple[DecisionRow, ...]:
    rows = []
    for index in range(number):
        status, reason = "decided", "the champion's target weights"
        missing: tuple[str, ...] = ()
        if index == 3:
            status, reason = "held", "no symbol had a final bar at the deadline"
            missing = SYMBOLS
        elif index in {4, 5}:
            status, reason = "missed", "the daemon was not running"
        rows.append(
            DecisionRow(
                decision_time=NOW - index * HOUR,
                status=status,
                source="policy",
                model_id=MODEL_ID if status == "decided" else None,
                reason=reason,
                equity=points[-1 - index].equity,
                turnover=0.0 if status != "decided" else 0.013 * (1 + index % 4),
                target_weights=TARGETS if status == "decided" else {},
                missing=missing,
            )
        )
    return tuple(rows)


def _cash_decisions(number: int = 40) -> tuple[DecisionRow, ...]:
    return tuple(
        DecisionRow(
            decision_time=NOW - index * HOUR,
            status="decided",
            source="cash",
            model_id=None,
            reason="no model has been promoted",
            equity=10_000.0,
            turnover=0.0,
        )
        for index in range(number)
    )


def _model(
    model_id: str, state: str, verdict: VerdictRow, promoted_at: int | None = None
) -> ModelRow:
    return ModelRow(
        model_id=model_id,
        state=state,
        created_at=verdict.at - HOUR,
        promoted_at=promoted_at,
        snapshot_id="9c1f4e7a2b3d5566",
        verdict=verdict,
    )


def _checks(*, good: bool) -> tuple[CheckRow, ...]:
    def check(
        name: str,
        value: float | None,
        relation: str,
        threshold: float,
        explanation: str,
        *,
        hard: bool = True,
    ) -> CheckRow:
        held = (
            value is not None
            and (
                {">": value > threshold, ">=": value >= threshold, "<=": value <= threshold}[
                    relation
                ]
            )
        )
        return CheckRow(
            name=name, value=value, threshold=threshold, comparison=relation, hard=hard,
            passed=held, explanation=explanation,
        )  # fmt: skip

    sharpe, deflated = (2.31, 0.981) if good else (0.42, 0.613)
    return (
        check("regime_windows", 2 if good else None, ">=", 2,
              "Each of bull, bear and sideways has at least two test windows." if good else
              "There is no bear window in the sample, so the evidence is insufficient."),
        check("net_sharpe", sharpe, ">", 0.0,
              f"The annual out-of-sample Sharpe ratio after all costs is {sharpe}."),
        check("deflated_sharpe_probability", deflated, ">=", 0.95,
              f"With 12 trials counted, the probability of a Sharpe above zero is {deflated}."),
        check("cost_x2", 0.141 if good else -0.032, ">", 0.0,
              "The net return over the record with doubled trading costs."),
        check("cost_x3", -0.012 if good else -0.094, ">", 0.0,
              "The net return over the record with tripled trading costs.", hard=False),
        check("latency_plus_one_bar", 0.083 if good else 0.004, ">", 0.0,
              "The net return if every fill came one bar later."),
        check("risky_exposure", 0.62 if good else 0.021, ">=", 0.05,
              "The mean share of equity invested; below this the model takes no position."),
        check("overfitting_probability", 0.18 if good else 0.55, "<=", 0.5,
              "The probability that the best recipe in sample is below the median out of sample.",
              hard=False),
    )  # fmt: skip


def _entry() -> EntryRow:
    return EntryRow(
        entry_id="main:deposit",
        kind="deposit",
        symbol=None,
        event_time=NOW - 75 * HOUR,
        posted_at=NOW - 75 * HOUR,
        postings=(
            ("assets:wallet", "USDT", "10000"),
            ("equity:deposits", "USDT", "-10000"),
        ),
    )
