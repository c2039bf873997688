"""What the settings and the venue's list make of the rules of decisions."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from daemon.rules import check_account, decision_rules, with_listed
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
