"""What the settings say about trading, as the broker's own values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from broker.costs import CostModel, TradingRules
from daemon.decision import DecisionRules
from daemon.settings import Settings, SettingsError
from market.instrument import Instrument, Market
from training.config import preset

QUOTE = "USDT"


def cost_model(settings: Settings) -> CostModel:
    """Costs of the account and of training; the venue's published taker rate by default."""
    costs = settings.costs
    published = settings.exchange.name.taker_fee_rate
    return CostModel(
        fee_rate=published if costs.taker_fee_rate is None else costs.taker_fee_rate,
        half_spread_bps=costs.half_spread_bps,
        impact_coefficient=costs.impact_coefficient,
    )


def trading_rules(settings: Settings) -> TradingRules:
    """Limits of rebalancing."""
    return TradingRules(
        leverage_limit=settings.account.leverage_limit,
        no_trade_band=settings.account.no_trade_band,
        latency_ms=settings.account.latency_ms,
    )


def check_tradable(settings: Settings) -> None:
    """Refuse to keep an account on a market that the broker has no arithmetic for.

    Raises:
        SettingsError: the venue is a spot market.
    """
    name = settings.exchange.name
    if name.market is Market.SPOT:
        raise SettingsError(
            f"exchange.name = {name.value!r}: spot accounts are not supported yet; its market data "
            "can be kept (ballast backfill, data, doctor, sandbox); trade binanceusdm or bybit"
        )


def decision_rules(settings: Settings, instruments: tuple[Instrument, ...]) -> DecisionRules:
    """Everything that ``decide`` goes by."""
    return DecisionRules(
        instruments={one.symbol: one for one in instruments},
        costs=cost_model(settings),
        trading=trading_rules(settings),
        quote=QUOTE,
        sigma_window_bars=preset(settings.training.preset).sigma_window_bars,
        drawdown_limit=settings.protection.drawdown_limit,
    )


def with_listed(rules: DecisionRules, listed: Mapping[str, Instrument]) -> DecisionRules:
    """Take the trading rules that the venue states now; what it no longer lists keeps its own.

    A raised minimum notional counts from the next decision on: an order below it would be refused.
    """
    instruments = {symbol: listed.get(symbol, known) for symbol, known in rules.instruments.items()}
    return rules if instruments == rules.instruments else replace(rules, instruments=instruments)
