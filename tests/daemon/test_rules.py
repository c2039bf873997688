"""What the settings and the venue's list make of the rules of decisions."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from broker.calibrated_costs import META_KEY, write_calibration
from broker.calibration import Calibration, Estimate, Origin, Source, SymbolCosts
from broker.costs import AssetCosts
from broker.store import Store
from daemon.rules import (
    check_account,
    cost_model,
    decision_rules,
    margin_table,
    quoted_costs,
    training_costs,
    with_listed,
)
from daemon.settings import DEFAULT_SYMBOLS, Settings, SettingsError, load_settings
from market.instrument import Venue
from market.sandbox.rules import list_instruments

BTC, ETH = DEFAULT_SYMBOLS[:2]
INSTRUMENTS = list_instruments(DEFAULT_SYMBOLS, venue=Venue.BINANCEUSDM)
RULES = decision_rules(Settings(), INSTRUMENTS)


def test_a_raised_minimum_notional_counts_from_the_next_decision() -> None:
    """The venue's newest rules replace the old ones; order and the other symbols stay."""
    raised = replace(RULES.instruments[BTC], min_notional=Decimal(500))
    rules = with_listed(RULES, {BTC: raised, ETH: RULES.instruments[ETH]})
    assert rules.instruments[BTC].min_notional == 500
    assert list(rules.instruments) == list(DEFAULT_SYMBOLS)
    assert rules.instruments[ETH] == RULES.instruments[ETH]


def test_a_symbol_that_left_the_list_keeps_its_rules() -> None:
    """Its position must still be valued in lots; an unknown list changes nothing."""
    assert with_listed(RULES, {}) is RULES


@pytest.mark.parametrize("venue", ["binance", "bybitspot"])
@pytest.mark.parametrize(("key", "value"), [("leverage_limit", 2.0), ("allow_short", True)])
def test_spot_account_has_neither_credit_nor_shorts(venue: str, key: str, value: float) -> None:
    """The message names the key, its value, the venue and what works instead."""
    spot: dict[str, Any] = {"exchange": {"name": venue}}
    check_account(load_settings(None, overrides=spot))
    settings = load_settings(None, overrides=spot | {"account": {key: value}})
    with pytest.raises(SettingsError, match=rf"account.{key} = .*{venue}.*binanceusdm or bybit"):
        check_account(settings)
    check_account(load_settings(None, overrides={"account": {key: value}}))


def test_margin_tiers_must_cover_every_symbol(tmp_path: Path) -> None:
    """Said before the start, by the key, the file and the symbol: not at the first position."""
    path = tmp_path / "tiers.json"
    rest = '"since": "2024-01-01", "tiers": [[0, 0.01]], "liquidation_fee": 0.02'
    settings = load_settings(None, overrides={"account": {"margin_tiers": path}})
    path.write_text(f'{{"ladders": [{{"symbol": "{BTC}", {rest}}}]}}')
    with pytest.raises(SettingsError, match=rf"account.margin_tiers = .*{path}.*{ETH}"):
        margin_table(settings)
    path.write_text(f'{{"ladders": [{{"symbol": "*", {rest}}}]}}')
    assert margin_table(settings).of(ETH)[0].liquidation_fee == 0.02


def saved_settings(folder: Path, *, is_sandbox: bool) -> Settings:
    """Settings whose ledger holds a calibration of BTC: 3 bps and κ of 0.7, books of so-and-so."""
    settings = Settings(state_dir=folder)
    whose = Origin(venue=settings.exchange.name.value, is_sandbox=is_sandbox)
    source = Source(origin=whose, since=0, until=1, snapshots=200, method="test")
    spread = Estimate(value=3.0, low=2.9, high=3.1, confidence=0.95, source=source)
    found = SymbolCosts(
        half_spread_bps=spread, impact_coefficient=replace(spread, value=0.7), half_tick_bps=0.1
    )
    store = Store.open(settings.ledger_url)
    calibration = Calibration(origin=whose, fee_rate=0.0005, symbols={BTC: found})
    store.set_meta(META_KEY, write_calibration(calibration))
    store.close()
    return settings


def test_training_pays_what_was_calibrated(tmp_path: Path) -> None:
    """BTC as calibrated, the four others as configured; the policy is told the same live."""
    settings = saved_settings(tmp_path, is_sandbox=False)
    configured, costs = cost_model(settings), training_costs(settings, DEFAULT_SYMBOLS)
    assert costs == AssetCosts(
        fee_rate=configured.fee_rate,
        half_spread_bps=(3.0, *[configured.half_spread_bps] * 4),
        impact_coefficient=(0.7, *[configured.impact_coefficient] * 4),
    )
    assert quoted_costs(settings) == costs


def test_training_without_a_calibration_pays_what_is_configured(tmp_path: Path) -> None:
    """Neither a missing ledger nor one without a calibration is touched or complained about."""
    settings = Settings(state_dir=tmp_path)
    assert training_costs(settings, DEFAULT_SYMBOLS) == cost_model(settings)
    assert list(tmp_path.iterdir()) == []
    Store.open(settings.ledger_url).close()
    assert training_costs(settings, DEFAULT_SYMBOLS) == cost_model(settings)


def test_training_refuses_a_calibration_on_a_sandboxs_books(tmp_path: Path) -> None:
    """It ends with the reason and the remedy, not with costs that nobody would ever pay."""
    settings = saved_settings(tmp_path, is_sandbox=True)
    with pytest.raises(SettingsError, match=r"sandbox never count.*ballast account costs --save"):
        training_costs(settings, DEFAULT_SYMBOLS)
    assert quoted_costs(settings) == cost_model(settings)
