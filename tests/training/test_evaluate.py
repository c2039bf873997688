"""Backtests against arithmetic done by hand and against the environment's own track."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from broker.costs import CostModel, TradingRules
from market.bar import HOUR_MS
from market.features import compute_features
from market.panel import Panel
from market.snapshot import save_snapshot
from tests.training.market_factory import START, instruments_of, panel_of, random_close
from training.baselines import BASELINES, Plan, buy_and_hold, cash, equal_weight
from training.config import TrainingConfig, TrainingJob
from training.evaluate import (
    BASE,
    AccountTerms,
    Backtest,
    join,
    prepare_window,
    run_baselines,
    run_policies,
    scenarios,
)
from training.folds import Window
from training.gates import Stress
from training.inference import Policy, load_policy
from training.learner import train
from training.simulation import TrackRules, policy_rule, prepare_market, run_track

COSTS = CostModel(fee_rate=0.001, half_spread_bps=10.0, impact_coefficient=0.0)
TERMS = AccountTerms(costs=COSTS, rules=TradingRules())
LOOKBACK = 4


def window(start: int, stop: int, number: int = 0) -> Window:
    """A window that tests bars ``start`` to ``stop``."""
    return Window(number=number, train_start=0, train_stop=1, test_start=start, test_stop=stop)


def half_in_first(panel: Panel) -> Plan:
    """Half of the equity in the first asset, once."""
    target = np.zeros(panel.close.shape)
    target[:, 0] = 0.5
    return Plan(target=target, trades=np.zeros(len(panel), dtype=np.bool_))


def baseline_of(panel: Panel, plan: Plan, start: int, stop: int) -> Backtest:
    """One plan over one window."""
    market = prepare_market(panel, instruments_of(panel))
    return run_baselines(market, {"only": plan}, [window(start, stop)], TERMS)["only"][0]


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, ...]:
    """Two hardly trained policies for three symbols."""
    root = tmp_path_factory.mktemp("policies")
    panel = panel_of(random_close(12, 400, 3))
    snapshot = save_snapshot(panel, instruments_of(panel), venue="test", root=root)
    config = TrainingConfig(
        lookback_bars=LOOKBACK, env_count=16, batch_size=128, epochs=1, total_steps=256
    )
    for seed in (1, 2):
        job = TrainingJob(
            snapshot_dir=snapshot.directory,
            start=int(panel.open_time[0]),
            stop=int(panel.close_time[-1]),
            seed=seed,
            config=config,
            costs=COSTS,
        )
        train(job, root / f"policy{seed}", lambda _done, _total: None)
    return tuple(load_policy(root / f"policy{seed}") for seed in (1, 2))


def backtests(
    panel: Panel, policies: Sequence[Policy], windows: Sequence[Window]
) -> Mapping[str, tuple[Backtest, ...]]:
    """A policy per window under every scenario."""
    market, features = prepare_market(panel, instruments_of(panel)), compute_features(panel)
    judged = [
        prepare_window(policies[w.number], w, panel=panel, features=features) for w in windows
    ]
    return run_policies(market, judged, scenarios(COSTS), TERMS)


def test_half_a_position_by_hand() -> None:
    """Buy 50 at 100, filled at 100.1 with a fee of 0.1 %; then 100 → 110 → 99.

    Fill 50·100.1 = 5005, fee 5.005; equity 10000 + 50·(110 − 100.1) − 5.005 = 10489.995, then
    50·(99 − 110) less: 9939.995.
    """
    panel = panel_of(np.array([[100.0], [100.0], [110.0], [99.0]]))
    test = baseline_of(panel, half_in_first(panel), 2, 4)
    np.testing.assert_allclose(test.equity, [10_489.995, 9_939.995], rtol=1e-9)
    np.testing.assert_allclose(test.net_return, [0.0489995, 9_939.995 / 10_489.995 - 1])
    np.testing.assert_allclose(test.turnover, [0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(test.cost, [(5.0 + 5.005) / 10_000, 0.0], atol=1e-12)
    np.testing.assert_allclose(test.gross_return[0], 500 / 10_000)
    np.testing.assert_allclose(test.weights[:, 0], [50 * 110 / 10_489.995, 50 * 99 / 9_939.995])
    assert test.open_time.tolist() == [START + 2 * HOUR_MS, START + 3 * HOUR_MS]


def test_funding_is_charged_on_what_was_held_before_the_fill() -> None:
    """A settlement at the open of the fill's bar costs nothing, one bar later 50 units · 0.2."""
    paid = np.zeros((5, 1))
    paid[2:4] = 0.2
    panel = panel_of(np.full((5, 1), 100.0), funding_at_open=paid)
    test = baseline_of(panel, half_in_first(panel), 2, 5)
    before = 10_000 - 5.0 - 5.005
    np.testing.assert_allclose(test.funding, [0.0, -10.0 / before, 0.0], atol=1e-12)


def test_holding_trades_nothing_where_mark_and_price_differ() -> None:
    """Buy and hold has turnover exactly zero after its first bar, whatever the mark does."""
    panel = panel_of(random_close(3, 200, 3))
    basis = 1 + 0.002 * np.random.default_rng(4).standard_normal(panel.close.shape)
    marked = dataclasses.replace(panel, mark_close=panel.close * basis)
    test = baseline_of(marked, buy_and_hold(marked), 10, 200)
    assert test.turnover[0] > 0.9
    assert not test.turnover[1:].any()


def test_cash_earns_nothing() -> None:
    """Cash has no return, no turnover and no weight."""
    panel = panel_of(random_close(3, 50, 2))
    test = baseline_of(panel, cash(panel), 5, 50)
    assert not test.net_return.any()
    assert not test.weights.any()


def test_daily_rebalancing_happens_at_midnight_only() -> None:
    """After the first bar equal weight trades in bars that open at 00:00 and in no other."""
    panel = panel_of(random_close(3, 100, 2))
    test = baseline_of(panel, equal_weight(panel), 30, 100)
    traded = test.open_time[test.turnover > 0]
    assert (traded[1:] % (24 * HOUR_MS) == 0).all()
    assert len(traded) == 1 + 3


def test_windows_and_baselines_in_one_batch_equal_each_alone() -> None:
    """Batching is only speed: every account is bit-equal to its own run."""
    panel = panel_of(random_close(6, 900, 3))
    market = prepare_market(panel, instruments_of(panel))
    plans = {name: rule(panel) for name, rule in BASELINES.items()}
    windows = [window(700 + 50 * k, 750 + 50 * k, k) for k in range(4)]
    batch = run_baselines(market, plans, windows, TERMS)
    for name, plan in plans.items():
        for number, item in enumerate(windows):
            alone = run_baselines(market, {name: plan}, [item], TERMS)[name][0]
            np.testing.assert_array_equal(batch[name][number].equity, alone.equity)
            np.testing.assert_array_equal(batch[name][number].open_time, alone.open_time)


def test_policy_record_equals_the_environments_track(policies: tuple[Policy, ...]) -> None:
    """The batch over scenarios and windows gives what one account alone gives in the simulation."""
    panel = panel_of(random_close(6, 520, 3))
    market = prepare_market(panel, instruments_of(panel))
    found = backtests(panel, policies, [window(400, 460, 0), window(460, 520, 1)])
    for number, start in enumerate((400, 460)):
        policy = policies[number]
        for case in scenarios(COSTS):
            how = TrackRules(
                start_bar=start - 1,
                stop_bar=start + 60,
                costs=case.costs,
                quoted_costs=COSTS,
                rules=TERMS.rules,
                delay_bars=case.delay_bars,
            )
            track = run_track(market, policy_rule(policy, policy.prepare(panel)), how)
            np.testing.assert_allclose(
                found[case.name][number].equity, track.equity[:, 0], rtol=1e-6
            )
            assert found[case.name][number].open_time.tolist() == track.decision_time[:, 0].tolist()


def test_net_return_is_gross_less_cost(policies: tuple[Policy, ...]) -> None:
    """In every scenario, in every bar; and equity compounds the net return."""
    panel = panel_of(random_close(6, 460, 3))
    for (test,) in backtests(panel, policies, [window(400, 460)]).values():
        np.testing.assert_allclose(test.net_return, test.gross_return - test.cost, atol=1e-15)
        np.testing.assert_allclose(test.equity, 10_000 * np.cumprod(1 + test.net_return))


def test_stresses_do_what_they_say(policies: tuple[Policy, ...]) -> None:
    """From the same first decision: costs double, triple; a bar of latency starts a bar later."""
    paid = np.full((460, 3), 0.01)
    panel = panel_of(random_close(6, 460, 3), funding_at_open=paid)
    found = {
        name: tests[0] for name, tests in backtests(panel, policies, [window(400, 460)]).items()
    }
    base = found[BASE]
    assert base.turnover[0] > 0
    assert found[Stress.COST_X2].cost[0] == pytest.approx(2 * base.cost[0], rel=0.01)
    assert found[Stress.COST_X3].cost[0] == pytest.approx(3 * base.cost[0], rel=0.01)
    assert found[Stress.LATENCY].turnover[0] == 0
    assert found[Stress.LATENCY].turnover[1] > 0
    assert found[Stress.FUNDING_X2].funding[1] == pytest.approx(2 * base.funding[1], rel=0.01)
    assert base.funding[1] < 0


def test_the_future_does_not_change_the_record(policies: tuple[Policy, ...]) -> None:
    """Other prices from bar 440 on leave every bar before it as it was."""
    close = random_close(6, 460, 3)
    other = close.copy()
    other[440:] = random_close(9, 20, 3)
    found = backtests(panel_of(close), policies, [window(400, 460)])
    changed = backtests(panel_of(other), policies, [window(400, 460)])
    for name, (test,) in found.items():
        np.testing.assert_array_equal(test.equity[:40], changed[name][0].equity[:40])
        assert not np.array_equal(test.equity[40:], changed[name][0].equity[40:])


def test_joined_windows_are_one_record() -> None:
    """Two windows of +10 % and −10 % and +20 %: equity compounds from the first deposit."""

    def piece(hours: list[int], returns: list[float]) -> Backtest:
        net = np.array(returns)
        return Backtest(
            open_time=START + HOUR_MS * np.array(hours, dtype=np.int64),
            net_return=net,
            gross_return=net,
            turnover=np.zeros(len(net)),
            cost=np.zeros(len(net)),
            funding=np.zeros(len(net)),
            weights=np.zeros((len(net), 2)),
            equity=1_000 * np.cumprod(1 + net),
        )

    whole = join([piece([0, 1], [0.1, -0.1]), piece([2], [0.2])])
    np.testing.assert_allclose(whole.equity, [1_100, 990, 1_188])
    assert len(whole) == 3
    with pytest.raises(ValueError, match="overlap"):
        join([piece([0, 1], [0.1, -0.1]), piece([1], [0.2])])
    with pytest.raises(ValueError, match="no backtests"):
        join([])
