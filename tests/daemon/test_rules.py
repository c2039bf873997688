"""What the settings and the venue's list make of the rules of decisions."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from daemon.rules import check_tradable, decision_rules, with_listed
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
def test_no_account_is_kept_on_a_spot_market(venue: str) -> None:
    """The broker has no arithmetic for it: the message says what works instead."""
    settings = load_settings(None, overrides={"exchange": {"name": venue}})
    assert settings.exchange.symbols[0] == "BTC/USDT"
    with pytest.raises(SettingsError, match=rf"'{venue}'.*backfill.*binanceusdm or bybit"):
        check_tradable(settings)
