"""Shadow accounts: each is what it would have been alone, and all are stored together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from broker.execution import latest_liquidity
from broker.records import DecisionRecord
from broker.store import Store
from daemon.decide import decide
from daemon.decision import DecisionInputs, DecisionState, Effects, Target
from daemon.journal import Journal
from daemon.loop import effects_commit
from daemon.page_rows import shadow_row
from daemon.settings import DEFAULT_SYMBOLS, Settings, SettingsError, load_settings
from daemon.shadows import Shadow, Shadows, open_shadows
from daemon.signal_desk import SignalDesk
from daemon.targets import CashTarget, EqualWeightTarget, HoldTarget, PolicyTarget
from market.bar import HOUR_MS
from market.clock import ManualClock
from market.warehouse import Warehouse
from tests.daemon.test_decide import FLAT, RULES, SYMBOLS, T0, Half, fresh_state, panel
from tests.training.learner_models import trained
from tests.training.test_registry import record as model_record
from training.artefact import write_artefact
from training.inference import Policy
from training.registry import Registry

TARGETS: dict[str, Target] = {"half": Half(), "equal": EqualWeightTarget(), "cash": CashTarget()}


def inputs(hour: int) -> DecisionInputs:
    """A market that moves a little in every hour."""
    time = T0 + hour * HOUR_MS
    prices = [*FLAT, (100.0 + hour, 50.0 - hour / 2), (101.0 + hour, 49.0)]
    bars = panel(prices, end=time)
    return DecisionInputs(
        decision_time=time,
        decided_at=time + 1_500,
        panel=bars,
        liquidity=latest_liquidity(bars),
        settlements=(),
        target=HoldTarget(),
        reason="the main account holds",
    )


def desk(warehouse: Warehouse) -> SignalDesk:
    """Signals of an empty store."""
    return SignalDesk(store=warehouse, clock=ManualClock(T0))


def decide_all(shadows: Shadows, given: DecisionInputs) -> list[tuple[DecisionState, Effects]]:
    """One decision of every shadow."""
    return shadows.decide(given, shadows.targets(given.panel.close_time), RULES)


def test_each_account_is_what_it_would_be_alone(empty_warehouse: Warehouse) -> None:
    """Five decisions side by side: every order, fill and posting as of one account at a time."""
    shadows = Shadows(
        [
            Shadow(account_id=n, target=t, state=fresh_state(), deposit_quote=10_000.0)
            for n, t in TARGETS.items()
        ],
        signals=desk(empty_warehouse),
    )
    alone = dict.fromkeys(TARGETS, fresh_state())
    traded = 0
    for hour in range(5):
        decided = decide_all(shadows, inputs(hour))
        shadows.move_on(decided)
        for (name, target), (_, effects) in zip(TARGETS.items(), decided, strict=True):
            given = replace(inputs(hour), target=target, reason="a shadow account")
            alone[name], expected = decide(alone[name], given, RULES)
            assert effects == expected
            traded += len(effects.fills)
    assert traded > 5


def test_shadow_is_shown_by_its_target_return_and_decisions(empty_warehouse: Warehouse) -> None:
    """Two decisions and a missed one; 250 of equity on a deposit of 200 is a quarter more."""
    shadow = Shadow(
        account_id="equal", target=EqualWeightTarget(), state=fresh_state(), deposit_quote=200.0
    )
    shadows = Shadows([shadow], signals=desk(empty_warehouse))
    for hour in range(3):
        given = replace(inputs(hour), target=None) if hour == 1 else inputs(hour)
        shadows.move_on(decide_all(shadows, given))
    shadow.state = replace(shadow.state, equity=250.0)
    row = shadow_row(shadow)
    assert (row.account_id, row.target, row.decisions) == ("equal", "equal_weight", 2)
    assert row.total_return == pytest.approx(0.25)
    model = cast(Policy, SimpleNamespace(model_id="m-1"))
    assert shadow_row(replace(shadow, target=PolicyTarget(policy=model))).target == "m-1"


def test_missed_decision_is_missed_by_all(empty_warehouse: Warehouse) -> None:
    """Nobody was there: no account trades, and each record says why."""
    shadow = Shadow(account_id="half", target=Half(), state=fresh_state(), deposit_quote=10_000.0)
    missed = replace(inputs(0), target=None, reason="missed: 90 s late")
    ((_, effects),) = decide_all(Shadows([shadow], signals=desk(empty_warehouse)), missed)
    assert (effects.record.status, effects.record.reason) == ("missed", "missed: 90 s late")
    assert effects.orders == ()


def opened(
    settings: Settings,
    store: Store,
    warehouse: Warehouse,
    *,
    main: DecisionRecord | None = None,
) -> Shadows:
    """The shadows of ``settings`` beside a main account whose last decision is ``main``."""
    registry = Registry.open(settings.ledger_url)
    try:
        return open_shadows(
            settings, store, registry, Journal(store, now=lambda: T0), main=main,
            opened_at=T0 - HOUR_MS, rules=RULES, signals=desk(warehouse),
        )  # fmt: skip
    finally:
        registry.close()


def configured(folder: Path, *shadows: dict[str, object]) -> Settings:
    """Settings with these shadows."""
    return Settings.model_validate({"state_dir": folder, "shadows": shadows})


def test_accounts_are_opened_with_their_deposits(
    tmp_path: Path, empty_warehouse: Warehouse
) -> None:
    """The main account's deposit unless another one is given; each has its own chain."""
    settings = configured(
        tmp_path,
        {"id": "cash", "target": "cash"},
        {"id": "equal", "target": "equal_weight", "deposit_quote": 500},
    )
    store = Store.open(settings.ledger_url)
    shadows = opened(settings, store, empty_warehouse)
    assert [float(one.state.account.wallet) for one in shadows.accounts] == [10_000.0, 500.0]
    assert [one.deposit_quote for one in shadows.accounts] == [10_000.0, 500.0]
    assert [store.check(name) for name in ("cash", "equal")] == [[], []]
    store.close()


def test_account_that_stands_elsewhere_is_refused(
    tmp_path: Path, empty_warehouse: Warehouse
) -> None:
    """A shadow that was left out for a while has a gap that nobody settled."""
    settings = configured(tmp_path, {"id": "half", "target": "cash"})
    store = Store.open(settings.ledger_url)
    shadows = opened(settings, store, empty_warehouse)
    ((_, effects),) = decide_all(shadows, inputs(0))
    record = replace(effects.record, account_id="half")
    store.commit_decision(record)
    with pytest.raises(SettingsError, match="half was last decided at 2.*another id"):
        opened(settings, store, empty_warehouse)
    store.close()


def test_shadow_that_holds_a_symbol_no_longer_followed_is_refused(
    tmp_path: Path, empty_warehouse: Warehouse
) -> None:
    """It would be without prices for ever; the message names the account and the symbol."""
    settings = configured(tmp_path, {"id": "half", "target": "cash"})
    store = Store.open(settings.ledger_url)
    (one,) = opened(settings, store, empty_warehouse).accounts
    half, decided = one.state, []
    steps: list[Target] = [Half(), HoldTarget()]
    for hour, target in enumerate(steps):
        half, effects = decide(half, replace(inputs(hour), target=target), RULES)
        decided.append(effects)
    store.commit_decisions(list(map(effects_commit, decided)))
    main = decided[-1].record
    opened(settings, store, empty_warehouse, main=main)
    fewer = settings.model_copy(
        update={"exchange": settings.exchange.model_copy(update={"symbols": SYMBOLS[1:]})}
    )
    with pytest.raises(SettingsError, match=f"exchange.symbols: account half holds {SYMBOLS[0]}"):
        opened(fewer, store, empty_warehouse, main=main)
    store.close()


@pytest.mark.parametrize(
    ("shadows", "words"),
    [
        (('id = "main"\ntarget = "cash"',), "two accounts are named main"),
        (('id = "a"\ntarget = "cash"',) * 2, "two accounts are named a"),
        (('id = "a"',), "give either target"),
        (('id = "a"\ntarget = "cash"\nmodel = "m"',), "give either target"),
        (('id = "a"\ntarget = "gold"',), "'cash' or 'equal_weight'"),
    ],
)
def test_bad_shadows_are_refused(tmp_path: Path, shadows: tuple[str, ...], words: str) -> None:
    """The key and the remedy are named."""
    path = tmp_path / "ballast.toml"
    path.write_text("\n".join(f"[[shadows]]\n{each}" for each in shadows))
    with pytest.raises(SettingsError, match=rf"(?s)shadows.*{words}"):
        load_settings(path)


def test_unknown_model_is_refused(tmp_path: Path, empty_warehouse: Warehouse) -> None:
    """Before anything is decided."""
    settings = configured(tmp_path, {"id": "other", "model": "nobody"})
    store = Store.open(settings.ledger_url)
    with pytest.raises(SettingsError, match="model 'nobody' of account other"):
        opened(settings, store, empty_warehouse)
    store.close()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({}, None),
        ({"exchange": {"interval": "15m"}}, "every 3600000 ms"),
        ({"exchange": {"symbols": DEFAULT_SYMBOLS}}, "trained on A0/USDT:USDT"),
        ({"account": {"leverage_limit": 0.5}}, "leverage of 1, account.leverage_limit is 0.5"),
    ],
)
def test_shadows_model_must_fit_as_a_champion_must(
    tmp_path: Path, empty_warehouse: Warehouse, section: dict[str, Any], words: str | None
) -> None:
    """Other bars, other symbols or more credit than the account has: said before the start."""
    artefact = trained().artefact
    write_artefact(artefact, tmp_path / "model")
    values: dict[str, Any] = {
        "state_dir": tmp_path,
        "exchange": {"symbols": artefact.schema.symbols} | section.get("exchange", {}),
        "account": section.get("account", {}),
        "shadows": [{"id": "other", "model": "m"}],
    }
    settings = Settings.model_validate(values)
    store = Store.open(settings.ledger_url)
    registry = Registry.open(settings.ledger_url)
    registry.register(replace(model_record("m"), artefact_path=tmp_path / "model"), judged_at=5)
    registry.close()
    if words is None:
        assert len(opened(settings, store, empty_warehouse).accounts) == 1
    else:
        with pytest.raises(SettingsError, match=f"model 'm' of account other: .*{words}"):
            opened(settings, store, empty_warehouse)
        assert store.account_ids() == ()
    store.close()
