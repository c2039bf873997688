"""What the settings say about trading, as the broker's own values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from broker.calibrated_costs import META_KEY, CalibrationRefused, calibrated, read_calibration
from broker.calibration import Origin
from broker.costs import CostModel, Costs, TradingRules
from broker.database import database_exists
from broker.store import Store
from broker.tiers import MarginTable, TiersRejected, read_tiers, shipped_tiers
from daemon.decision import DecisionRules, FillMode
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


def training_costs(settings: Settings, symbols: Sequence[str]) -> Costs:
    """Costs that a training on ``symbols`` pays: of each, where a calibration was saved.

    ``ballast account costs --save`` saves them; evaluation and gates pay the same.

    Raises:
        SettingsError: the saved calibration is not this market's.
        DatabaseUnavailable: the ledger cannot be read.
    """
    configured = cost_model(settings)
    if not database_exists(settings.ledger_url):
        return configured
    store = Store.open(settings.ledger_url)
    try:
        saved = store.meta(META_KEY)
    finally:
        store.close()
    if saved is None:
        return configured
    try:
        return calibrated(
            configured,
            read_calibration(saved),
            symbols,
            account=book_origin(settings),
        )
    except CalibrationRefused as refusal:
        raise SettingsError(str(refusal)) from refusal


def quoted_costs(settings: Settings) -> Costs:
    """What a live policy is told that a trade costs: what training was, else what is configured.

    A calibration that is not this market's stops a training, never the daemon.
    """
    try:
        return training_costs(settings, settings.exchange.symbols)
    except SettingsError:
        return cost_model(settings)


def book_origin(settings: Settings) -> Origin:
    """Whose order books the settings' warehouse holds."""
    own = settings.sandbox.enabled or settings.exchange.base_url is not None
    return Origin(venue=settings.exchange.name.value, is_sandbox=own)


def trading_rules(settings: Settings) -> TradingRules:
    """Limits of rebalancing."""
    return TradingRules(
        leverage_limit=settings.account.leverage_limit,
        no_trade_band=settings.account.no_trade_band,
        latency_ms=settings.account.latency_ms,
        allow_short=settings.account.allow_short,
        participation_cap=settings.account.participation_cap,
        slippage_cap=settings.account.slippage_cap,
    )


def fill_mode(settings: Settings) -> FillMode:
    """Where live orders are filled: ``auto`` is the recorded book, but on a sandbox of one's own.

    Raises:
        SettingsError: books are asked for and none is recorded.
    """
    wanted, depth = settings.account.fills, settings.exchange.book_depth
    if wanted == "book" and depth == 0:
        raise SettingsError(
            "account.fills = 'book' needs recorded books: exchange.book_depth = 0 records none"
        )
    if wanted == "auto":
        return FillMode.MODELLED if settings.sandbox.enabled or not depth else FillMode.BOOK
    return FillMode(wanted)


def margin_table(settings: Settings) -> MarginTable:
    """Maintenance margin of every account and training: the user's file, else the shipped one.

    Raises:
        SettingsError: the file cannot be used, or leaves out a symbol that is followed.
    """
    path = settings.account.margin_tiers
    if path is None:
        return shipped_tiers()
    try:
        table = read_tiers(path)
        table.schedule(settings.exchange.symbols)
        return table
    except TiersRejected as error:
        raise SettingsError(f"account.margin_tiers = {str(path)!r}: {error}") from error


def check_account(settings: Settings) -> None:
    """Refuse an account that cannot be, before anything is opened or made for it.

    Raises:
        SettingsError: margin tiers that cannot be used, fills in books that nobody records, credit
            or shorts on a spot market.
    """
    margin_table(settings)
    fill_mode(settings)
    name, account = settings.exchange.name, settings.account
    if name.market is not Market.SPOT:
        return
    if account.leverage_limit > 1:
        raise SettingsError(
            f"account.leverage_limit = {account.leverage_limit:g}: {name.value} is a spot market "
            "and lends nothing; give 1 or less, or trade binanceusdm or bybit"
        )
    if account.allow_short:
        raise SettingsError(
            f"account.allow_short = true: on {name.value}, a spot market, nothing can be sold that "
            "is not held; leave it out, or trade binanceusdm or bybit"
        )


def decision_rules(
    settings: Settings, instruments: tuple[Instrument, ...], *, quoted: Costs | None = None
) -> DecisionRules:
    """Everything that ``decide`` goes by.

    ``quoted`` are the costs that the policy is told of (``quoted_costs``), by default what the
    account is charged.
    """
    costs = cost_model(settings)
    return DecisionRules(
        instruments={one.symbol: one for one in instruments},
        costs=costs,
        quoted_costs=costs if quoted is None else quoted,
        trading=trading_rules(settings),
        margin=margin_table(settings),
        market=settings.exchange.name.market,
        fills=fill_mode(settings),
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
