"""A symbol's trading rules as Bybit words them in ``instruments-info``, linear and spot.

Tick, lot step, minimum quantity and notional and the largest market order are the tape's; what no
tape states (leverage, price bounds) holds the venue's usual constants.
"""

from __future__ import annotations

from market.instrument import Instrument
from market.sandbox.dialect import Json, decimal_text
from market.sandbox.playback import decimal_places


def linear_rules(instrument: Instrument, *, launch_time: int) -> Json:
    """Trading rules of category linear; leverage figures are the venue's usual constants."""
    tick, step = instrument.tick_size, instrument.lot_step
    # Limit orders may be larger than market orders; tapes state only the latter.
    most = instrument.max_quantity
    largest = decimal_text(most * 10 if most is not None else step * 10**9)
    lot_size: dict[str, Json] = {
        "maxOrderQty": largest,
        "minOrderQty": decimal_text(instrument.min_quantity),
        "qtyStep": decimal_text(step),
        "postOnlyMaxOrderQty": largest,
    }
    if most is not None:
        lot_size["maxMktOrderQty"] = decimal_text(most)
    lot_size["minNotionalValue"] = decimal_text(instrument.min_notional)
    return {
        "symbol": instrument.venue_symbol,
        "contractType": "LinearPerpetual",
        "status": _status(instrument),
        "baseCoin": instrument.base,
        "quoteCoin": instrument.quote,
        "launchTime": str(launch_time),
        "deliveryTime": "0",
        "deliveryFeeRate": "",
        "priceScale": str(decimal_places(tick)),
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "priceFilter": {
            "minPrice": decimal_text(tick),
            "maxPrice": decimal_text(tick * 10**8),
            "tickSize": decimal_text(tick),
        },
        "lotSizeFilter": lot_size,
        "unifiedMarginTrade": True,
        "fundingInterval": instrument.funding_interval_minutes,
        "settleCoin": instrument.quote,
        "copyTrading": "none",
    }


def spot_rules(instrument: Instrument) -> Json:
    """Trading rules of category spot: its lots have other names and it knows no funding."""
    most = instrument.max_quantity
    largest = most if most is not None else instrument.lot_step * 10**9
    return {
        "symbol": instrument.venue_symbol,
        "baseCoin": instrument.base,
        "quoteCoin": instrument.quote,
        "innovation": "0",
        "status": _status(instrument),
        "marginTrading": "utaOnly",
        "lotSizeFilter": {
            "basePrecision": decimal_text(instrument.lot_step),
            "quotePrecision": "0.0000001",
            "minOrderQty": decimal_text(instrument.min_quantity),
            "maxOrderQty": decimal_text(largest),
            "minOrderAmt": decimal_text(instrument.min_notional),
            "maxOrderAmt": "4000000",
        },
        "priceFilter": {"tickSize": decimal_text(instrument.tick_size)},
    }


def _status(instrument: Instrument) -> str:
    return "Trading" if instrument.is_trading else "Closed"
